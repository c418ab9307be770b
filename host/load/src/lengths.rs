//! How long prompts and answers are.

use rand::Rng as _;
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

/// Of a prompt or an answer, in tokens. No model reads more.
pub(crate) const MAX_LENGTH: u32 = 10_000_000;

/// Uniform within a ratio around a length, both ends included, as vLLM's `--random-range-ratio`: 0 is always the length.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) low: u32,
    pub(crate) high: u32,
}

impl Spread {
    pub(crate) fn around(length: u32, ratio: f64) -> Self {
        let end = |factor: f64| (f64::from(length) * factor).clamp(1.0, f64::from(u32::MAX));
        Self { low: end(1.0 - ratio).floor() as u32, high: end(1.0 + ratio).ceil() as u32 }
    }

    pub(crate) fn draw(self, random: &mut ChaCha8Rng) -> u32 {
        random.random_range(self.low..=self.high)
    }
}

/// What a recorded length becomes, so that a trace of a large model can load a small one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Fit {
    pub(crate) scale: f64,
    pub(crate) max_input: Option<u32>,
    pub(crate) max_output: Option<u32>,
}

impl Fit {
    pub(crate) fn input(&self, length: u32) -> u32 {
        self.scaled(length).min(self.max_input.unwrap_or(u32::MAX))
    }

    pub(crate) fn output(&self, length: u32) -> u32 {
        self.scaled(length).min(self.max_output.unwrap_or(u32::MAX))
    }

    /// Nothing is shorter than one token, nor longer than anything may be.
    fn scaled(&self, length: u32) -> u32 {
        (f64::from(length) * self.scale).round().clamp(1.0, f64::from(MAX_LENGTH)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seed::Stream;

    #[test]
    fn a_spread_reaches_both_its_ends_and_no_further() {
        let spread = Spread::around(10, 0.2);
        assert_eq!((spread.low, spread.high), (8, 12));
        let mut random = Stream::Request(0).of(0);
        let mut counts = [0_u32; 16];
        (0..50_000).for_each(|_| counts[spread.draw(&mut random) as usize] += 1);
        assert_eq!((counts[..8].iter().sum::<u32>(), counts[13..].iter().sum::<u32>()), (0, 0));
        assert!(counts[8..=12].iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
        assert_eq!(Spread::around(7, 0.0), Spread { low: 7, high: 7 });
        assert_eq!(Spread::around(1, 0.9), Spread { low: 1, high: 2 });
    }

    #[test]
    fn recorded_lengths_are_scaled_then_cut() {
        let fit = Fit { scale: 0.1, max_input: Some(100), max_output: None };
        assert_eq!((fit.input(374), fit.input(4000), fit.input(1)), (37, 100, 1));
        assert_eq!(fit.output(4000), 400);
        let huge = Fit { scale: f64::MAX, max_input: None, max_output: None };
        assert_eq!((huge.input(1), huge.output(0)), (MAX_LENGTH, 1));
    }
}
