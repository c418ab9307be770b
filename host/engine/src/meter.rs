//! How busy the engine is, sampled once a second.

use sluice_core::view::DeviceSample;
use sluice_core::{Nanos, SECOND, StepTimes};

#[derive(Default)]
pub(crate) struct Meter {
    window_start: Nanos,
    device_time: Nanos,
    last_finish: Nanos,
    number: u64,
    taken: Nanos,
    sample: Option<DeviceSample>,
}

impl Meter {
    pub(crate) fn new(now: Nanos) -> Self {
        Self { window_start: now, ..Self::default() }
    }

    /// Counts a step. Returns how long the device waited for it.
    pub(crate) fn step(&mut self, times: &StepTimes) -> Nanos {
        let gap = times.submitted.saturating_sub(self.last_finish);
        self.last_finish = times.finished;
        self.device_time += times.device;
        gap
    }

    /// A new sample, once a second.
    pub(crate) fn sample_if_due(&mut self, now: Nanos) -> Option<DeviceSample> {
        let window = now.saturating_sub(self.window_start);
        if window < SECOND {
            return None;
        }
        self.number += 1;
        let sample = DeviceSample {
            number: self.number,
            age: 0,
            window,
            engine_busy: (self.device_time as f64 / window as f64).min(1.0),
            ..DeviceSample::default()
        };
        (self.window_start, self.device_time, self.taken) = (now, 0, now);
        self.sample = Some(sample);
        self.sample
    }

    /// The last sample, with its age.
    pub(crate) fn latest(&self, now: Nanos) -> Option<DeviceSample> {
        self.sample.map(|sample| DeviceSample { age: now.saturating_sub(self.taken), ..sample })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_device_time_over_wall_time() {
        let mut meter = Meter::new(0);
        assert_eq!(meter.step(&StepTimes { submitted: 10, finished: SECOND / 2 + 10, device: SECOND / 2 }), 10);
        assert_eq!(meter.sample_if_due(SECOND / 2), None);
        let sample = meter.sample_if_due(2 * SECOND).expect("two seconds have passed");
        assert_eq!((sample.number, sample.engine_busy, sample.window), (1, 0.25, 2 * SECOND));
        assert_eq!(meter.latest(2 * SECOND + 5).map(|sample| sample.age), Some(5));
    }
}
