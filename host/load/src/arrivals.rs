//! When requests come: gaps drawn from a seed, so that the same load can be offered again.

use std::iter;
use std::time::Duration;

use rand::distr::Distribution as _;
use rand_distr::Gamma;
use serde::Serialize;

use crate::seed::Stream;

#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub(crate) enum Arrivals {
    /// A request is sent when another has ended: no rate is offered, only a concurrency.
    ClosedLoop,
    AtOnce,
    Constant {
        rate: f64,
    },
    /// Gaps of a gamma distribution with this shape and the mean 1 / rate, as vLLM's: 1 is Poisson, less is burstier.
    Random {
        rate: f64,
        burstiness: f64,
    },
}

impl Arrivals {
    /// When each request is to be sent, counted from the start. None is: as soon as there is room.
    pub(crate) fn times(self, seed: u64) -> Box<dyn Iterator<Item = Option<Duration>> + Send> {
        match self {
            Self::ClosedLoop => Box::new(iter::repeat(None)),
            Self::AtOnce => Box::new(iter::repeat(Some(Duration::ZERO))),
            Self::Constant { rate } => Box::new((0_u64..).map(move |index| seconds(index as f64 / rate)).map(Some)),
            Self::Random { rate, burstiness } => Box::new(random(rate, burstiness, seed).map(Some)),
        }
    }
}

/// The sum is kept as a float: rounding each gap would move the rate.
fn random(rate: f64, burstiness: f64, seed: u64) -> Box<dyn Iterator<Item = Duration> + Send> {
    let Ok(gaps) = Gamma::new(burstiness, 1.0 / (rate * burstiness)) else { return Box::new(iter::empty()) };
    let gaps = gaps.sample_iter(Stream::Arrivals.of(seed));
    Box::new(gaps.scan(0.0, |now, gap| {
        *now += gap;
        Some(seconds(*now))
    }))
}

/// Times beyond what a clock holds are the longest that it does.
pub(crate) fn seconds(seconds: f64) -> Duration {
    const LONGEST: Duration = Duration::from_secs(u32::MAX as u64);
    Duration::try_from_secs_f64(seconds).unwrap_or(LONGEST).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gaps(arrivals: Arrivals, count: usize) -> Vec<f64> {
        let times = arrivals.times(7).map(|time| time.unwrap().as_secs_f64());
        times.scan(0.0, |before, time| Some(time - std::mem::replace(before, time))).take(count).collect()
    }

    fn mean(values: &[f64]) -> f64 {
        values.iter().sum::<f64>() / values.len() as f64
    }

    /// Variance over the squared mean.
    fn squared_variation(values: &[f64]) -> f64 {
        let mean = mean(values);
        values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64 / mean.powi(2)
    }

    /// The greatest distance between how these values and an exponential distribution of this rate are distributed.
    fn distance_to_exponential(values: &[f64], rate: f64) -> f64 {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let count = sorted.len() as f64;
        let distances = sorted.iter().enumerate().map(|(rank, value)| {
            let expected = 1.0 - (-rate * value).exp();
            (expected - rank as f64 / count).abs().max((expected - (rank + 1) as f64 / count).abs())
        });
        distances.fold(0.0, f64::max)
    }

    #[test]
    fn poisson_arrivals_are_poisson() {
        let count = 100_000;
        let gaps = gaps(Arrivals::Random { rate: 20.0, burstiness: 1.0 }, count);
        // Five standard errors of the mean and of the squared variation of an exponential distribution.
        let error = 1.0 / (count as f64).sqrt();
        assert!((mean(&gaps) * 20.0 - 1.0).abs() < 5.0 * error, "{}", mean(&gaps));
        assert!((squared_variation(&gaps) - 1.0).abs() < 5.0 * 2.0 * error, "{}", squared_variation(&gaps));
        // Kolmogorov and Smirnov: one sample in a thousand is as far away as 1.95 / √n.
        assert!(distance_to_exponential(&gaps, 20.0) < 1.95 * error);
    }

    #[test]
    fn a_wrong_rate_or_shape_would_be_seen() {
        let count = 100_000;
        let error = 1.0 / (count as f64).sqrt();
        for (rate, burstiness) in [(20.3, 1.0), (20.0, 1.1), (20.0, 0.9)] {
            let gaps = gaps(Arrivals::Random { rate, burstiness }, count);
            assert!(distance_to_exponential(&gaps, 20.0) > 1.95 * error, "{rate} {burstiness}");
        }
    }

    #[test]
    fn burstiness_is_the_shape_and_leaves_the_rate() {
        for burstiness in [0.25, 0.5, 2.0, 4.0] {
            let gaps = gaps(Arrivals::Random { rate: 5.0, burstiness }, 200_000);
            assert!((mean(&gaps) * 5.0 - 1.0).abs() < 0.03, "{burstiness}: {}", mean(&gaps));
            assert!((squared_variation(&gaps) * burstiness - 1.0).abs() < 0.1, "{burstiness}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_times() {
        let times = |seed| Arrivals::Random { rate: 3.0, burstiness: 1.0 }.times(seed).take(100).collect::<Vec<_>>();
        assert_eq!(times(1), times(1));
        assert_ne!(times(1), times(2));
    }

    #[test]
    fn constant_spacing_does_not_drift() {
        let times: Vec<_> = Arrivals::Constant { rate: 3.0 }.times(0).take(3001).collect();
        assert_eq!(times[0], Some(Duration::ZERO));
        assert_eq!(times[3000], Some(Duration::from_secs(1000)));
    }

    #[test]
    fn a_rate_that_is_hardly_one_does_not_overflow() {
        let slow = Arrivals::Random { rate: 1e-300, burstiness: 1e-3 };
        assert_eq!(slow.times(0).take(10).count(), 10);
    }
}
