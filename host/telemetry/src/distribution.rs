//! How often values of which size came: two atomic adds for each, and a reader that never waits for a writer.
//!
//! The prometheus crate's own histogram makes a scrape wait until every observation that has begun is complete: one
//! thread that is suspended in the middle of it holds the scrape up for a time slice.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts whole numbers. Its bounds are all that any name asks for under which it is shown.
pub(crate) struct Distribution {
    /// Inclusive and ascending.
    bounds: Box<[u64]>,
    /// One more than there are bounds: the last counts what lies above them all.
    counts: Box<[AtomicU64]>,
    /// Wraps around, which Prometheus takes for a restart.
    sum: AtomicU64,
}

/// What a distribution's numbers are, and how they are shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unit {
    /// Counted in nanoseconds, shown in seconds.
    Time,
    Tokens,
}

/// What distributions of the same bounds hold together. A value that comes meanwhile may be in the counts and not yet
/// in the sum.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) counts: Vec<u64>,
    pub(crate) sum: u64,
}

impl Unit {
    /// A bound as it is shown, as it is counted.
    pub(crate) fn counted(self, shown: f64) -> u64 {
        match self {
            Self::Time => (shown * 1e9).round() as u64,
            Self::Tokens => shown as u64,
        }
    }

    pub(crate) fn shown(self, counted: u64) -> f64 {
        match self {
            Self::Time => counted as f64 / 1e9,
            Self::Tokens => counted as f64,
        }
    }
}

impl Distribution {
    pub(crate) fn new(unit: Unit, bounds: &[&[f64]]) -> Self {
        let mut bounds: Vec<u64> = bounds.iter().copied().flatten().map(|&bound| unit.counted(bound)).collect();
        bounds.sort_unstable();
        bounds.dedup();
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds: bounds.into(), counts, sum: AtomicU64::new(0) }
    }

    pub(crate) fn observe(&self, value: u64) {
        let bucket = self.bounds.partition_point(|&bound| bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// How many values there were.
    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    pub(crate) fn add_to(&self, tally: &mut Tally) {
        tally.counts.resize(self.counts.len(), 0);
        for (total, count) in tally.counts.iter_mut().zip(&self.counts) {
            *total += count.load(Ordering::Relaxed);
        }
        tally.sum = tally.sum.wrapping_add(self.sum.load(Ordering::Relaxed));
    }

    /// How many of a tally's counts lie at or below a bound.
    pub(crate) fn counts_within(&self, bound: u64) -> usize {
        self.bounds.partition_point(|&known| known <= bound)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_bound_counts_what_lies_at_or_below_it(values in prop::collection::vec(0u64..100, 0..50)) {
            let (fine, coarse) = ([1.0, 5.0, 20.0, 50.0], [5.0, 30.0]);
            let distribution = Distribution::new(Unit::Tokens, &[&fine, &coarse]);
            for &value in &values {
                distribution.observe(value);
            }
            let mut tally = Tally::default();
            distribution.add_to(&mut tally);
            for bound in [1, 5, 20, 30, 50] {
                let within: u64 = tally.counts[..distribution.counts_within(bound)].iter().sum();
                prop_assert_eq!(within, values.iter().filter(|&&value| value <= bound).count() as u64);
            }
            prop_assert_eq!((distribution.count(), tally.sum), (values.len() as u64, values.iter().sum()));
        }
    }

    #[test]
    fn decimal_bounds_are_whole_nanoseconds() {
        assert_eq!(
            [1e-6, 0.0025, 0.3, 2560.0].map(|bound| Unit::Time.counted(bound)),
            [1000, 2_500_000, 300_000_000, 2_560_000_000_000]
        );
    }
}
