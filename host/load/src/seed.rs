//! Randomness by name: the same seed and the same name give the same numbers, whatever else was drawn.

use rand::SeedableRng as _;
use rand_chacha::ChaCha8Rng;

/// What a stream of random numbers is for. No two share numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stream {
    Arrivals,
    Prefix,
    /// Lengths and prompt of one request.
    Request(u64),
    WarmUp(u64),
}

impl Stream {
    pub(crate) fn of(self, seed: u64) -> ChaCha8Rng {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        random.set_stream(match self {
            Self::Arrivals => 0,
            Self::Prefix => 1,
            Self::Request(index) => 2 * index + 2,
            Self::WarmUp(index) => 2 * index + 3,
        });
        random
    }
}
