//! A distribution in a few numbers, exact: every sample is kept until it is known.

use std::time::Duration;

use serde::Serialize;

use crate::record::milliseconds;

/// In milliseconds. A quantile between two samples lies on the line between them, as numpy's do.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) count: u64,
    pub(crate) mean: f64,
    /// Of these samples, not of what they are a sample of.
    pub(crate) std: f64,
    pub(crate) min: f64,
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

impl Quantiles {
    /// None of nothing.
    pub(crate) fn of(samples: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<f64> = samples.into_iter().map(milliseconds).collect();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let count = sorted.len() as f64;
        let mean = sorted.iter().sum::<f64>() / count;
        let variance = sorted.iter().map(|sample| (sample - mean).powi(2)).sum::<f64>() / count;
        let at = |share| quantile(&sorted, share);
        Some(Self {
            count: sorted.len() as u64,
            mean,
            std: variance.sqrt(),
            min,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max,
        })
    }
}

/// Of samples in order, of which there is at least one.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    below + (above - below) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // 0 to 100 in no order: the n-th percentile is n.
        let samples = (0..=100_u64).map(|index| Duration::from_millis(index * 37 % 101));
        let hundred = Quantiles::of(samples).unwrap();
        assert_eq!((hundred.count, hundred.min, hundred.max, hundred.mean), (101, 0.0, 100.0, 50.0));
        assert_eq!((hundred.p50, hundred.p90, hundred.p99), (50.0, 90.0, 99.0));
        assert!((hundred.p95 - 95.0).abs() < 1e-9);
        // The mean of squares of -50..=50 is 850.
        assert!((hundred.std - 850_f64.sqrt()).abs() < 1e-9);

        let two = Quantiles::of([Duration::from_millis(30), Duration::from_millis(10)]).unwrap();
        assert_eq!((two.p50, two.mean, two.std), (20.0, 20.0, 10.0));
        assert!((two.p90 - 28.0).abs() < 1e-9 && (two.p99 - 29.8).abs() < 1e-9);

        let one = Quantiles::of([Duration::from_micros(1500)]).unwrap();
        assert_eq!((one.p50, one.p99, one.max, one.std), (1.5, 1.5, 1.5, 0.0));
        assert_eq!(Quantiles::of([]), None);
    }
}
