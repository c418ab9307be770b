//! The codes of 16 outputs by 32 inputs, in planes of bits from which four inputs of each output fill a register.

use pulp::Simd;

use super::super::activations::GROUP;

/// Outputs side by side: the 32-bit lanes of a register of AVX-512.
pub(crate) const LANES: usize = 16;

/// Registers that hold a group: four inputs of every output each.
pub(crate) const REGISTERS: usize = GROUP / 4;

/// Unsigned codes of so many bits.
pub(crate) trait Codes: Copy + Default + Send + Sync + 'static {
    const BITS: u32;

    /// Puts one output's codes, in the order of the inputs, where there were none.
    fn put(&mut self, lane: usize, codes: &[u8; GROUP]);

    /// Four inputs, from four times `INDEX` on, of each output from `lane` on: a byte each.
    fn register<S: Simd, const INDEX: usize>(&self, simd: S, lane: usize) -> S::u32s;

    #[inline(always)]
    fn registers<S: Simd>(&self, simd: S, lane: usize) -> [S::u32s; REGISTERS] {
        [
            self.register::<S, 0>(simd, lane),
            self.register::<S, 1>(simd, lane),
            self.register::<S, 2>(simd, lane),
            self.register::<S, 3>(simd, lane),
            self.register::<S, 4>(simd, lane),
            self.register::<S, 5>(simd, lane),
            self.register::<S, 6>(simd, lane),
            self.register::<S, 7>(simd, lane),
        ]
    }
}

#[derive(Clone, Copy, Default, Debug)]
#[repr(C, align(32))]
struct Register([u32; LANES]);

/// A plane of so many bits: register `i` shares a word with those whose index is the same modulo the number of words.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Plane<const WORDS: usize>([Register; WORDS]);

/// The low bits in one plane, the high ones in another.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub(crate) struct Split<L, H> {
    low: L,
    high: H,
}

pub(crate) type Two = Plane<2>;
pub(crate) type Three = Split<Two, Plane<1>>;
pub(crate) type Four = Plane<4>;
pub(crate) type Five = Split<Four, Plane<1>>;
pub(crate) type Six = Split<Four, Two>;
pub(crate) type Eight = Plane<8>;

impl<const WORDS: usize> Default for Plane<WORDS> {
    fn default() -> Self {
        Self([Register::default(); WORDS])
    }
}

impl<const WORDS: usize> Codes for Plane<WORDS> {
    const BITS: u32 = WORDS as u32;

    #[inline(always)]
    fn put(&mut self, lane: usize, codes: &[u8; GROUP]) {
        let mut words = [0; WORDS];
        for (index, bytes) in codes.as_chunks::<4>().0.iter().enumerate() {
            words[index % WORDS] |= u32::from_le_bytes(*bytes) << (index / WORDS * WORDS);
        }
        for (Register(register), word) in self.0.iter_mut().zip(words) {
            register[lane] |= word;
        }
    }

    #[inline(always)]
    fn register<S: Simd, const INDEX: usize>(&self, simd: S, lane: usize) -> S::u32s {
        let word = S::as_simd_u32s(&self.0[INDEX % WORDS].0[lane..lane + S::U32_LANES]).0[0];
        let shift = (INDEX / WORDS * WORDS) as u32;
        let mask = u32::from_ne_bytes([((1u32 << WORDS) - 1) as u8; 4]);
        simd.and_u32s(simd.wrapping_dyn_shr_u32s(word, simd.splat_u32s(shift)), simd.splat_u32s(mask))
    }
}

impl<L: Codes, H: Codes> Codes for Split<L, H> {
    const BITS: u32 = L::BITS + H::BITS;

    #[inline(always)]
    fn put(&mut self, lane: usize, codes: &[u8; GROUP]) {
        self.low.put(lane, &codes.map(|code| code & ((1 << L::BITS) - 1)));
        self.high.put(lane, &codes.map(|code| code >> L::BITS));
    }

    #[inline(always)]
    fn register<S: Simd, const INDEX: usize>(&self, simd: S, lane: usize) -> S::u32s {
        let high = self.high.register::<S, INDEX>(simd, lane);
        let high = simd.wrapping_dyn_shl_u32s(high, simd.splat_u32s(L::BITS));
        simd.or_u32s(self.low.register::<S, INDEX>(simd, lane), high)
    }
}
