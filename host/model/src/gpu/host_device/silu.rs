//! The gate of the feed-forward block, where the product before it left it open.

use sluice_kernels::Layout;
use sluice_kernels::op::{Activations, SiluMul};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers;
use crate::layers::math::silu;

/// Numbers of the gate that follow each other, and of what they gate.
const OCT: usize = 8;

pub(super) fn silu_mul(op: &SiluMul, memory: &mut Memory) -> Result<(), Fault> {
    let (rows, width) = (op.rows as usize, op.width as usize);
    expect(width.is_multiple_of(OCT), "out", || format!("has rows of {width}, expected a multiple of {OCT}"))?;
    let from = Activations { at: op.gate_up, layout: Layout::Rows };
    let gate_up = numbers::read_rows(memory, "gate_up", from, rows, 2 * width)?;
    numbers::write_rows(memory, "out", op.out, width, &gated(&gate_up).collect::<Vec<_>>())
}

/// silu(gate) · up of numbers in the order of [`sluice_kernels::pack::interleaved_row`].
pub(super) fn gated(gate_up: &[f32]) -> impl Iterator<Item = f32> {
    gate_up.chunks_exact(2 * OCT).flat_map(|pair| {
        let (gate, up) = pair.split_at(OCT);
        gate.iter().zip(up).map(|(gate, up)| silu(*gate) * up)
    })
}
