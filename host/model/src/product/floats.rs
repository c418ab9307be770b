//! Weights of 32 or 16 bits, widened in the registers where these can.

use pulp::Simd;
use rayon::prelude::*;

#[cfg(target_arch = "x86_64")]
use super::avx512::{Half, InRegisters};
use super::decoded::{Decode, multiply_decoded};
use super::instructions::Instructions;
use super::panels::{PANEL, Panels, Rows};
use super::tiles::{Column, Tiles};

/// A number of a checkpoint.
pub(crate) trait Number: Copy + Default + Send + Sync + 'static {
    /// Its bytes in a checkpoint.
    const BYTES: usize;

    fn read(bytes: &[u8]) -> Self;

    fn widen(self) -> f32;

    /// Adds to `out` the products of the rows with a panel.
    fn multiply(instructions: Instructions, weights: &[Column<Self>], rows: &Rows<'_>, out: &mut [&mut [f32]]);
}

#[derive(Clone, Copy, Default, Debug)]
#[repr(transparent)]
pub(crate) struct F16(pub(crate) u16);

#[derive(Clone, Copy, Default, Debug)]
#[repr(transparent)]
pub(crate) struct Bf16(pub(crate) u16);

/// One box per panel, one column per input: allocated and filled by the thread that packs it.
pub(crate) struct Floats<E> {
    panels: Vec<Box<[Column<E>]>>,
    instructions: Instructions,
}

/// The weights of one panel.
struct Narrow<'a, E>(&'a [Column<E>]);

impl<E: Number> Floats<E> {
    /// `bytes` are those of the rows of a matrix, little-endian; the last panel is filled up with zeros.
    pub(crate) fn pack(bytes: &[u8], inputs: usize, instructions: Instructions) -> Self {
        let row = inputs * E::BYTES;
        let panels = bytes.par_chunks(PANEL * row).map(|bytes| pack_panel(bytes, inputs)).collect();
        Self { panels, instructions }
    }
}

/// A few inputs of all rows at a time, so that the columns being filled stay in the nearest cache.
fn pack_panel<E: Number>(bytes: &[u8], inputs: usize) -> Box<[Column<E>]> {
    const STRIP: usize = 64;
    let row = inputs * E::BYTES;
    let mut columns = vec![Column([E::default(); PANEL]); inputs].into_boxed_slice();
    for (strip, columns) in columns.chunks_mut(STRIP).enumerate() {
        for (output, bytes) in bytes.chunks_exact(row).enumerate() {
            let numbers = bytes[strip * STRIP * E::BYTES..].chunks_exact(E::BYTES);
            for (Column(column), number) in columns.iter_mut().zip(numbers) {
                column[output] = E::read(number);
            }
        }
    }
    columns
}

impl<E: Number> Panels for Floats<E> {
    fn add(&self, panel: usize, rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        E::multiply(self.instructions, &self.panels[panel], rows, out);
    }

    fn weights(&self, output: usize, weights: &mut [f32]) {
        for (weight, Column(column)) in weights.iter_mut().zip(&self.panels[output / PANEL]) {
            *weight = column[output % PANEL].widen();
        }
    }

    #[cfg(test)]
    fn bytes(&self) -> usize {
        self.panels.iter().map(|panel| size_of_val(&panel[..])).sum()
    }
}

/// Strips stay in the second cache while the tiles of rows pass over them.
#[inline(always)]
fn strips<'a, 'o, E>(
    weights: &'a [Column<E>],
    rows: &Rows<'_>,
    out: &mut [&'o mut [f32]],
    mut each: impl FnMut(Tiles<'_, 'o, E>),
) {
    const STRIP: usize = 1024;
    for (strip, weights) in weights.chunks(STRIP).enumerate() {
        let x = &rows.values[strip * STRIP..];
        each(Tiles { x, stride: rows.inputs, weights, out });
    }
}

fn multiply_halves<E: Half>(
    instructions: Instructions,
    weights: &[Column<E>],
    rows: &Rows<'_>,
    out: &mut [&mut [f32]],
) {
    match instructions {
        #[cfg(target_arch = "x86_64")]
        Instructions::Vnni(_, simd) | Instructions::Avx512(simd) => {
            strips(weights, rows, out, |tiles| simd.vectorize(InRegisters(simd, tiles)));
        }
        Instructions::Portable(_) => multiply_decoded(instructions, &Narrow(weights), rows, out),
    }
}

/// Sixteen bits: what AVX-512 widens in its registers.
#[cfg(not(target_arch = "x86_64"))]
trait Half: Number {}
#[cfg(not(target_arch = "x86_64"))]
impl<E: Number> Half for E {}

impl<E: Number> Decode for Narrow<'_, E> {
    #[inline(always)]
    fn decode<S: Simd>(&self, _: S, first: usize, columns: &mut [Column<f32>]) {
        for (Column(column), Column(numbers)) in columns.iter_mut().zip(&self.0[first..]) {
            for (value, number) in column.iter_mut().zip(numbers) {
                *value = number.widen();
            }
        }
    }
}

impl Number for f32 {
    const BYTES: usize = 4;

    fn read(bytes: &[u8]) -> Self {
        Self::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    fn widen(self) -> f32 {
        self
    }

    fn multiply(instructions: Instructions, weights: &[Column<f32>], rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        let arch = instructions.arch();
        strips(weights, rows, out, |tiles| arch.dispatch(tiles));
    }
}

impl Number for F16 {
    const BYTES: usize = 2;

    fn read(bytes: &[u8]) -> Self {
        Self(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    /// Exact for every number there is; the exponent moves from a bias of 15 to one of 127.
    #[inline(always)]
    fn widen(self) -> f32 {
        /// 2¹¹²
        const REBIAS: f32 = f32::from_bits((127 + 112) << 23);
        let (sign, magnitude) = (self.0 & 0x8000, self.0 & 0x7fff);
        let magnitude = f32::from_bits(u32::from(magnitude) << 13) * REBIAS;
        f32::from_bits(magnitude.to_bits() | u32::from(sign) << 16)
    }

    fn multiply(instructions: Instructions, weights: &[Column<Self>], rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        multiply_halves(instructions, weights, rows, out);
    }
}

impl Number for Bf16 {
    const BYTES: usize = 2;

    fn read(bytes: &[u8]) -> Self {
        Self(u16::from_le_bytes([bytes[0], bytes[1]]))
    }

    #[inline(always)]
    fn widen(self) -> f32 {
        f32::from_bits(u32::from(self.0) << 16)
    }

    fn multiply(instructions: Instructions, weights: &[Column<Self>], rows: &Rows<'_>, out: &mut [&mut [f32]]) {
        multiply_halves(instructions, weights, rows, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let exact = half::f16::from_bits(bits).to_f32();
            if exact.is_finite() {
                assert_eq!(Number::widen(F16(bits)).to_bits(), exact.to_bits(), "{bits:x}");
            }
            assert_eq!(Number::widen(Bf16(bits)).to_bits(), u32::from(bits) << 16);
        }
    }
}
