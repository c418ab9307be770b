//! The residual sum and its root-mean-square normalisation.

use sluice_kernels::Layout;
use sluice_kernels::op::{Activations, Norm, Sum};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers;

/// Numbers of a row that a block of the kernel has threads for.
const WIDEST: u32 = 8192;

pub(super) fn norm(op: &Norm, memory: &mut Memory) -> Result<(), Fault> {
    expect(op.width <= WIDEST, "hidden", || format!("has rows of {}, expected at most {WIDEST}", op.width))?;
    let (rows, width) = (op.rows as usize, op.width as usize);
    let residual = Activations { at: op.hidden, layout: Layout::Rows };
    let mut hidden = numbers::read_rows(memory, "hidden", residual, rows, width)?;
    if let Some(sum) = op.delta {
        let delta = numbers::read_sum(memory, "delta", sum, rows, width)?;
        add(&mut hidden, &delta, matches!(sum, Sum::Parts { .. }));
    }
    let weight = numbers::read(memory, "weight", op.weight, width)?;
    let normed: Vec<f32> =
        hidden.chunks(width.max(1)).flat_map(|row| normalized(row, width, op.eps, &weight)).collect();
    numbers::write_rows(memory, "hidden", residual, width, &hidden)?;
    numbers::write_rows(memory, "out", op.out, width, &normed)
}

/// Rounded as the residual stream is; and so are parts that were never written down as one.
fn add(hidden: &mut [f32], delta: &[f32], in_parts: bool) {
    for (hidden, delta) in hidden.iter_mut().zip(delta) {
        let delta = if in_parts { numbers::rounded(*delta) } else { *delta };
        *hidden = numbers::rounded(*hidden + delta);
    }
}

/// x / sqrt(mean(x²) + eps) · weight, where the mean is over `width` numbers: the others are zeros of padding.
pub(super) fn normalized(x: &[f32], width: usize, eps: f32, weight: &[f32]) -> impl Iterator<Item = f32> {
    let squares: f64 = x.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
    let scale = (squares / width as f64 + f64::from(eps)).sqrt().recip() as f32;
    x.iter().zip(weight).map(move |(x, weight)| weight * (x * scale))
}
