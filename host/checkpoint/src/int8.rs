//! Matrices of eight bits with one scale per output: the weights of LLM.int8 (Dettmers et al., NeurIPS 2022).

use std::borrow::Cow;

use rayon::prelude::*;

use crate::StoredMatrix;
use crate::bitsandbytes;
use crate::float::largest;

/// What a code is multiplied by beside its row's largest absolute value, as bitsandbytes writes it: 1 / 127.
pub const UNIT: f32 = 0.007_874_016;

/// 1.5 · 2²³: what is added to it is rounded to a whole number, half to even, whose low byte is that of the sum's bits.
const ROUNDS: f32 = 12_582_912.0;

/// A number is `code · absmax / 127`.
#[derive(Clone, Debug)]
pub struct Int8Rows<'a> {
    /// Row by row, from -127 to 127.
    pub codes: Cow<'a, [i8]>,
    /// Of each row: `SCB` in a checkpoint of bitsandbytes.
    pub absmax: Cow<'a, [f32]>,
}

impl Int8Rows<'_> {
    /// What a sum over a row's codes is multiplied by.
    pub fn scale(&self, row: usize) -> f32 {
        self.absmax[row] * UNIT
    }

    /// A scale that would make infinite numbers counts too.
    pub(crate) fn first_not_finite(&self) -> Option<(&'static str, usize, f32)> {
        let bad = self.absmax.iter().position(|absmax| !(absmax * 128.0).is_finite())?;
        Some((bitsandbytes::SCB, bad, self.absmax[bad]))
    }

    /// From the number at `start` on. As bitsandbytes does it in F32: the code times the row's largest comes first.
    pub(crate) fn read(&self, inputs: usize, start: usize, out: &mut [f32]) {
        let (mut at, mut rest) = (start, out);
        while !rest.is_empty() {
            let (out, after) = rest.split_at_mut((inputs - at % inputs).min(rest.len()));
            let absmax = self.absmax[at / inputs];
            for (out, code) in out.iter_mut().zip(&self.codes[at..]) {
                *out = f32::from(*code) * absmax * UNIT;
            }
            (at, rest) = (at + out.len(), after);
        }
    }
}

/// Half rounds to even. A row of zeros has the scale 0.
pub fn quantize(matrix: &StoredMatrix<'_>) -> Int8Rows<'static> {
    let inputs = matrix.inputs;
    let mut codes = vec![0i8; matrix.outputs * inputs];
    let mut absmax = vec![0.0; matrix.outputs];
    let rows = codes.par_chunks_mut(inputs.max(1)).zip(absmax.par_iter_mut()).enumerate();
    rows.for_each_init(
        || vec![0.0; inputs],
        |numbers, (row, (codes, absmax))| {
            matrix.rows_to_f32(row, numbers);
            *absmax = quantize_row(numbers, codes);
        },
    );
    Int8Rows { codes: Cow::Owned(codes), absmax: Cow::Owned(absmax) }
}

fn quantize_row(numbers: &[f32], codes: &mut [i8]) -> f32 {
    let absmax = largest(numbers);
    let scale = 127.0 / absmax;
    // An infinite scale is that of a row of zeros, or of numbers too small for F32 to tell apart.
    if scale.is_finite() {
        for (code, number) in codes.iter_mut().zip(numbers) {
            *code = (number * scale + ROUNDS).to_bits() as i8;
        }
    }
    absmax
}
