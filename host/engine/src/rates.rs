//! Averages that forget: events per second, and the mean of a quantity.

use sluice_core::{Nanos, SECOND};

/// The time in which an event's weight falls to 1/e.
const MEMORY_SECONDS: f64 = 5.0;

/// Events per second over the last few seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rate {
    weight: f64,
    at: Nanos,
    since: Option<Nanos>,
}

impl Rate {
    pub(crate) fn count(&mut self, events: f64, now: Nanos) {
        self.weight = self.weight * decay(self.at, now) + events;
        self.at = self.at.max(now);
        self.since.get_or_insert(now);
    }

    pub(crate) fn per_second(&self, now: Nanos) -> f64 {
        let Some(since) = self.since else { return 0.0 };
        // Before the memory is full, what it has seen stands for a shorter time.
        let seen = seconds(now.saturating_sub(since)).max(0.1);
        let window = MEMORY_SECONDS * (1.0 - (-seen / MEMORY_SECONDS).exp());
        self.weight * decay(self.at, now) / window
    }
}

/// The mean of the last few values.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mean {
    value: Option<f64>,
}

impl Mean {
    pub(crate) fn add(&mut self, value: f64) {
        self.value = Some(self.value.map_or(value, |mean| mean + 0.1 * (value - mean)));
    }

    pub(crate) fn get(&self) -> Option<f64> {
        self.value
    }
}

fn decay(from: Nanos, to: Nanos) -> f64 {
    (-seconds(to.saturating_sub(from)) / MEMORY_SECONDS).exp()
}

fn seconds(nanos: Nanos) -> f64 {
    nanos as f64 / SECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_rate_is_measured_and_forgotten() {
        let mut rate = Rate::default();
        for n in 0..200 {
            rate.count(1.0, n * SECOND / 10);
        }
        let measured = rate.per_second(20 * SECOND);
        assert!((measured - 10.0).abs() < 0.5, "{measured}");
        assert!(rate.per_second(60 * SECOND) < 0.01);
    }

    #[test]
    fn a_mean_follows_its_values() {
        let mut mean = Mean::default();
        assert_eq!(mean.get(), None);
        (0..100).for_each(|_| mean.add(4.0));
        assert_eq!(mean.get(), Some(4.0));
    }
}
