//! The device's memory: a place in it is given out only if it is wholly inside.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use bytemuck::Pod;
use sluice_kernels::Address;

use super::fault::{Fault, expect};

/// Kernels read and write numbers by so many bytes at once.
const ACCESS: u64 = 16;

#[derive(Default)]
pub(super) struct Memory {
    /// Words, so that it is aligned for every kind of number.
    words: Vec<u64>,
    bytes: usize,
    touched: Mutex<Vec<Touched>>,
}

/// From the first to the last of a field's numbers that the operation under way has read or written. A card's blocks keep
/// no order among each other, so none may write what another field's reader could still be reading.
struct Touched {
    field: &'static str,
    range: Range<usize>,
}

impl Memory {
    /// `None` where the host has not so much.
    pub(super) fn new(bytes: u64, filler: u64) -> Option<Self> {
        let bytes = usize::try_from(bytes).ok()?;
        let mut words = Vec::new();
        words.try_reserve_exact(bytes.div_ceil(size_of::<u64>())).ok()?;
        words.resize(bytes.div_ceil(size_of::<u64>()), filler);
        Some(Self { words, bytes, touched: Mutex::default() })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Another operation begins, when all before it have ended.
    pub(super) fn begin(&mut self) {
        self.touched.get_mut().unwrap_or_else(PoisonError::into_inner).clear();
    }

    pub(super) fn read<T: Pod>(&self, field: &'static str, at: Address, count: usize) -> Result<&[T], Fault> {
        let range = self.range::<T>(field, at, count)?;
        Touched::note(&mut self.touched.lock().unwrap_or_else(PoisonError::into_inner), field, &range);
        bytemuck::try_cast_slice(&bytemuck::cast_slice::<u64, u8>(&self.words)[range])
            .map_err(|_| misaligned::<T>(field, at))
    }

    pub(super) fn write<T: Pod>(&mut self, field: &'static str, at: Address, count: usize) -> Result<&mut [T], Fault> {
        let range = self.range::<T>(field, at, count)?;
        let touched = self.touched.get_mut().unwrap_or_else(PoisonError::into_inner);
        let other = touched.iter().find(|other| other.field != field && other.overlaps(&range));
        expect(other.is_none(), field, || format!("lies over `{}`", other.map_or("", |other| other.field)))?;
        Touched::note(touched, field, &range);
        bytemuck::try_cast_slice_mut(&mut bytemuck::cast_slice_mut::<u64, u8>(&mut self.words)[range])
            .map_err(|_| misaligned::<T>(field, at))
    }

    /// What kernels read many of at once.
    pub(super) fn read_many<T: Pod>(&self, field: &'static str, at: Address, count: usize) -> Result<&[T], Fault> {
        for_many(field, at)?;
        self.read(field, at, count)
    }

    /// What kernels write many of at once.
    pub(super) fn write_many<T: Pod>(
        &mut self,
        field: &'static str,
        at: Address,
        count: usize,
    ) -> Result<&mut [T], Fault> {
        for_many(field, at)?;
        self.write(field, at, count)
    }

    fn range<T>(&self, field: &'static str, at: Address, count: usize) -> Result<Range<usize>, Fault> {
        let start = usize::try_from(at.0).ok();
        let bytes = count.checked_mul(size_of::<T>());
        let range = start.zip(bytes).and_then(|(start, bytes)| Some(start..start.checked_add(bytes)?));
        range.filter(|range| range.end <= self.bytes).ok_or_else(|| {
            let (size, bytes) = (size_of::<T>(), self.bytes);
            Fault::new(field, format!("is {count} times {size} bytes from {} on, and the memory has {bytes}", at.0))
        })
    }
}

impl Touched {
    fn note(all: &mut Vec<Self>, field: &'static str, range: &Range<usize>) {
        match all.iter_mut().find(|touched| touched.field == field) {
            Some(Self { range: known, .. }) => *known = known.start.min(range.start)..known.end.max(range.end),
            None => all.push(Self { field, range: range.clone() }),
        }
    }

    fn overlaps(&self, range: &Range<usize>) -> bool {
        self.range.start < range.end && range.start < self.range.end
    }
}

/// Where number `index` of a list of `T` is; saturating, so that what is beyond every address is outside the memory.
pub(super) fn element<T>(list: Address, index: usize) -> Address {
    Address(list.0.saturating_add((index as u64).saturating_mul(size_of::<T>() as u64)))
}

fn for_many(field: &'static str, at: Address) -> Result<(), Fault> {
    expect(at.0.is_multiple_of(ACCESS), field, || format!("is at {}, which is no multiple of {ACCESS}", at.0))
}

fn misaligned<T>(field: &'static str, at: Address) -> Fault {
    Fault::new(field, format!("is at {}, which is no multiple of {}", at.0, align_of::<T>()))
}
