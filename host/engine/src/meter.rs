//! How busy the engine and its device are, sampled once a second.

use sluice_core::view::DeviceSample;
use sluice_core::{DeviceReading, Nanos, SECOND, StepTimes};

#[derive(Default)]
pub(crate) struct Meter {
    window_start: Nanos,
    device_time: Nanos,
    /// Of the same steps, what the device's bandwidth and arithmetic allow. None until a step has said so.
    roof: Option<Nanos>,
    last_finish: Nanos,
    number: u64,
    /// When the oldest number of the sample was true.
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
        self.roof = times.roof.map_or(self.roof, |roof| Some(self.roof.unwrap_or(0) + roof));
        gap
    }

    /// Whether a second has passed since the last sample.
    pub(crate) fn is_due(&self, now: Nanos) -> bool {
        self.window(now) >= SECOND
    }

    /// A new sample: what steps came to since the one before, and what the card last said, unless that was long ago.
    pub(crate) fn sample(&mut self, reading: Option<DeviceReading>, now: Nanos) -> DeviceSample {
        let reading = reading.filter(|reading| reading.is_fresh(now));
        let window = self.window(now);
        let share = |time: Nanos| (time as f64 / window.max(1) as f64).min(1.0);
        let (engine_busy, roofline_share) = (share(self.device_time), self.roof.map(share));
        self.number += 1;
        self.taken = reading.map_or(now, |reading| reading.taken.min(now));
        (self.window_start, self.device_time, self.roof) = (now, 0, self.roof.map(|_| 0));
        let own = DeviceSample { number: self.number, window, engine_busy, roofline_share, ..DeviceSample::default() };
        let sample = DeviceSample { age: now - self.taken, ..with_reading(own, reading.unwrap_or_default()) };
        self.sample = Some(sample);
        sample
    }

    /// The last sample, with its age.
    pub(crate) fn latest(&self, now: Nanos) -> Option<DeviceSample> {
        self.sample.map(|sample| DeviceSample { age: now.saturating_sub(self.taken), ..sample })
    }

    fn window(&self, now: Nanos) -> Nanos {
        now.saturating_sub(self.window_start)
    }
}

fn with_reading(sample: DeviceSample, reading: DeviceReading) -> DeviceSample {
    DeviceSample {
        nvml_gpu: reading.nvml_gpu,
        nvml_memory: reading.nvml_memory,
        memory_used_bytes: reading.memory_used_bytes,
        memory_total_bytes: reading.memory_total_bytes,
        power_watts: reading.power_watts,
        sm_clock_hz: reading.sm_clock_hz,
        throttle_reasons: reading.throttle_reasons,
        sm_activity: reading.sm_activity,
        dram_activity: reading.dram_activity,
        ..sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READING: DeviceReading = DeviceReading {
        taken: SECOND,
        nvml_gpu: Some(0.9),
        nvml_memory: Some(0.5),
        memory_used_bytes: Some(70),
        memory_total_bytes: Some(141),
        power_watts: Some(650.0),
        sm_clock_hz: Some(1_980_000_000),
        throttle_reasons: Some(4),
        sm_activity: None,
        dram_activity: Some(0.8),
    };

    #[test]
    fn busy_is_device_time_over_wall_time() {
        let mut meter = Meter::new(0);
        let half = StepTimes { submitted: 10, finished: SECOND / 2 + 10, device: SECOND / 2, roof: None };
        assert_eq!(meter.step(&half), 10);
        assert!(!meter.is_due(SECOND / 2) && meter.is_due(2 * SECOND));
        assert_eq!(meter.latest(SECOND / 2), None);
        let sample = meter.sample(None, 2 * SECOND);
        assert_eq!((sample.number, sample.engine_busy, sample.window), (1, 0.25, 2 * SECOND));
        assert!(!meter.is_due(2 * SECOND + 5));
        assert_eq!(meter.latest(2 * SECOND + 5), Some(DeviceSample { age: 5, ..sample }));
    }

    #[test]
    fn what_the_device_allows_counts_once_it_is_known() {
        let mut meter = Meter::new(0);
        let step = |roof| StepTimes { roof, device: SECOND / 2, ..StepTimes::default() };
        meter.step(&step(None));
        assert_eq!(meter.sample(None, SECOND).roofline_share, None);
        meter.step(&step(Some(SECOND / 8)));
        meter.step(&step(Some(SECOND / 8)));
        let sample = meter.sample(None, 2 * SECOND);
        assert_eq!((sample.engine_busy, sample.roofline_share), (1.0, Some(0.25)));
        assert_eq!(meter.sample(None, 3 * SECOND).roofline_share, Some(0.0), "nothing was computed");
    }

    #[test]
    fn a_sample_is_as_old_as_its_oldest_number() {
        let (age, now) = (SECOND / 4, SECOND + SECOND / 4);
        let own = DeviceSample { number: 1, window: now, ..DeviceSample::default() };
        let mut meter = Meter::new(0);
        assert_eq!(meter.sample(None, now), own);
        assert_eq!(meter.latest(now + 7).map(|sample| sample.age), Some(7));

        let mut meter = Meter::new(0);
        let sample = meter.sample(Some(READING), now);
        let DeviceSample { nvml_gpu, nvml_memory, memory_used_bytes, memory_total_bytes, .. } = sample;
        let DeviceSample { power_watts, sm_clock_hz, throttle_reasons, sm_activity, dram_activity, .. } = sample;
        let read = DeviceReading {
            taken: now - sample.age,
            nvml_gpu,
            nvml_memory,
            memory_used_bytes,
            memory_total_bytes,
            power_watts,
            sm_clock_hz,
            throttle_reasons,
            sm_activity,
            dram_activity,
        };
        assert_eq!((read, sample.age, sample.roofline_share), (READING, age, None));
        assert_eq!(meter.latest(now + 7).map(|sample| sample.age), Some(age + 7));

        // The card was read between the look at the clock and the sample.
        let early = Meter::new(0).sample(Some(READING), SECOND - 1);
        assert_eq!((early.age, early.nvml_gpu), (0, READING.nvml_gpu));
    }

    #[test]
    fn what_was_read_long_ago_is_left_out() {
        for (now, read) in
            [(SECOND + DeviceReading::STALE_AFTER, true), (SECOND + DeviceReading::STALE_AFTER + 1, false)]
        {
            let sample = Meter::new(0).sample(Some(READING), now);
            assert_eq!((sample.power_watts.is_some(), sample.dram_activity.is_some()), (read, read), "at {now}");
            assert_eq!(sample.age, if read { DeviceReading::STALE_AFTER } else { 0 });
        }
    }
}
