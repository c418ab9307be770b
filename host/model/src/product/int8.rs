//! Weights of eight bits with one scale per output, widened strip by strip.

use pulp::Simd;
use rayon::prelude::*;
use sluice_checkpoint::Int8Rows;

use super::decoded::{Decode, multiply_decoded};
use super::instructions::Instructions;
use super::panels::{PANEL, Panels, Rows};
use super::tiles::Column;

pub(crate) struct Int8 {
    codes: Vec<Column<i8>>,
    /// One column per panel.
    scales: Vec<Column<f32>>,
    inputs: usize,
    instructions: Instructions,
}

/// One panel.
struct Panel<'a> {
    codes: &'a [Column<i8>],
    scales: &'a Column<f32>,
}

impl Int8 {
    pub(crate) fn pack(rows: &Int8Rows<'_>, inputs: usize, instructions: Instructions) -> Self {
        let outputs = rows.absmax.len();
        let panels = outputs.div_ceil(PANEL);
        let mut codes = vec![Column([0; PANEL]); panels * inputs];
        codes.par_chunks_mut(inputs).zip(rows.codes.par_chunks(PANEL * inputs)).for_each(|(columns, codes)| {
            for (output, codes) in codes.chunks_exact(inputs).enumerate() {
                for (Column(column), code) in columns.iter_mut().zip(codes) {
                    column[output] = *code;
                }
            }
        });
        let mut scales = vec![Column([0.0; PANEL]); panels];
        for output in 0..outputs {
            scales[output / PANEL].0[output % PANEL] = rows.scale(output);
        }
        Self { codes, scales, inputs, instructions }
    }

    fn panel(&self, index: usize) -> Panel<'_> {
        Panel { codes: &self.codes[index * self.inputs..][..self.inputs], scales: &self.scales[index] }
    }
}

impl Panels for Int8 {
    fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        multiply_decoded(self.instructions, &self.panel(panel), rows, out);
    }

    fn weights(&self, output: usize, weights: &mut [f32]) {
        let (panel, lane) = (self.panel(output / PANEL), output % PANEL);
        for (weight, Column(codes)) in weights.iter_mut().zip(panel.codes) {
            *weight = f32::from(codes[lane]) * panel.scales.0[lane];
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of_val(self.codes.as_slice()) + size_of_val(self.scales.as_slice())
    }
}

impl Decode for Panel<'_> {
    #[inline(always)]
    fn decode<S: Simd>(&self, _: S, first: usize, columns: &mut [Column<f32>]) {
        for (Column(column), Column(codes)) in columns.iter_mut().zip(&self.codes[first..]) {
            for ((weight, code), scale) in column.iter_mut().zip(codes).zip(&self.scales.0) {
                *weight = f32::from(*code) * scale;
            }
        }
    }
}
