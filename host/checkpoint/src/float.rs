//! Plain numbers: widened, narrowed, and searched for what is no number, as fast as memory is read.

use std::borrow::Cow;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;

use crate::matrix::{MatrixData, TASK};
use crate::options::Dtype;

/// Numbers that are converted at once, on the stack.
const BATCH: usize = 256;

/// A number that a narrower form cannot hold.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Overflow {
    pub(crate) index: usize,
    pub(crate) value: f32,
}

pub(crate) fn widen_f32(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_le_bytes(*bytes);
    }
}

pub(crate) fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
    for (out, bytes) in out.iter_mut().zip(bytes.as_chunks().0) {
        *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
    }
}

/// In batches, because the processor's instruction for it converts several at once.
pub(crate) fn widen_f16(bytes: &[u8], out: &mut [f32]) {
    let mut batch = [f16::ZERO; BATCH];
    for (out, bytes) in out.chunks_mut(BATCH).zip(bytes.chunks(2 * BATCH)) {
        for (number, bytes) in batch.iter_mut().zip(bytes.as_chunks().0) {
            *number = f16::from_le_bytes(*bytes);
        }
        batch[..out.len()].convert_to_f32_slice(out);
    }
}

/// The largest absolute value of finite numbers: without their sign, they are ordered as their bits are.
pub(crate) fn largest(numbers: &[f32]) -> f32 {
    f32::from_bits(numbers.iter().fold(0, |most, number| most.max(number.to_bits() & 0x7fff_ffff)))
}

/// The same numbers in another plain form. What is quantised, and what has the form already, is left as it is.
pub(crate) fn convert(data: MatrixData<'_>, dtype: Dtype) -> Result<MatrixData<'_>, Overflow> {
    match (&data, dtype) {
        (_, Dtype::Auto)
        | (MatrixData::F32(_), Dtype::F32)
        | (MatrixData::F16(_), Dtype::F16)
        | (MatrixData::Bf16(_), Dtype::Bf16)
        | (MatrixData::Int8(_) | MatrixData::Nf4(_) | MatrixData::Ggml(_), _) => Ok(data),
        (MatrixData::F32(bytes), _) => narrow(bytes.len() / 4, dtype, |at, out| widen_f32(&bytes[4 * at..], out)),
        (MatrixData::F16(bytes), _) => narrow(bytes.len() / 2, dtype, |at, out| widen_f16(&bytes[2 * at..], out)),
        (MatrixData::Bf16(bytes), _) => narrow(bytes.len() / 2, dtype, |at, out| widen_bf16(&bytes[2 * at..], out)),
    }
}

/// Numbers from wherever they come, in a plain form; what is [`Dtype::Auto`] stays wide. `numbers` fills a slice with
/// those from an index on.
pub(crate) fn narrow(
    count: usize,
    dtype: Dtype,
    numbers: impl Fn(usize, &mut [f32]) + Sync,
) -> Result<MatrixData<'static>, Overflow> {
    Ok(match dtype {
        Dtype::F16 => MatrixData::F16(Cow::Owned(store::<2>(count, numbers, narrow_f16)?)),
        Dtype::Bf16 => MatrixData::Bf16(Cow::Owned(store::<2>(count, numbers, narrow_bf16)?)),
        Dtype::F32 | Dtype::Auto => MatrixData::F32(Cow::Owned(store::<4>(count, numbers, store_f32)?)),
    })
}

/// Makes bytes of numbers, a batch at a time, `SIZE` of them a number.
fn store<const SIZE: usize>(
    count: usize,
    numbers: impl Fn(usize, &mut [f32]) + Sync,
    narrow: fn(&[f32], &mut [u8]) -> Result<(), Overflow>,
) -> Result<Vec<u8>, Overflow> {
    let mut bytes = vec![0; count * SIZE];
    bytes.par_chunks_mut(TASK * SIZE).enumerate().try_for_each(|(task, bytes)| {
        let mut wide = [0.0; BATCH];
        for (batch, bytes) in bytes.chunks_mut(BATCH * SIZE).enumerate() {
            let (start, wide) = (task * TASK + batch * BATCH, &mut wide[..bytes.len() / SIZE]);
            numbers(start, wide);
            narrow(wide, bytes).map_err(|overflow| Overflow { index: start + overflow.index, ..overflow })?;
        }
        Ok(())
    })?;
    Ok(bytes)
}

fn store_f32(wide: &[f32], bytes: &mut [u8]) -> Result<(), Overflow> {
    for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(wide) {
        *bytes = number.to_le_bytes();
    }
    Ok(())
}

fn narrow_f16(wide: &[f32], bytes: &mut [u8]) -> Result<(), Overflow> {
    let mut batch = [f16::ZERO; BATCH];
    let batch = &mut batch[..wide.len()];
    batch.convert_from_f32_slice(wide);
    for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(&*batch) {
        *bytes = number.to_le_bytes();
    }
    overflow(wide, || batch.iter().position(|number| !number.is_finite()))
}

/// Only the very largest numbers round to infinity.
fn narrow_bf16(wide: &[f32], bytes: &mut [u8]) -> Result<(), Overflow> {
    let mut batch = [bf16::ZERO; BATCH];
    let batch = &mut batch[..wide.len()];
    batch.convert_from_f32_slice(wide);
    for (bytes, number) in bytes.as_chunks_mut().0.iter_mut().zip(&*batch) {
        *bytes = number.to_le_bytes();
    }
    overflow(wide, || batch.iter().position(|number| !number.is_finite()))
}

fn overflow(wide: &[f32], position: impl Fn() -> Option<usize>) -> Result<(), Overflow> {
    match position() {
        Some(index) => Err(Overflow { index, value: wide[index] }),
        None => Ok(()),
    }
}

/// The index of the first number that is infinite or none. A number is neither unless its exponent is all ones.
pub(crate) fn first_not_finite_f32(bytes: &[u8]) -> Option<usize> {
    search(bytes, |bytes| u32::from_le_bytes(*bytes) & 0x7f80_0000 == 0x7f80_0000)
}

pub(crate) fn first_not_finite_f16(bytes: &[u8]) -> Option<usize> {
    search(bytes, |bytes| u16::from_le_bytes(*bytes) & 0x7c00 == 0x7c00)
}

pub(crate) fn first_not_finite_bf16(bytes: &[u8]) -> Option<usize> {
    search(bytes, |bytes| u16::from_le_bytes(*bytes) & 0x7f80 == 0x7f80)
}

/// A task folds without leaving early, which the compiler turns into wide instructions; only a task that found
/// something looks where.
fn search<const SIZE: usize>(bytes: &[u8], bad: impl Fn(&[u8; SIZE]) -> bool + Sync) -> Option<usize> {
    let numbers = bytes.as_chunks().0;
    let found = numbers.par_chunks(TASK).enumerate().find_map_first(|(task, numbers)| {
        let any = numbers.iter().fold(false, |any, number| any | bad(number));
        any.then_some(task * TASK)
    })?;
    let within = numbers[found..].iter().position(bad)?;
    Some(found + within)
}
