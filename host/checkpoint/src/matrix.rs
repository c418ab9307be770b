//! A matrix as a checkpoint holds it, before an executor packs it for its device.

use std::borrow::Cow;

use half::{bf16, f16};

/// Row by row: `outputs` rows of `inputs` numbers.
#[derive(Clone, Debug)]
pub struct StoredMatrix<'a> {
    pub outputs: usize,
    pub inputs: usize,
    pub data: MatrixData<'a>,
}

/// Little-endian numbers as they lie in the file.
#[derive(Clone, Debug)]
pub enum MatrixData<'a> {
    F32(Cow<'a, [u8]>),
    F16(Cow<'a, [u8]>),
    Bf16(Cow<'a, [u8]>),
}

impl StoredMatrix<'_> {
    /// All numbers, widened.
    pub fn to_f32(&self) -> Vec<f32> {
        match &self.data {
            MatrixData::F32(bytes) => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
            MatrixData::F16(bytes) => numbers(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            MatrixData::Bf16(bytes) => numbers(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

impl MatrixData<'_> {
    /// Where the first number lies that is none, and what it is instead.
    pub(crate) fn first_not_finite(&self) -> Option<(usize, f32)> {
        match self {
            Self::F32(bytes) => not_finite(bytes, f32::from_le_bytes),
            Self::F16(bytes) => not_finite(bytes, |bytes| f16::from_le_bytes(bytes).to_f32()),
            Self::Bf16(bytes) => not_finite(bytes, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        }
    }
}

fn not_finite<const SIZE: usize>(bytes: &[u8], widen: impl Fn([u8; SIZE]) -> f32) -> Option<(usize, f32)> {
    bytes.as_chunks().0.iter().map(|bytes| widen(*bytes)).enumerate().find(|(_, value)| !value.is_finite())
}

fn numbers(bytes: &[u8], widen: impl Fn([u8; 2]) -> f32) -> Vec<f32> {
    bytes.as_chunks().0.iter().map(|bytes| widen(*bytes)).collect()
}
