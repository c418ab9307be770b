//! The product of weights that are first written out as numbers, a strip of a panel at a time in the nearest cache.

#[cfg(target_arch = "x86_64")]
use pulp::{Arch, x86::V4};
use pulp::{Simd, WithSimd};

use super::instructions::Instructions;
use super::panels::{PANEL, Rows};
use super::tiles::{Column, Tiles};

/// One panel of a matrix.
pub(crate) trait Decode {
    /// Writes out the columns of the inputs from `first` on, a multiple of [`STRIP`]. Compiled for the widest
    /// registers where it is inlined.
    fn decode<S: Simd>(&self, simd: S, first: usize, columns: &mut [Column<f32>]);

    /// The same numbers, for what has instructions of its own there.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn decode_on_avx512(&self, simd: V4, first: usize, columns: &mut [Column<f32>]) {
        self.decode(simd, first, columns);
    }
}

/// Inputs that are written out at once: 16 KiB.
pub(crate) const STRIP: usize = 64;

struct Decoded<'a, 'o, D> {
    panel: &'a D,
    rows: &'a Rows<'a>,
    out: &'a mut [&'o mut [f32]],
}

pub(crate) fn multiply_decoded<D: Decode>(
    instructions: Instructions,
    panel: &D,
    rows: &Rows<'_>,
    out: &mut [&mut [f32]],
) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Vnni(_, simd) | Instructions::Avx512(simd) => {
            Arch::V4(simd).dispatch(Decoded { panel: &OnAvx512(simd, panel), rows, out });
        }
        Instructions::Portable(arch) => arch.dispatch(Decoded { panel, rows, out }),
    }
}

#[cfg(target_arch = "x86_64")]
struct OnAvx512<'a, D>(V4, &'a D);

#[cfg(target_arch = "x86_64")]
impl<D: Decode> Decode for OnAvx512<'_, D> {
    #[inline(always)]
    fn decode<S: Simd>(&self, _: S, first: usize, columns: &mut [Column<f32>]) {
        self.1.decode_on_avx512(self.0, first, columns);
    }
}

impl<D: Decode> WithSimd for Decoded<'_, '_, D> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let mut strip = [Column([0.0; PANEL]); STRIP];
        for first in (0..self.rows.inputs).step_by(STRIP) {
            let weights = &mut strip[..STRIP.min(self.rows.inputs - first)];
            self.panel.decode(simd, first, weights);
            let x = &self.rows.values[first..];
            Tiles { x, stride: self.rows.inputs, weights, out: &mut *self.out }.run(simd);
        }
    }
}
