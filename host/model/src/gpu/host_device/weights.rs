//! Weights in the order of the kernels, read back to f32 a tile's outputs at a time.

use half::f16;
use sluice_checkpoint::nf4::TABLE;
use sluice_kernels::op::BlockScales;
use sluice_kernels::{Matrix, TILE, WeightForm};

use super::fault::{Fault, expect};
use super::memory::Memory;
use super::numbers::widen;

/// Outputs and inputs of a tile.
pub(super) const OUTPUTS: usize = TILE.0 as usize;
const INPUTS: usize = TILE.1 as usize;

/// Lanes of a warp.
const LANES: usize = 32;

/// Blocks whose scales were quantised together.
const GROUP: usize = sluice_checkpoint::nf4::NESTED_BLOCK;

pub(super) struct Weights<'a> {
    stored: Stored<'a>,
    pub(super) inputs: usize,
    unit: f32,
}

enum Stored<'a> {
    Bf16(&'a [u16]),
    Int8 { codes: &'a [u8], scales: &'a [f32] },
    Nf4 { codes: &'a [u8], scales: Scales<'a>, pairs: Box<[[f32; 2]; 256]> },
}

/// Of blocks, in the order of the kernels.
enum Scales<'a> {
    /// Times a unit.
    F16(&'a [u16], f32),
    F32(&'a [f32]),
    Nested {
        codes: &'a [u8],
        map: &'a [f32],
        groups: &'a [f32],
        first_blocks: &'a [i32],
    },
}

impl<'a> Weights<'a> {
    /// As products do.
    pub(super) fn read(memory: &'a Memory, matrix: &Matrix) -> Result<Self, Fault> {
        Self::read_exactly(memory, matrix, BlockScales::Own)
    }

    pub(super) fn read_exactly(memory: &'a Memory, matrix: &Matrix, scales: BlockScales) -> Result<Self, Fault> {
        let has_own = matrix.form == WeightForm::Nf4 || scales == BlockScales::Own;
        expect(has_own, "scales", || "are of blocks, which only nf4 has".into())?;
        let (outputs, inputs) = (matrix.outputs as usize, matrix.inputs as usize);
        let whole = outputs.is_multiple_of(OUTPUTS) && inputs.is_multiple_of(INPUTS);
        expect(whole, "matrix", || format!("is {outputs} by {inputs}, expected whole tiles of {OUTPUTS} by {INPUTS}"))?;
        let unscaled = matrix.form != WeightForm::Bf16 || matrix.unit == 1.0;
        expect(unscaled, "matrix.unit", || format!("is {}, and bf16 weights have none: expected 1", matrix.unit))?;
        let count = outputs.saturating_mul(inputs);
        let (weights, own) = ("matrix.weights", "matrix.scales");
        let stored = match matrix.form {
            WeightForm::Bf16 => Stored::Bf16(memory.read_many(weights, matrix.weights, count)?),
            WeightForm::Int8 => Stored::Int8 {
                codes: memory.read_many(weights, matrix.weights, count)?,
                scales: memory.read_many(own, matrix.scales, outputs)?,
            },
            WeightForm::Nf4 => Stored::Nf4 {
                codes: memory.read_many(weights, matrix.weights, count / 2)?,
                scales: Scales::read(memory, matrix, scales)?,
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
                self.nf4(&codes[tile * per_strip / 2..][..per_strip / 2], tile, scales, pairs, out);
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
    fn nf4(&self, codes: &[u8], strip: usize, scales: &Scales<'_>, pairs: &[[f32; 2]; 256], out: &mut [f32]) {
        for (tile, codes) in codes.chunks_exact(16 * LANES).enumerate() {
            let scales: [f32; OUTPUTS] =
                std::array::from_fn(|place| scales.get(strip, self.inputs / INPUTS, tile, place));
            for (lane, bytes) in codes.chunks_exact(16).enumerate() {
                for (word, bytes) in bytes.chunks_exact(4).enumerate() {
                    let (group, second) = (lane / 4, word % 2);
                    let scale = scales[2 * group + second];
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

impl<'a> Scales<'a> {
    fn read(memory: &'a Memory, matrix: &Matrix, scales: BlockScales) -> Result<Self, Fault> {
        let (outputs, blocks) = (matrix.outputs as usize, matrix.inputs as usize / INPUTS);
        let count = outputs * blocks;
        Ok(match scales {
            BlockScales::Own => Self::F16(memory.read_many("matrix.scales", matrix.scales, count)?, matrix.unit),
            BlockScales::F32(at) => Self::F32(memory.read_many("scales", at, count)?),
            BlockScales::Nested(nested) => {
                let first_blocks: &[i32] = memory.read_many("scales.first_blocks", nested.first_blocks, outputs)?;
                let last = first_blocks.iter().copied().max().unwrap_or(0);
                expect(first_blocks.iter().all(|first| *first >= 0), "scales.first_blocks", || {
                    "hold negative numbers".into()
                })?;
                let groups = (last as usize + blocks).div_ceil(GROUP);
                Self::Nested {
                    codes: memory.read_many("scales.codes", nested.codes, count)?,
                    map: memory.read_many("scales.map", nested.map, 256)?,
                    groups: memory.read_many("scales.groups", nested.groups, 2 * groups)?,
                    first_blocks,
                }
            }
        })
    }

    /// Of the row that has `place` in the order of a tile.
    fn get(&self, strip: usize, blocks: usize, tile: usize, place: usize) -> f32 {
        let index = (strip * blocks + tile) * OUTPUTS + place;
        match self {
            Self::F16(scales, unit) => f16::from_bits(scales[index]).to_f32() * unit,
            Self::F32(scales) => scales[index],
            Self::Nested { codes, map, groups, first_blocks } => {
                let row = strip * OUTPUTS + place / 2 + 8 * (place % 2);
                let group = (first_blocks[row] as usize + tile) / GROUP;
                map[usize::from(codes[index])] * groups[2 * group] + groups[2 * group + 1]
            }
        }
    }
}

/// What each byte of two codes stands for, the one in its high bits first.
fn pairs() -> Box<[[f32; 2]; 256]> {
    Box::new(std::array::from_fn(|byte| [TABLE[byte >> 4], TABLE[byte & 15]]))
}
