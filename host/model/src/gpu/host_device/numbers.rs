//! bf16 numbers and sums as operations pass them on, read to f32 and written with one rounding.

use half::bf16;
use sluice_kernels::op::{Activations, Sum};
use sluice_kernels::{Address, Layout};

use super::fault::{Fault, expect};
use super::memory::{Memory, element};

/// Kernels handle so many of a row at once.
const OCT: usize = 8;

/// Numbers that the wide layout puts in another order, among themselves.
const WIDE_GROUP: usize = 64;

#[inline(always)]
pub(super) fn widen(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

pub(super) fn narrow(number: f32) -> u16 {
    bf16::from_f32(number).to_bits()
}

/// What is left of a number that was a bf16 on its way.
pub(super) fn rounded(number: f32) -> f32 {
    widen(narrow(number))
}

/// bf16 numbers in a row.
pub(super) fn read(memory: &Memory, field: &'static str, at: Address, count: usize) -> Result<Vec<f32>, Fault> {
    Ok(memory.read_many(field, at, count)?.iter().map(|bits| widen(*bits)).collect())
}

pub(super) fn write(memory: &mut Memory, field: &'static str, at: Address, numbers: &[f32]) -> Result<(), Fault> {
    let out = memory.write_many(field, at, numbers.len())?;
    out.iter_mut().zip(numbers).for_each(|(out, number)| *out = narrow(*number));
    Ok(())
}

/// Rows of activations, in order whatever their layout.
pub(super) fn read_rows(
    memory: &Memory,
    field: &'static str,
    from: Activations,
    rows: usize,
    width: usize,
) -> Result<Vec<f32>, Fault> {
    let bits: &[u16] = memory.read_many(field, from.at, extent(field, from.layout, rows, width)?)?;
    if from.layout == Layout::Rows {
        return Ok(bits.iter().map(|bits| widen(*bits)).collect());
    }
    let place = |(row, i)| from.layout.index(row, i, width);
    Ok(places(rows, width).map(|at| widen(bits[place(at)])).collect())
}

pub(super) fn write_rows(
    memory: &mut Memory,
    field: &'static str,
    to: Activations,
    width: usize,
    numbers: &[f32],
) -> Result<(), Fault> {
    let rows = numbers.len() / width.max(1);
    let out: &mut [u16] = memory.write_many(field, to.at, extent(field, to.layout, rows, width)?)?;
    for ((row, i), number) in places(rows, width).zip(numbers) {
        out[to.layout.index(row, i, width)] = narrow(*number);
    }
    Ok(())
}

/// What a product has made: as it is, or the sum of its parts, which is not rounded.
pub(super) fn read_sum(
    memory: &Memory,
    field: &'static str,
    sum: Sum,
    rows: usize,
    width: usize,
) -> Result<Vec<f32>, Fault> {
    match sum {
        Sum::Whole(from) => {
            expect(from.layout == Layout::Rows, field, || format!("is laid out as {:?}, expected rows", from.layout))?;
            read_rows(memory, field, from, rows, width)
        }
        Sum::Parts { at, count, stride } => {
            let numbers = rows.saturating_mul(width);
            check_parts(field, count, stride, numbers)?;
            let mut sums: Vec<f32> = memory.read_many(field, at, numbers)?.to_vec();
            for part in 1..count {
                let numbers: &[f32] = memory.read_many(field, part_at(at, part, stride), sums.len())?;
                sums.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
            }
            Ok(sums)
        }
    }
}

/// f32 numbers of one of the parts of a sum.
pub(super) fn write_part(
    memory: &mut Memory,
    field: &'static str,
    (at, part, stride): (Address, u32, u32),
    numbers: impl ExactSizeIterator<Item = f32>,
) -> Result<(), Fault> {
    let out: &mut [f32] = memory.write_many(field, part_at(at, part, stride), numbers.len())?;
    out.iter_mut().zip(numbers).for_each(|(out, number)| *out = number);
    Ok(())
}

/// A kernel that has a single part to write writes bf16, and parts do not share their numbers.
pub(super) fn check_parts(field: &'static str, count: u32, stride: u32, numbers: usize) -> Result<(), Fault> {
    expect(count > 1, field, || format!("is in {count} parts, expected 2 or more"))?;
    expect(stride as usize >= numbers, field, || {
        format!("has parts {stride} numbers apart, and {numbers} numbers in each")
    })
}

/// Where a part begins, the first at `at`.
fn part_at(at: Address, part: u32, stride: u32) -> Address {
    element::<f32>(at, part as usize * stride as usize)
}

/// Numbers that so many rows reach over.
fn extent(field: &'static str, layout: Layout, rows: usize, width: usize) -> Result<usize, Fault> {
    let (group, all) = match layout {
        Layout::Rows => (OCT, rows),
        Layout::Wide { rows } => (WIDE_GROUP, rows as usize),
    };
    expect(width.is_multiple_of(group), field, || format!("has rows of {width}, expected a multiple of {group}"))?;
    expect(rows <= all, field, || format!("has room for {all} rows, and there are {rows}"))?;
    all.checked_mul(width).ok_or_else(|| Fault::new(field, format!("has {all} rows of {width}")))
}

fn places(rows: usize, width: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..rows).flat_map(move |row| (0..width).map(move |i| (row, i)))
}
