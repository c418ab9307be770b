//! Sixteen outputs of a GGUF matrix times rows of bytes, on AVX-512 with VNNI.

use std::arch::x86_64::__m512i;

use pulp::x86::V4;
use pulp::{NullaryFnOnce, cast, f32x16};

use super::super::activations::Group;
use super::super::panels::Rows;
use super::super::tiles::{load, store};
use super::super::vnni::Vnni;
use super::blocks::Block;
use super::codes::{Codes, REGISTERS};

/// Adds to `out`, from `column` on, the products of the rows with sixteen outputs.
pub(crate) struct Strand<'a, 'o, B> {
    pub(crate) vnni: Vnni,
    pub(crate) simd: V4,
    pub(crate) blocks: &'a [B],
    pub(crate) rows: &'a Rows<'a>,
    pub(crate) out: &'a mut [&'o mut [f32]],
    pub(crate) column: usize,
}

impl<B: Block> NullaryFnOnce for Strand<'_, '_, B> {
    type Output = ();

    /// The size of a tile changes no sum.
    #[inline(always)]
    fn call(mut self) {
        let rows = self.out.len();
        let tiles = rows.div_ceil(8);
        let mut first = 0;
        for tile in 0..tiles {
            let end = rows * (tile + 1) / tiles;
            match end - first {
                1 => self.tile::<1>(first),
                2 => self.tile::<2>(first),
                3 => self.tile::<3>(first),
                4 => self.tile::<4>(first),
                5 => self.tile::<5>(first),
                6 => self.tile::<6>(first),
                7 => self.tile::<7>(first),
                _ => self.tile::<8>(first),
            }
            first = end;
        }
    }
}

impl<B: Block> Strand<'_, '_, B> {
    #[inline(always)]
    fn tile<const ROWS: usize>(&mut self, first: usize) {
        let mut x: [&[Group]; ROWS] = [&[]; ROWS];
        let mut sums = [self.simd.splat_f32x16(0.0); ROWS];
        for (index, (x, sum)) in x.iter_mut().zip(&mut sums).enumerate() {
            *x = self.rows.groups(first + index);
            *sum = load(self.simd, self.out[first + index], self.column);
        }
        for (index, block) in self.blocks.iter().enumerate() {
            let x = x.map(|x| &x[index * B::GROUPS..][..B::GROUPS]);
            for group in 0..B::GROUPS {
                self.group(block, group, x.map(|x| &x[group]), &mut sums);
            }
        }
        for (sum, out) in sums.iter().zip(&mut self.out[first..]) {
            store(self.simd, out, self.column, *sum);
        }
    }

    #[inline(always)]
    fn group<const ROWS: usize>(&self, block: &B, group: usize, x: [&Group; ROWS], sums: &mut [f32x16; ROWS]) {
        let simd = self.simd;
        let codes: [__m512i; REGISTERS] = cast(block.codes(group).registers(simd, 0));
        if B::SCALES == 1 {
            let scales = block.scales(simd, group);
            let offsets = block.offsets(simd, group);
            for (sum, x) in sums.iter_mut().zip(x) {
                let mut dot = self.dot(&codes, &x.values, x.sum);
                dot = simd.mul_f32x16(dot, scales);
                if B::MIDDLE == 0 {
                    dot = simd.mul_add_f32x16(offsets, simd.splat_f32x16(x.sum), dot);
                }
                *sum = simd.mul_add_f32x16(dot, simd.splat_f32x16(x.scale), *sum);
            }
        } else {
            let scales = [block.scales(simd, 2 * group), block.scales(simd, 2 * group + 1)];
            let offsets = [block.offsets(simd, 2 * group), block.offsets(simd, 2 * group + 1)];
            let [a, b, c, d, e, f, g, h] = codes;
            for (sum, x) in sums.iter_mut().zip(x) {
                let [i, j, k, l, m, n, o, p] = x.values;
                let first = self.dot(&[a, b, c, d], &[i, j, k, l], x.halves[0]);
                let second = self.dot(&[e, f, g, h], &[m, n, o, p], x.halves[1]);
                let mut dot = simd.mul_f32x16(first, scales[0]);
                dot = simd.mul_add_f32x16(second, scales[1], dot);
                if B::MIDDLE == 0 {
                    dot = simd.mul_add_f32x16(offsets[0], simd.splat_f32x16(x.halves[0]), dot);
                    dot = simd.mul_add_f32x16(offsets[1], simd.splat_f32x16(x.halves[1]), dot);
                }
                *sum = simd.mul_add_f32x16(dot, simd.splat_f32x16(x.scale), *sum);
            }
        }
    }

    /// Exact: whole numbers below 2²⁴.
    #[inline(always)]
    fn dot<const COUNT: usize>(&self, codes: &[__m512i; COUNT], x: &[i32; COUNT], sum: f32) -> f32x16 {
        let simd = self.simd;
        let mut dot = simd.avx512f._mm512_setzero_si512();
        for (codes, x) in codes.iter().zip(x) {
            dot = self.vnni.add_products(dot, *codes, simd.avx512f._mm512_set1_epi32(*x));
        }
        let dot = cast(simd.avx512f._mm512_cvtepi32_ps(dot));
        if B::MIDDLE == 0 {
            return dot;
        }
        simd.mul_add_f32x16(simd.splat_f32x16(sum), simd.splat_f32x16(-B::MIDDLE as f32), dot)
    }
}
