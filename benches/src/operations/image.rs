//! A device's memory as a case begins: inputs, and poison wherever nothing was put.

use bytemuck::Pod;
use sluice_kernels::{Address, Arena, Region};

/// NaN as bf16, f16 and f32, and far outside every table as a whole number.
const POISON: u64 = 0x7fff_7fff_7fff_7fff;

/// Behind every region, so that no output begins where another ends.
const GUARD: u64 = 256;

#[derive(Default)]
pub(crate) struct Image {
    words: Vec<u64>,
    arena: Arena,
}

impl Image {
    pub(crate) fn put<T: Pod>(&mut self, values: &[T]) -> Address {
        let region = self.room(size_of_val(values) as u64);
        let start = region.at.0 as usize;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        bytes[start..start + size_of_val(values)].copy_from_slice(bytemuck::cast_slice(values));
        region.at
    }

    /// Of poison.
    pub(crate) fn room(&mut self, bytes: u64) -> Region {
        let region = self.arena.take(bytes);
        self.arena.take(GUARD);
        self.words.resize((self.arena.used() / 8) as usize, POISON);
        region
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        bytemuck::cast_slice(&self.words)
    }

    /// Numbers within what was put.
    pub(crate) fn write<T: Pod>(&mut self, at: Address, values: &[T]) {
        let start = at.0 as usize;
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        bytes[start..start + size_of_val(values)].copy_from_slice(bytemuck::cast_slice(values));
    }
}
