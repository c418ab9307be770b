//! Sixteen outputs of a GGUF matrix side by side: codes, and the scales that turn them into numbers.

#[cfg(target_arch = "x86_64")]
use pulp::{Simd, cast, f32x16, x86::V4};

use super::super::floats::{F16, Number};
#[cfg(target_arch = "x86_64")]
use super::super::tiles::Lanes;
use super::codes::{Codes, LANES};

/// A weight is `scale` · (code − middle) + `offset`, both shared by the inputs of a group or of half a group.
pub(crate) trait Block: Copy + Default + Send + Sync + 'static {
    type Codes: Codes;

    /// Groups of 32 inputs.
    const GROUPS: usize;

    /// Scales of a group: one, or one for each half.
    const SCALES: usize;

    /// The code of nothing; zero where offsets say what nothing is.
    const MIDDLE: i32;

    fn codes(&self, group: usize) -> &Self::Codes;

    /// `index` counts the scales of the block.
    fn scale(&self, index: usize, lane: usize) -> f32;

    fn offset(&self, _index: usize, _lane: usize) -> f32 {
        0.0
    }

    #[cfg(target_arch = "x86_64")]
    fn scales(&self, simd: V4, index: usize) -> f32x16;

    #[cfg(target_arch = "x86_64")]
    fn offsets(&self, simd: V4, _index: usize) -> f32x16 {
        simd.splat_f32x16(0.0)
    }
}

/// A number of each output.
pub(crate) type Halves = [F16; LANES];

/// One group, centred: Q4_0, Q5_0, Q8_0.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct Centered<C> {
    pub(crate) scale: Halves,
    pub(crate) codes: C,
}

/// One group with a minimum: Q4_1, Q5_1.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct Lifted<C> {
    pub(crate) scale: Halves,
    pub(crate) offset: Halves,
    pub(crate) codes: C,
}

/// Eight groups, centred, a scale of scales over sixteen inputs' each: Q3_K, Q6_K.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct CenteredSuper<C> {
    pub(crate) scale: Halves,
    pub(crate) scales: [[i8; LANES]; 16],
    pub(crate) codes: [C; 8],
}

/// Eight groups with minima, `SCALES` scales of scales in all: Q2_K, Q4_K, Q5_K.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct LoweredSuper<C, const SCALES: usize> {
    pub(crate) scale: Halves,
    pub(crate) minimum: Halves,
    pub(crate) scales: [[u8; LANES]; SCALES],
    pub(crate) minima: [[u8; LANES]; SCALES],
    pub(crate) codes: [C; 8],
}

impl<C: Default + Copy, const SCALES: usize> Default for LoweredSuper<C, SCALES> {
    fn default() -> Self {
        let bytes = [[0; LANES]; SCALES];
        let none = Halves::default();
        Self { scale: none, minimum: none, scales: bytes, minima: bytes, codes: Default::default() }
    }
}

impl<C: Codes> Block for Centered<C> {
    type Codes = C;
    const GROUPS: usize = 1;
    const SCALES: usize = 1;
    const MIDDLE: i32 = 1 << (C::BITS - 1);

    #[inline(always)]
    fn codes(&self, _group: usize) -> &C {
        &self.codes
    }

    #[inline(always)]
    fn scale(&self, _index: usize, lane: usize) -> f32 {
        self.scale[lane].widen()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn scales(&self, simd: V4, _index: usize) -> f32x16 {
        widen(simd, &self.scale)
    }
}

impl<C: Codes> Block for Lifted<C> {
    type Codes = C;
    const GROUPS: usize = 1;
    const SCALES: usize = 1;
    const MIDDLE: i32 = 0;

    #[inline(always)]
    fn codes(&self, _group: usize) -> &C {
        &self.codes
    }

    #[inline(always)]
    fn scale(&self, _index: usize, lane: usize) -> f32 {
        self.scale[lane].widen()
    }

    #[inline(always)]
    fn offset(&self, _index: usize, lane: usize) -> f32 {
        self.offset[lane].widen()
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn scales(&self, simd: V4, _index: usize) -> f32x16 {
        widen(simd, &self.scale)
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn offsets(&self, simd: V4, _index: usize) -> f32x16 {
        widen(simd, &self.offset)
    }
}

impl<C: Codes> Block for CenteredSuper<C> {
    type Codes = C;
    const GROUPS: usize = 8;
    const SCALES: usize = 2;
    const MIDDLE: i32 = 1 << (C::BITS - 1);

    #[inline(always)]
    fn codes(&self, group: usize) -> &C {
        &self.codes[group]
    }

    #[inline(always)]
    fn scale(&self, index: usize, lane: usize) -> f32 {
        self.scale[lane].widen() * f32::from(self.scales[index][lane])
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn scales(&self, simd: V4, index: usize) -> f32x16 {
        let wide = simd.avx512f._mm512_cvtepi8_epi32(cast(self.scales[index]));
        simd.mul_f32x16(widen(simd, &self.scale), cast(simd.avx512f._mm512_cvtepi32_ps(wide)))
    }
}

impl<C: Codes, const SCALES: usize> Block for LoweredSuper<C, SCALES> {
    type Codes = C;
    const GROUPS: usize = 8;
    const SCALES: usize = SCALES / 8;
    const MIDDLE: i32 = 0;

    #[inline(always)]
    fn codes(&self, group: usize) -> &C {
        &self.codes[group]
    }

    #[inline(always)]
    fn scale(&self, index: usize, lane: usize) -> f32 {
        self.scale[lane].widen() * f32::from(self.scales[index][lane])
    }

    #[inline(always)]
    fn offset(&self, index: usize, lane: usize) -> f32 {
        -(self.minimum[lane].widen() * f32::from(self.minima[index][lane]))
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn scales(&self, simd: V4, index: usize) -> f32x16 {
        product(simd, &self.scale, &self.scales[index])
    }

    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn offsets(&self, simd: V4, index: usize) -> f32x16 {
        simd.neg_f32s(product(simd, &self.minimum, &self.minima[index]))
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn widen(simd: V4, halves: &Halves) -> f32x16 {
    <F16 as Lanes<V4>>::widen(simd, halves)
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn product(simd: V4, halves: &Halves, bytes: &[u8; LANES]) -> f32x16 {
    let bytes = simd.avx512f._mm512_cvtepu8_epi32(cast(*bytes));
    simd.mul_f32x16(widen(simd, halves), cast(simd.avx512f._mm512_cvtepi32_ps(bytes)))
}
