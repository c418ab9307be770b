//! The random words that views carry: SplitMix64 (Steele, Lea and Flood, 2014), seeded by whoever drives the engine.

#[derive(Clone, Debug)]
pub(crate) struct RandomWords {
    state: u64,
}

impl RandomWords {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}
