//! The instructions that products are computed with: the best that the processor has, or those that a test names.

use pulp::Arch;
#[cfg(target_arch = "x86_64")]
use pulp::x86::V4;

#[cfg(target_arch = "x86_64")]
use super::vnni::Vnni;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Instructions {
    /// AVX-512 with products of bytes.
    #[cfg(target_arch = "x86_64")]
    Vnni(Vnni, V4),
    #[cfg(target_arch = "x86_64")]
    Avx512(V4),
    /// Whatever else there is.
    Portable(Arch),
}

impl Instructions {
    pub(crate) fn detect() -> Self {
        #[cfg(target_arch = "x86_64")]
        match (Vnni::try_new(), V4::try_new()) {
            (Some(vnni), Some(v4)) => return Self::Vnni(vnni, v4),
            (None, Some(v4)) => return Self::Avx512(v4),
            _ => {}
        }
        Self::Portable(Arch::new())
    }
}

impl Instructions {
    /// For what needs no more than pulp's traits.
    pub(crate) fn arch(self) -> Arch {
        match self {
            #[cfg(target_arch = "x86_64")]
            Self::Vnni(_, simd) | Self::Avx512(simd) => Arch::V4(simd),
            Self::Portable(arch) => arch,
        }
    }
}
