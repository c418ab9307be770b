//! Root-mean-square normalisation: x / sqrt(mean(x²) + eps) · weight.

use pulp::{Arch, Simd, WithSimd};

use crate::blueprint::Norm;
use sluice_checkpoint::LoadError;
use sluice_checkpoint::Weights;

/// Partial sums: always as many, whatever the processor's registers hold, so that every machine adds alike.
const LANES: usize = 16;

pub(crate) struct RmsNorm {
    weight: Vec<f32>,
    eps: f32,
}

impl RmsNorm {
    pub(crate) fn load(weights: &Weights, norm: &Norm, eps: f64) -> Result<Self, LoadError> {
        Ok(Self { weight: weights.vector(&format!("{}.weight", norm.name), norm.width)?, eps: eps as f32 })
    }

    /// Each row of `x` on its own.
    pub(crate) fn forward(&self, x: &[f32], out: &mut [f32]) {
        out.copy_from_slice(x);
        self.in_place(out);
    }

    pub(crate) fn in_place(&self, x: &mut [f32]) {
        Arch::new().dispatch(Normalize { norm: self, x });
    }
}

struct Normalize<'a> {
    norm: &'a RmsNorm,
    x: &'a mut [f32],
}

impl WithSimd for Normalize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let RmsNorm { weight, eps } = self.norm;
        for x in self.x.chunks_exact_mut(weight.len()) {
            let scale = 1.0 / (mean_of_squares(x) + eps).sqrt();
            for (x, weight) in x.iter_mut().zip(weight) {
                *x = *x * scale * weight;
            }
        }
    }
}

#[inline(always)]
fn mean_of_squares(x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    let (chunks, rest) = x.as_chunks::<LANES>();
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum = x.mul_add(*x, *sum);
        }
    }
    for (sum, x) in sums.iter_mut().zip(rest) {
        *sum = x.mul_add(*x, *sum);
    }
    let mut sum = 0.0;
    for lane in sums {
        sum += lane;
    }
    sum / x.len() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_equal_numbers_becomes_its_weights() {
        let norm = RmsNorm { weight: (0..19).map(|x| x as f32).collect(), eps: 0.0 };
        let mut out = vec![0.0; 38];
        norm.forward(&[[3.0; 19], [-7.0; 19]].concat(), &mut out);
        for (index, value) in out.iter().enumerate() {
            let sign = if index < 19 { 1.0 } else { -1.0 };
            assert!((value - sign * (index % 19) as f32).abs() < 1e-5, "{index}: {value}");
        }
    }
}
