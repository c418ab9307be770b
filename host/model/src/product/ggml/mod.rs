//! Matrices of a GGUF file, multiplied as they are: in bytes where the processor can, widened where it cannot.

pub(crate) mod blocks;
#[cfg(target_arch = "x86_64")]
pub(crate) mod bytes;
pub(crate) mod codes;
pub(crate) mod formats;

use pulp::{Scalar, Simd};
use rayon::prelude::*;

use self::blocks::Block;
use self::codes::{Codes, LANES, REGISTERS};
use self::formats::Format;
use super::activations::GROUP;
use super::decoded::{Decode, multiply_decoded};
use super::instructions::Instructions;
use super::panels::{PANEL, Panels, Rows};
use super::tiles::Column;

/// One box per panel, allocated and filled by the thread that packs it: sixteen outputs after sixteen outputs, each from
/// its first input to its last.
pub(crate) struct Blocks<B> {
    panels: Vec<Box<[B]>>,
    /// Of sixteen outputs.
    per_strand: usize,
    instructions: Instructions,
}

impl<B: Block> Blocks<B> {
    /// `bytes` are those of the rows of a matrix, whole blocks each.
    pub(crate) fn pack<F: Format<Block = B>>(bytes: &[u8], inputs: usize, instructions: Instructions) -> Self {
        let per_strand = inputs / (B::GROUPS * GROUP);
        let panels = bytes.par_chunks(PANEL * per_strand * F::BYTES);
        Self { panels: panels.map(|bytes| pack_panel::<F>(bytes, per_strand)).collect(), per_strand, instructions }
    }
}

/// What is missing to sixteen outputs has no scale.
fn pack_panel<F: Format>(bytes: &[u8], per_strand: usize) -> Box<[F::Block]> {
    let row = per_strand * F::BYTES;
    let strands = (bytes.len() / row).div_ceil(LANES);
    let mut blocks = vec![F::Block::default(); strands * per_strand].into_boxed_slice();
    for (blocks, bytes) in blocks.chunks_exact_mut(per_strand).zip(bytes.chunks(LANES * row)) {
        for (index, block) in blocks.iter_mut().enumerate() {
            for (lane, row) in bytes.chunks_exact(row).enumerate() {
                F::put(&row[index * F::BYTES..][..F::BYTES], lane, block);
            }
        }
    }
    blocks
}

impl<B: Block> Panels for Blocks<B> {
    fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        let panel = &self.panels[panel];
        match self.instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Vnni(vnni, simd) => {
                for (index, strand) in panel.chunks_exact(self.per_strand).enumerate() {
                    vnni.vectorize(bytes::Strand { vnni, simd, blocks: strand, rows, out, column: index * LANES });
                }
            }
            _ => multiply_decoded(self.instructions, &Widened { panel, per_strand: self.per_strand }, rows, out),
        }
    }

    fn weights(&self, output: usize, weights: &mut [f32]) {
        let strand = &self.panels[output / PANEL][output % PANEL / LANES * self.per_strand..];
        for (index, weights) in weights.chunks_exact_mut(GROUP).enumerate() {
            let (block, group) = (&strand[index / B::GROUPS], index % B::GROUPS);
            let lane = output % LANES;
            let codes: [u32; REGISTERS] = block.codes(group).registers(Scalar::new(), lane);
            for (input, weight) in weights.iter_mut().enumerate() {
                let code = codes[input / 4].to_le_bytes()[input % 4];
                *weight = widen(block, group, input, lane, code);
            }
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.panels.iter().map(|panel| size_of_val(&panel[..])).sum()
    }

    fn wants_groups(&self) -> bool {
        match self.instructions {
            #[cfg(target_arch = "x86_64")]
            Instructions::Vnni(..) => true,
            _ => false,
        }
    }
}

/// One panel.
struct Widened<'a, B> {
    panel: &'a [B],
    per_strand: usize,
}

impl<B: Block> Decode for Widened<'_, B> {
    #[inline(always)]
    fn decode<S: Simd>(&self, simd: S, first: usize, columns: &mut [Column<f32>]) {
        for (strand, blocks) in self.panel.chunks_exact(self.per_strand).enumerate() {
            for (index, columns) in columns.chunks_exact_mut(GROUP).enumerate() {
                let index = first / GROUP + index;
                let (block, group) = (&blocks[index / B::GROUPS], index % B::GROUPS);
                let codes = codes(simd, block.codes(group));
                for (input, Column(column)) in columns.iter_mut().enumerate() {
                    let (weights, _) = column[strand * LANES..].as_chunks_mut::<LANES>();
                    for (lane, weight) in weights[0].iter_mut().enumerate() {
                        let code = (codes[input / 4][lane] >> (input % 4 * 8)) as u8;
                        *weight = widen(block, group, input, lane, code);
                    }
                }
            }
        }
    }
}

#[inline(always)]
fn codes<S: Simd>(simd: S, codes: &impl Codes) -> [[u32; LANES]; REGISTERS] {
    let mut words = [[0; LANES]; REGISTERS];
    for lane in (0..LANES).step_by(S::U32_LANES) {
        for (words, register) in words.iter_mut().zip(codes.registers(simd, lane)) {
            S::as_mut_simd_u32s(&mut words[lane..lane + S::U32_LANES]).0[0] = register;
        }
    }
    words
}

/// One weight, in ggml's own order of operations.
#[inline(always)]
fn widen<B: Block>(block: &B, group: usize, input: usize, lane: usize, code: u8) -> f32 {
    let scale = group * B::SCALES + input * B::SCALES / GROUP;
    (i32::from(code) - B::MIDDLE) as f32 * block.scale(scale, lane) + block.offset(scale, lane)
}
