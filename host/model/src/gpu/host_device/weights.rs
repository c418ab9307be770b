//! Weights in the order of the kernels, read back to f32 a tile's outputs at a time.

use half::f16;
use sluice_checkpoint::nf4::TABLE;
use sluice_kernels::{Matrix, TILE, WeightForm};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers::widen;

/// Outputs and inputs of a tile.
pub(super) const OUTPUTS: usize = TILE.0 as usize;
const INPUTS: usize = TILE.1 as usize;

/// Lanes of a warp.
const LANES: usize = 32;

pub(super) struct Weights<'a> {
    stored: Stored<'a>,
    pub(super) inputs: usize,
    unit: f32,
}

enum Stored<'a> {
    Bf16(&'a [u16]),
    Int8 { codes: &'a [u8], scales: &'a [f32] },
    Nf4 { codes: &'a [u8], scales: &'a [u16], pairs: Box<[[f32; 2]; 256]> },
}

impl<'a> Weights<'a> {
    pub(super) fn read(memory: &'a Memory, matrix: &Matrix) -> Result<Self, Fault> {
        let (outputs, inputs) = (matrix.outputs as usize, matrix.inputs as usize);
        let whole = outputs.is_multiple_of(OUTPUTS) && inputs.is_multiple_of(INPUTS);
        expect(whole, "matrix", || format!("is {outputs} by {inputs}, expected whole tiles of {OUTPUTS} by {INPUTS}"))?;
        let unscaled = matrix.form != WeightForm::Bf16 || matrix.unit == 1.0;
        expect(unscaled, "matrix.unit", || format!("is {}, and bf16 weights have none: expected 1", matrix.unit))?;
        let count = outputs.saturating_mul(inputs);
        let (weights, scales) = ("matrix.weights", "matrix.scales");
        let stored = match matrix.form {
            WeightForm::Bf16 => Stored::Bf16(memory.read_many(weights, matrix.weights, count)?),
            WeightForm::Int8 => Stored::Int8 {
                codes: memory.read_many(weights, matrix.weights, count)?,
                scales: memory.read_many(scales, matrix.scales, outputs)?,
            },
            WeightForm::Nf4 => Stored::Nf4 {
                codes: memory.read_many(weights, matrix.weights, count / 2)?,
                scales: memory.read_many(scales, matrix.scales, count / INPUTS)?,
                pairs: pairs(),
            },
        };
        Ok(Self { stored, inputs, unit: matrix.unit })
    }

    /// The weights of one tile's outputs, `[OUTPUTS][inputs]`.
    pub(super) fn strip(&self, tile: usize, out: &mut [f32]) {
        let per_strip = OUTPUTS * self.inputs;
        match &self.stored {
            Stored::Bf16(weights) => {
                let weights = &weights[tile * per_strip..][..per_strip];
                out.iter_mut().zip(weights).for_each(|(out, weight)| *out = widen(*weight));
            }
            Stored::Int8 { codes, scales } => {
                self.int8(&codes[tile * per_strip..][..per_strip], &scales[tile * OUTPUTS..][..OUTPUTS], out);
            }
            Stored::Nf4 { codes, scales, pairs } => {
                let scales = &scales[tile * per_strip / INPUTS..][..per_strip / INPUTS];
                self.nf4(&codes[tile * per_strip / 2..][..per_strip / 2], scales, pairs, out);
            }
        }
    }

    /// Sixteen bytes of a lane are four inputs of row g, four more, and the same of row g + 8.
    fn int8(&self, codes: &[u8], scales: &[f32], out: &mut [f32]) {
        for (index, bytes) in codes.chunks_exact(16).enumerate() {
            let (tile, half, lane) = (index / (2 * LANES), index / LANES % 2, index % LANES);
            for (word, bytes) in bytes.chunks_exact(4).enumerate() {
                let row = lane / 4 + 8 * (word / 2);
                let first = tile * INPUTS + 32 * half + 8 * (lane % 4) + 4 * (word % 2);
                let out = &mut out[row * self.inputs + first..][..4];
                out.iter_mut()
                    .zip(bytes)
                    .for_each(|(out, byte)| *out = f32::from(*byte as i8) * scales[row] * self.unit);
            }
        }
    }

    /// Sixteen bytes of a lane are eight inputs of row g, of row g + 8, and the same in the second half.
    fn nf4(&self, codes: &[u8], scales: &[u16], pairs: &[[f32; 2]; 256], out: &mut [f32]) {
        for (tile, (codes, scales)) in codes.chunks_exact(16 * LANES).zip(scales.chunks_exact(OUTPUTS)).enumerate() {
            for (lane, bytes) in codes.chunks_exact(16).enumerate() {
                for (word, bytes) in bytes.chunks_exact(4).enumerate() {
                    let (group, second) = (lane / 4, word % 2);
                    let scale = f16::from_bits(scales[2 * group + second]).to_f32() * self.unit;
                    let first = tile * INPUTS + 32 * (word / 2) + 8 * (lane % 4);
                    let out = &mut out[(group + 8 * second) * self.inputs + first..][..8];
                    for (out, byte) in out.chunks_exact_mut(2).zip(bytes) {
                        let [even, odd] = pairs[usize::from(*byte)];
                        (out[0], out[1]) = (even * scale, odd * scale);
                    }
                }
            }
        }
    }
}

/// What each byte of two codes stands for, the one in its high bits first.
fn pairs() -> Box<[[f32; 2]; 256]> {
    Box::new(std::array::from_fn(|byte| [TABLE[byte >> 4], TABLE[byte & 15]]))
}
