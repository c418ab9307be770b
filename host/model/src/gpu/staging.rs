//! What the host tells the device about a step, written into an image of where it goes.

use bytemuck::NoUninit;
use sluice_kernels::{Address, Copy, Region};

pub(crate) struct Staging<'a> {
    bytes: &'a mut [u8],
    /// What the first of the bytes is an image of.
    start: Address,
    copies: &'a mut Vec<Copy>,
}

impl<'a> Staging<'a> {
    /// `copies` are those of the step before.
    pub(crate) fn new(bytes: &'a mut [u8], start: Address, copies: &'a mut Vec<Copy>) -> Self {
        copies.clear();
        Self { bytes, start, copies }
    }

    /// Element `index` of an array.
    pub(crate) fn put<T: NoUninit>(&mut self, array: Region, index: usize, value: T) {
        let bytes = bytemuck::bytes_of(&value);
        let at = self.offset(array.at) + index * bytes.len();
        self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// From element `first` on.
    pub(crate) fn put_all<T: NoUninit>(&mut self, array: Region, first: usize, values: &[T]) {
        let at = self.offset(array.at) + first * size_of::<T>();
        let bytes = bytemuck::cast_slice(values);
        self.bytes[at..][..bytes.len()].copy_from_slice(bytes);
    }

    /// The first `count` elements go to the device.
    pub(crate) fn send<T>(&mut self, array: Region, count: usize) {
        let bytes = count * size_of::<T>();
        if bytes > 0 {
            self.copies.push(Copy::flat(self.offset(array.at), array.at, bytes));
        }
    }

    /// So many bytes of each of the first `runs` rows go there, which are `pitch` bytes apart.
    pub(crate) fn send_rows(&mut self, array: Region, bytes: usize, runs: usize, pitch: usize) {
        if bytes > 0 && runs > 0 {
            self.copies.push(Copy { from: self.offset(array.at), to: array.at, bytes, runs, pitch });
        }
    }

    fn offset(&self, at: Address) -> usize {
        (at.0 - self.start.0) as usize
    }
}
