//! The random words that views carry: a stream that is seeded by whoever drives the engine.

use sluice_core::split_mix;

#[derive(Clone, Debug)]
pub(crate) struct RandomWords {
    state: u64,
}

impl RandomWords {
    pub(crate) fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    pub(crate) fn next(&mut self) -> u64 {
        split_mix(&mut self.state)
    }
}
