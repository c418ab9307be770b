//! A matrix as a checkpoint holds it, before an executor packs it for its device.

use std::borrow::Cow;
use std::fmt;

use rayon::prelude::*;

use crate::float;
use crate::ggml::{GgmlBlocks, GgmlKind};
use crate::int8::Int8Rows;
use crate::nf4::{self, Nf4Blocks};

/// Row by row: `outputs` rows of `inputs` numbers.
#[derive(Clone, Debug)]
pub struct StoredMatrix<'a> {
    pub outputs: usize,
    pub inputs: usize,
    pub data: MatrixData<'a>,
}

/// Bytes are little-endian numbers as they lie in the file. All numbers are finite, and there are as many as the
/// matrix has: whoever makes one of these has checked both.
#[derive(Clone, Debug)]
pub enum MatrixData<'a> {
    F32(Cow<'a, [u8]>),
    F16(Cow<'a, [u8]>),
    Bf16(Cow<'a, [u8]>),
    Int8(Int8Rows<'a>),
    Nf4(Nf4Blocks<'a>),
    Ggml(GgmlBlocks<'a>),
}

/// What a matrix is held as.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    F32,
    F16,
    Bf16,
    Int8,
    /// `nested` where the scales are themselves quantised.
    Nf4 {
        nested: bool,
    },
    Ggml(GgmlKind),
}

/// Numbers that one task widens or checks: enough to be worth handing over, few enough to stay in the cache.
pub(crate) const TASK: usize = 1 << 16;

impl StoredMatrix<'_> {
    pub fn form(&self) -> Form {
        self.data.form()
    }

    /// That the numbers take in a file, scales included.
    pub fn bytes(&self) -> u64 {
        self.form().bytes(self.outputs, self.inputs)
    }

    /// All numbers, widened or dequantised.
    pub fn to_f32(&self) -> Vec<f32> {
        let mut numbers = vec![0.0; self.outputs * self.inputs];
        let rows = (TASK / self.inputs.max(1)).max(1);
        let tasks = numbers.par_chunks_mut((rows * self.inputs).max(1)).enumerate();
        tasks.for_each(|(index, out)| self.rows_to_f32(index * rows, out));
        numbers
    }

    /// As many whole rows as `out` holds, from row `first` on. Panics where they are not there.
    pub fn rows_to_f32(&self, first: usize, out: &mut [f32]) {
        self.numbers_to_f32(first * self.inputs, out);
    }

    /// From the number at `start` on, which in GGML's forms is the first of a block.
    pub(crate) fn numbers_to_f32(&self, start: usize, out: &mut [f32]) {
        match &self.data {
            MatrixData::F32(bytes) => float::widen_f32(&bytes[start * 4..][..out.len() * 4], out),
            MatrixData::F16(bytes) => float::widen_f16(&bytes[start * 2..][..out.len() * 2], out),
            MatrixData::Bf16(bytes) => float::widen_bf16(&bytes[start * 2..][..out.len() * 2], out),
            MatrixData::Int8(rows) => rows.read(self.inputs, start, out),
            MatrixData::Nf4(blocks) => blocks.read(start, out),
            MatrixData::Ggml(blocks) => blocks.read(start, out),
        }
    }
}

impl MatrixData<'_> {
    pub fn form(&self) -> Form {
        match self {
            Self::F32(_) => Form::F32,
            Self::F16(_) => Form::F16,
            Self::Bf16(_) => Form::Bf16,
            Self::Int8(_) => Form::Int8,
            Self::Nf4(blocks) => Form::Nf4 { nested: blocks.absmax.is_nested() },
            Self::Ggml(blocks) => Form::Ggml(blocks.kind),
        }
    }

    /// Where the first number lies that is infinite or none, and what it is; first of all, in which part of the matrix.
    pub(crate) fn first_not_finite(&self) -> Option<(&'static str, usize, f32)> {
        let plain = |index: Option<usize>, read: fn(&[u8], &mut [f32]), bytes: &[u8], size: usize| {
            let mut value = [0.0];
            read(&bytes[index? * size..], &mut value);
            Some(("", index?, value[0]))
        };
        match self {
            Self::F32(bytes) => plain(float::first_not_finite_f32(bytes), float::widen_f32, bytes, 4),
            Self::F16(bytes) => plain(float::first_not_finite_f16(bytes), float::widen_f16, bytes, 2),
            Self::Bf16(bytes) => plain(float::first_not_finite_bf16(bytes), float::widen_bf16, bytes, 2),
            Self::Int8(rows) => rows.first_not_finite(),
            Self::Nf4(blocks) => blocks.first_not_finite(),
            Self::Ggml(blocks) => blocks.first_not_finite().map(|(index, value)| ("", index, value)),
        }
    }
}

impl Form {
    /// What a matrix of this shape takes in a file. In memory an executor may lay it out otherwise, such as with scales
    /// of NF4 that are no longer quantised.
    pub fn bytes(self, outputs: usize, inputs: usize) -> u64 {
        let (rows, count) = (outputs as u64, outputs as u64 * inputs as u64);
        match self {
            Self::F32 => 4 * count,
            Self::F16 | Self::Bf16 => 2 * count,
            Self::Int8 => count + 4 * rows,
            Self::Nf4 { nested } => nf4::bytes(count, nested),
            Self::Ggml(kind) => kind.bytes(count),
        }
    }
}

impl fmt::Display for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::F16 => f.write_str("f16"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Int8 => f.write_str("int8"),
            Self::Nf4 { nested: true } => f.write_str("nf4, double quantised"),
            Self::Nf4 { nested: false } => f.write_str("nf4"),
            Self::Ggml(kind) => kind.fmt(f),
        }
    }
}
