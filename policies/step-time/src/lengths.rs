//! How long answers become: a histogram of those that ended, and what it says of one that is under way.

use sluice_sdk::state::{Reader, Writer};

/// Four bins for each power of two, up to answers of 2^20 tokens.
const BINS: usize = 80;
/// Beyond so many answers all counts are halved, so that what was long ago weighs less.
const MEMORY: f32 = 2048.0;
/// Fewer answers than this say nothing.
const ENOUGH: f32 = 8.0;

/// Lengths are known up to a bin, whose width is a quarter to a fifth of them.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Lengths {
    /// Answers, in fractions of one once they are halved: a length that is seen rarely fades, and is not lost at once.
    counts: [f32; BINS],
    /// What is assumed before enough answers have ended.
    expected: u32,
    quantile: f64,
    /// For an answer that has come into each bin, the length that it reaches with this probability.
    reached: [u32; BINS],
}

impl Lengths {
    pub(crate) fn new(expected: u32, quantile: f64) -> Self {
        let mut lengths = Self { counts: [0.0; BINS], expected, quantile, reached: [0; BINS] };
        lengths.tabulate();
        lengths
    }

    pub(crate) fn add(&mut self, tokens: u32) {
        self.counts[bin(tokens)] += 1.0;
        if self.answers() > MEMORY {
            self.counts.iter_mut().for_each(|count| *count /= 2.0);
        }
    }

    fn answers(&self) -> f32 {
        self.counts.iter().sum()
    }

    /// To be called after a round of `add`.
    pub(crate) fn tabulate(&mut self) {
        let known = self.answers() >= ENOUGH;
        let mut beyond = 0.0;
        for from in (0..BINS).rev() {
            beyond += self.counts[from];
            let half_again = end(from).saturating_add(end(from) / 2);
            self.reached[from] = match known {
                true if beyond >= ENOUGH => self.reached_from(from, beyond),
                // Longer than nearly all that were seen.
                true => half_again,
                false => self.expected.max(half_again),
            };
        }
    }

    fn reached_from(&self, from: usize, beyond: f32) -> u32 {
        let wanted = f64::from(beyond) * self.quantile;
        let mut seen = 0.0;
        for at in from..BINS {
            seen += f64::from(self.counts[at]);
            if seen >= wanted {
                return end(at);
            }
        }
        end(BINS - 1)
    }

    /// Tokens that an answer will plausibly still have: at least one, and no more than it may have.
    pub(crate) fn remaining(&self, generated: u32, max_new_tokens: u32) -> u32 {
        let plausible = self.reached[bin(generated)].saturating_sub(generated);
        plausible.min(max_new_tokens.saturating_sub(generated)).max(1)
    }

    pub(crate) fn export(&self, state: &mut Writer) {
        self.counts.iter().for_each(|count| state.u32(count.to_bits()));
    }

    /// `None` where it is not what `export` writes.
    pub(crate) fn import(&mut self, state: &mut Reader<'_>) -> Option<()> {
        let mut counts = [0.0; BINS];
        for count in &mut counts {
            *count = state.u32().map(f32::from_bits).filter(|count| (0.0..=MEMORY).contains(count))?;
        }
        self.counts = counts;
        self.tabulate();
        Some(())
    }
}

fn bin(tokens: u32) -> usize {
    let tokens = tokens.max(1);
    let octave = tokens.ilog2() as usize;
    // Two bits below the leading one.
    let quarter = if octave >= 2 { (tokens >> (octave - 2)) & 3 } else { (tokens << (2 - octave)) & 3 };
    (octave * 4 + quarter as usize).min(BINS - 1)
}

/// The longest of a bin.
fn end(bin: usize) -> u32 {
    let (octave, quarter) = (bin / 4, bin % 4);
    let next = (5 + quarter as u64) << octave;
    u32::try_from((next / 4).saturating_sub(1)).unwrap_or(u32::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(answers: impl IntoIterator<Item = u32>) -> Lengths {
        let mut lengths = Lengths::new(256, 0.5);
        answers.into_iter().for_each(|tokens| lengths.add(tokens));
        lengths.tabulate();
        lengths
    }

    #[test]
    fn a_bin_is_narrow_and_ends_where_the_next_begins() {
        for tokens in 8..100_000 {
            let end = end(bin(tokens));
            assert!(end >= tokens && f64::from(end) < f64::from(tokens) * 1.25, "{tokens}: {end}");
            assert_eq!(bin(end + 1), bin(tokens) + 1, "{tokens}");
        }
        assert_eq!((bin(0), bin(u32::MAX)), (0, BINS - 1));
    }

    #[test]
    fn before_enough_has_ended_answers_are_as_long_as_expected() {
        let lengths = lengths([10; 7]);
        assert_eq!(lengths.remaining(0, 1000), 256);
        assert_eq!(lengths.remaining(0, 100), 100);
        assert_eq!(lengths.remaining(100, 1000), 156);
        assert!(lengths.remaining(1000, 8000) >= 500, "beyond what is expected it goes on");
    }

    #[test]
    fn the_quantile_is_of_those_that_came_as_far() {
        let lengths = lengths((0..100).map(|it| if it < 80 { 50 } else { 400 }));
        let near = |remaining: u32, expected: u32| (expected..expected * 5 / 4 + 2).contains(&remaining);
        assert!(near(lengths.remaining(0, 1000), 50), "{}", lengths.remaining(0, 1000));
        assert!(near(lengths.remaining(100, 1000), 300), "{}", lengths.remaining(100, 1000));
        assert!(lengths.remaining(450, 1000) >= 200, "longer than any that ended");
    }

    #[test]
    fn there_is_always_one_token_left_and_never_more_than_may_be() {
        let lengths = lengths([50; 20]);
        for (generated, most) in [(0, 0), (5, 5), (9, 3), (60, 61), (u32::MAX, u32::MAX), (0, 1)] {
            let remaining = lengths.remaining(generated, most);
            assert!(remaining >= 1 && remaining <= most.saturating_sub(generated).max(1));
        }
    }

    #[test]
    fn what_was_long_ago_is_forgotten() {
        let lengths = lengths([1000; 3000].into_iter().chain([20; 5000]));
        assert!(lengths.remaining(0, 5000) < 30, "{}", lengths.remaining(0, 5000));
    }

    #[test]
    fn lengths_that_are_seen_rarely_fade_and_are_not_lost_at_once() {
        // One answer in each of sixteen bins from 1,024 to 16,383 tokens, and so many short ones that all are halved.
        let rare = (0..16).map(|at| (4 + at % 4) << (8 + at / 4));
        let lengths = lengths(rare.chain([20; 2033]));
        assert!(lengths.answers() < 1100.0, "halved");
        assert_eq!(lengths.remaining(1000, 50_000), 3095, "half of those that came as far ended within 4,095 tokens");
    }

    #[test]
    fn what_is_exported_is_imported() {
        let old = lengths([50; 2050]);
        let mut state = Writer::default();
        old.export(&mut state);
        let bytes = state.finish();
        let mut new = lengths([]);
        assert!(new.import(&mut Reader::new(&bytes)).is_some());
        assert_eq!(new, old);
        assert!(new.import(&mut Reader::new(&bytes[1..])).is_none());
        assert!(new.import(&mut Reader::new(&[0xff; BINS * 4])).is_none());
    }
}
