//! Random inputs, all of them from one seed.

use half::bf16;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;

pub(crate) struct Random(ChaCha8Rng);

/// Numbers that one thread makes at a time.
const CHUNK: usize = 1 << 16;

/// Of the sum of four numbers of sixteen bits.
const DEVIATION: f32 = 37_837.2;

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }

    /// From 0 to `limit`, which is not reached.
    pub(crate) fn below(&mut self, limit: u32) -> u32 {
        self.0.random_range(0..limit)
    }

    /// From `low` to `high`.
    pub(crate) fn between(&mut self, low: f32, high: f32) -> f32 {
        self.0.random_range(low..high)
    }

    pub(crate) fn seed(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// Any, in any order, each once.
    pub(crate) fn order(&mut self, count: u32) -> Vec<u32> {
        let mut all: Vec<u32> = (0..count).collect();
        for place in (1..all.len()).rev() {
            all.swap(place, self.0.random_range(0..=place));
        }
        all
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        self.numbers(count.div_ceil(8), u64::to_le_bytes).into_iter().flatten().take(count).collect()
    }

    /// On a bell curve around 0 of this standard deviation, cut off at three and a half of it.
    pub(crate) fn bell(&mut self, count: usize, deviation: f32) -> Vec<f32> {
        self.numbers(count, |bits| bell(bits) * deviation)
    }

    /// The same, in bf16.
    pub(crate) fn halves(&mut self, count: usize, deviation: f32) -> Vec<u16> {
        self.numbers(count, |bits| bf16::from_f32(bell(bits) * deviation).to_bits())
    }

    /// The same whatever the number of threads.
    fn numbers<T: Send>(&mut self, count: usize, number: impl Fn(u64) -> T + Sync) -> Vec<T> {
        let seed = self.seed();
        let starts: Vec<usize> = (0..count).step_by(CHUNK).collect();
        let chunk = |start: usize| {
            let mut random = ChaCha8Rng::seed_from_u64(seed);
            random.set_stream(start as u64);
            let number = &number;
            (start..count.min(start + CHUNK)).map(move |_| number(random.next_u64()))
        };
        starts.into_par_iter().flat_map_iter(chunk).collect()
    }
}

fn bell(bits: u64) -> f32 {
    let sum: i32 = (0..4).map(|place| i32::from((bits >> (16 * place)) as u16)).sum();
    (sum - 2 * 65_535) as f32 / DEVIATION
}
