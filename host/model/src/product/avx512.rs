//! Numbers of sixteen bits, widened in the registers of AVX-512.

use pulp::x86::V4;
use pulp::{NullaryFnOnce, cast, f32x16};

use super::floats::{Bf16, F16, Number};
use super::tiles::{Lanes, Tiles};

pub(crate) trait Half: Number + Lanes<V4> {}

impl Half for F16 {}
impl Half for Bf16 {}

/// Tiles of numbers that only some registers widen.
pub(crate) struct InRegisters<'a, 'o, E>(pub(crate) V4, pub(crate) Tiles<'a, 'o, E>);

impl<E: Half> NullaryFnOnce for InRegisters<'_, '_, E> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(simd, tiles) = self;
        tiles.run(simd);
    }
}

impl Lanes<V4> for F16 {
    #[inline(always)]
    fn widen(simd: V4, values: &[Self]) -> f32x16 {
        let mut bits = [0; 16];
        for (bits, Self(value)) in bits.iter_mut().zip(values) {
            *bits = *value;
        }
        cast(simd.avx512f._mm512_cvtph_ps(cast(bits)))
    }
}

impl Lanes<V4> for Bf16 {
    #[inline(always)]
    fn widen(simd: V4, values: &[Self]) -> f32x16 {
        let mut bits = [0; 16];
        for (bits, Self(value)) in bits.iter_mut().zip(values) {
            *bits = *value;
        }
        let wide = simd.avx512f._mm512_cvtepu16_epi32(cast(bits));
        cast(simd.avx512f._mm512_slli_epi32::<16>(wide))
    }
}
