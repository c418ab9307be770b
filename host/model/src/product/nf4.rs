//! Weights of four bits that stand in a table, 64 inputs to a scale, widened strip by strip.

use pulp::Simd;
#[cfg(target_arch = "x86_64")]
use pulp::{cast, x86::V4};
use rayon::prelude::*;
use sluice_checkpoint::Nf4Blocks;
use sluice_checkpoint::nf4::BLOCK;

use super::decoded::{Decode, STRIP, multiply_decoded};
use super::instructions::Instructions;
use super::panels::{PANEL, Panels, Rows};
use super::tiles::Column;

/// Inputs whose codes fill a word.
const WORD: usize = 8;

pub(crate) struct Nf4 {
    /// One column per [`WORD`] inputs, the first in the lowest bits.
    codes: Vec<Column<u32>>,
    /// One column per [`BLOCK`] inputs. They are widened where a file has them quantised: 4.5 bits a weight in all, not
    /// 4.13, and one product less for each.
    scales: Vec<Column<f32>>,
    table: [f32; 16],
    inputs: usize,
    instructions: Instructions,
}

/// One panel.
struct Panel<'a> {
    codes: &'a [Column<u32>],
    scales: &'a [Column<f32>],
    table: &'a [f32; 16],
}

impl Nf4 {
    /// `inputs` are a whole number of blocks.
    pub(crate) fn pack(blocks: &Nf4Blocks<'_>, inputs: usize, instructions: Instructions) -> Self {
        let (words, scales_per_row) = (inputs / WORD, inputs / BLOCK);
        let absmax = blocks.absmax.to_f32();
        let panels = (absmax.len() / scales_per_row).div_ceil(PANEL);
        let mut codes = vec![Column([0; PANEL]); panels * words];
        let mut scales = vec![Column([0.0; PANEL]); panels * scales_per_row];
        codes.par_chunks_mut(words).zip(blocks.codes.par_chunks(PANEL * inputs / 2)).for_each(|(columns, bytes)| {
            for (output, bytes) in bytes.chunks_exact(inputs / 2).enumerate() {
                for (Column(column), bytes) in columns.iter_mut().zip(bytes.as_chunks::<4>().0) {
                    // The file has the first of two in the high bits.
                    column[output] = u32::from_le_bytes(bytes.map(|byte| byte.rotate_left(4)));
                }
            }
        });
        let per_panel = scales.chunks_mut(scales_per_row).zip(absmax.chunks(PANEL * scales_per_row));
        for (columns, absmax) in per_panel {
            for (output, absmax) in absmax.chunks_exact(scales_per_row).enumerate() {
                for (Column(column), absmax) in columns.iter_mut().zip(absmax) {
                    column[output] = *absmax;
                }
            }
        }
        Self { codes, scales, table: blocks.table, inputs, instructions }
    }

    fn panel(&self, index: usize) -> Panel<'_> {
        let (words, blocks) = (self.inputs / WORD, self.inputs / BLOCK);
        Panel {
            codes: &self.codes[index * words..][..words],
            scales: &self.scales[index * blocks..][..blocks],
            table: &self.table,
        }
    }
}

impl Panels for Nf4 {
    fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        multiply_decoded(self.instructions, &self.panel(panel), rows, out);
    }

    fn weights(&self, output: usize, weights: &mut [f32]) {
        let (panel, lane) = (self.panel(output / PANEL), output % PANEL);
        for (input, weight) in weights.iter_mut().enumerate() {
            let code = panel.codes[input / WORD].0[lane] >> (input % WORD * 4) & 15;
            *weight = self.table[code as usize] * panel.scales[input / BLOCK].0[lane];
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.scales.as_slice())
    }
}

impl Panel<'_> {
    /// A strip is a block.
    #[inline(always)]
    fn scales(&self, first: usize) -> &[f32; PANEL] {
        const { assert!(STRIP == BLOCK) };
        &self.scales[first / BLOCK].0
    }
}

impl Decode for Panel<'_> {
    #[inline(always)]
    fn decode<S: Simd>(&self, _: S, first: usize, columns: &mut [Column<f32>]) {
        let (scales, words) = (self.scales(first), &self.codes[first / WORD..]);
        for (columns, Column(codes)) in columns.chunks_exact_mut(WORD).zip(words) {
            for (index, Column(column)) in columns.iter_mut().enumerate() {
                for ((weight, codes), scale) in column.iter_mut().zip(codes).zip(scales) {
                    *weight = self.table[(codes >> (index * 4) & 15) as usize] * scale;
                }
            }
        }
    }

    /// The table is a register, a lookup a permutation that reads the lowest four bits of each lane.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn decode_on_avx512(&self, simd: V4, first: usize, columns: &mut [Column<f32>]) {
        let table = cast(*self.table);
        let (scales, words) = (self.scales(first), &self.codes[first / WORD..]);
        for (columns, Column(codes)) in columns.chunks_exact_mut(WORD).zip(words) {
            for (vector, codes) in codes.as_chunks::<16>().0.iter().enumerate() {
                let scale = cast(scales.as_chunks::<16>().0[vector]);
                let mut codes = cast(*codes);
                for Column(column) in columns.iter_mut() {
                    let weights = simd.avx512f._mm512_permutexvar_ps(codes, table);
                    let weights = simd.avx512f._mm512_mul_ps(weights, scale);
                    column.as_chunks_mut::<16>().0[vector] = cast(weights);
                    codes = simd.avx512f._mm512_srli_epi32::<4>(codes);
                }
            }
        }
    }
}
