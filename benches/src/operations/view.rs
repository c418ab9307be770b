//! Numbers that an operation has made, wherever it put them.

use std::ops::Range;

use bytemuck::Pod;
use half::bf16;
use rayon::prelude::*;
use sluice_kernels::op::{Activations, Sum};
use sluice_kernels::{Address, Layout, Region};

/// Some columns of a matrix.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) sum: Sum,
    pub(crate) rows: u32,
    /// Of all columns.
    pub(crate) width: u32,
    pub(crate) columns: Range<u32>,
}

impl View {
    pub(crate) fn all(sum: Sum, rows: u32, width: u32) -> Self {
        Self { sum, rows, width, columns: 0..width }
    }

    pub(crate) fn of(activations: Activations, rows: u32, width: u32) -> Self {
        Self::all(Sum::Whole(activations), rows, width)
    }

    /// One behind the other from there on.
    pub(crate) fn rows_at(at: Address, rows: u32, width: u32) -> Self {
        Self::of(Activations { at, layout: Layout::Rows }, rows, width)
    }

    /// All that is written of the whole matrix.
    pub(crate) fn regions(&self) -> Vec<Region> {
        let numbers = u64::from(self.rows) * u64::from(self.width);
        match self.sum {
            Sum::Whole(Activations { at, .. }) => vec![Region { at, bytes: numbers * 2 }],
            Sum::Parts { at, count, stride } => {
                let part = |part| Region { at: at.offset(u64::from(part) * u64::from(stride) * 4), bytes: numbers * 4 };
                (0..count).map(part).collect()
            }
        }
    }

    /// Row after row; parts are added up.
    pub(crate) fn read(&self, memory: &[u8]) -> Vec<f32> {
        let width = self.width as usize;
        let places = |row: usize| self.columns.clone().map(move |column| (row, column as usize));
        let number = |(row, column): (usize, usize)| match self.sum {
            Sum::Whole(Activations { at, layout }) => {
                bf16::from_bits(element(memory, at, layout.index(row, column, width))).to_f32()
            }
            Sum::Parts { at, count, stride } => {
                let part = |part| element::<f32>(memory, at, (part * stride) as usize + row * width + column);
                (0..count).map(part).sum()
            }
        };
        (0..self.rows as usize).into_par_iter().flat_map_iter(|row| places(row).map(number)).collect()
    }

    /// Whether there is a number wherever there should be one.
    pub(crate) fn is_written(&self, memory: &[u8]) -> bool {
        self.regions().iter().all(|region| {
            let bytes = slice(memory, *region);
            match self.sum {
                Sum::Whole(_) => bytes.par_chunks_exact(2).all(|bits| {
                    let bits: u16 = bytemuck::pod_read_unaligned(bits);
                    !bf16::from_bits(bits).is_nan()
                }),
                Sum::Parts { .. } => {
                    bytes.par_chunks_exact(4).all(|bits| !bytemuck::pod_read_unaligned::<f32>(bits).is_nan())
                }
            }
        })
    }
}

/// Number `index` of a list.
pub(crate) fn element<T: Pod>(memory: &[u8], list: Address, index: usize) -> T {
    let start = list.0 as usize + index * size_of::<T>();
    bytemuck::pod_read_unaligned(&memory[start..start + size_of::<T>()])
}

pub(crate) fn slice(memory: &[u8], region: Region) -> &[u8] {
    let start = region.at.0 as usize;
    &memory[start..start + region.bytes as usize]
}
