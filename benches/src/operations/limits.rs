//! How far numbers may be from those that are expected.

use super::view::View;

/// Of each number's difference, as a share of what is expected and of its row's root of the mean square together; and of
/// the root of all differences' mean square, as a share of the same of all numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) each: f64,
    pub(crate) mean: f64,
}

/// Two roundings to bf16 that went apart, by 1/256 at most, and little before them.
pub(crate) const ROUNDED: Limits = Limits { each: 6e-3, mean: 3e-3 };

/// Numbers that were rounded to bf16 on the way, too: weights of a card's products by their scales.
pub(crate) const SCALED: Limits = Limits { each: 2.5e-2, mean: 6e-3 };

/// A product of two such numbers.
pub(crate) const GATED: Limits = Limits { each: 8e-2, mean: 1.2e-2 };

/// Of bf16 weights, gated.
pub(crate) const GATED_ROUNDED: Limits = Limits { each: 1.2e-2, mean: 4e-3 };

/// What rounds the weights of values to bf16 before it adds them up.
pub(crate) const ATTENDED: Limits = Limits { each: 2.5e-2, mean: 6e-3 };

/// Found and expected, of so many columns. Gives the mean difference.
pub(crate) fn hold(
    limits: Limits,
    pairs: &[(View, View)],
    found: impl Fn(&View) -> Vec<f32>,
    expected: impl Fn(&View) -> Vec<f32>,
) -> Result<f64, String> {
    let (mut squares, mut differences) = (0.0, 0.0);
    for (found_at, expected_at) in pairs {
        let (found, expected) = (found(found_at), expected(expected_at));
        let width = found_at.columns.len().max(1);
        for (row, (found, expected)) in found.chunks(width).zip(expected.chunks(width)).enumerate() {
            let square: f64 = expected.iter().map(|number| f64::from(*number).powi(2)).sum();
            let rms = (square / width as f64).sqrt();
            for (column, (found, expected)) in found_at.columns.clone().zip(found.iter().zip(expected)) {
                let difference = f64::from(*found) - f64::from(*expected);
                let share = difference.abs() / (f64::from(expected.abs()) + rms);
                // Not a number either, where both are zero.
                if difference != 0.0 && (share.is_nan() || share > limits.each) {
                    let place = format!("number {column} of row {row}");
                    return Err(format!("{place} is {found}, expected {expected}: off by {share:.1e}"));
                }
                differences += difference * difference;
            }
            squares += square;
        }
    }
    let mean = if differences > 0.0 { (differences / squares).sqrt() } else { 0.0 };
    if mean <= limits.mean { Ok(mean) } else { Err(format!("off by {mean:.1e} in the mean")) }
}
