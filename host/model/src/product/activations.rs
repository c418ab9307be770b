//! Rows of activations in bytes, as the products of integers want them: 32 inputs share one scale.

use pulp::{Arch, Simd, WithSimd, cast};

/// Inputs that share a scale.
pub(crate) const GROUP: usize = 32;

const HALF: usize = GROUP / 2;

/// x ≈ `scale` · `values`, with the sums that a weight's offset or minimum is multiplied by. One line of the cache.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(64))]
pub struct Group {
    /// Four signed bytes each, in the order of the inputs.
    pub(crate) values: [i32; GROUP / 4],
    pub(crate) scale: f32,
    /// Of all values, and of each half of them: whole numbers.
    pub(crate) sum: f32,
    pub(crate) halves: [f32; 2],
}

impl Group {
    pub(crate) const fn count(inputs: usize) -> usize {
        inputs.div_ceil(GROUP)
    }

    /// To the nearest of 255 steps between the largest magnitude and its negative.
    #[inline(always)]
    fn quantize<S: Simd>(simd: S, x: &[f32; GROUP]) -> Self {
        /// 1.5 · 2²³: adding it rounds to a whole number, which then stands in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let mut largest = simd.splat_f32s(0.0);
        for x in S::as_simd_f32s(x).0 {
            largest = simd.max_f32s(largest, simd.abs_f32s(*x));
        }
        let largest = simd.reduce_max_f32s(largest);
        let inverse = simd.splat_f32s(if largest > 0.0 { 127.0 / largest } else { 0.0 });
        let round = simd.splat_f32s(ROUND);
        let (mut rounded, mut halves) = ([0.0; GROUP], [0.0; 2]);
        let both = x.as_chunks::<HALF>().0.iter().zip(rounded.as_chunks_mut::<HALF>().0);
        for ((x, rounded), half) in both.zip(&mut halves) {
            let mut sum = simd.splat_f32s(0.0);
            for (x, rounded) in S::as_simd_f32s(x).0.iter().zip(S::as_mut_simd_f32s(rounded).0) {
                *rounded = simd.mul_add_f32s(*x, inverse, round);
                sum = simd.add_f32s(sum, simd.sub_f32s(*rounded, round));
            }
            *half = simd.reduce_sum_f32s(sum);
        }
        let mut bytes = [0; GROUP];
        for (byte, rounded) in bytes.iter_mut().zip(&rounded) {
            *byte = rounded.to_bits() as u8;
        }
        let values = cast(bytes);
        Self { values, scale: largest / 127.0, sum: halves[0] + halves[1], halves }
    }
}

/// Fills `groups` with what `x` is in bytes; a row holds a whole number of groups.
pub(crate) struct Quantize<'a> {
    pub(crate) x: &'a [f32],
    pub(crate) groups: &'a mut [Group],
}

impl Quantize<'_> {
    pub(crate) fn run(self) {
        Arch::new().dispatch(self);
    }
}

impl WithSimd for Quantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        for (x, group) in self.x.as_chunks::<GROUP>().0.iter().zip(self.groups) {
            *group = Group::quantize(simd, x);
        }
    }
}
