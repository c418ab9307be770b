//! The one instruction that has no safe form yet: four products of bytes added to each of sixteen sums.

use std::arch::x86_64::{__m512i, _mm512_dpbusd_epi32};

pulp::simd_type! {
    /// That the processor has AVX-512 with VNNI.
    pub(crate) struct Vnni {
        pub avx: "avx",
        pub avx2: "avx2",
        pub fma: "fma",
        pub avx512f: "avx512f",
        pub avx512bw: "avx512bw",
        pub avx512dq: "avx512dq",
        pub avx512vl: "avx512vl",
        pub avx512vnni: "avx512vnni",
    }
}

impl Vnni {
    /// Adds to each sum the products of the four unsigned bytes of `a` with the four signed bytes of `b` in its lane.
    #[inline(always)]
    #[allow(unsafe_code, reason = "the intrinsic asks for a feature that this token proves")]
    pub(crate) fn add_products(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: a value of `Vnni` exists only where `try_new` found that the processor has AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(sums, a, b) }
    }
}
