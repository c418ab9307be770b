//! The three gauges of a GPU that its operators know: utilization, memory and speed. What is not known is not there.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::view::DeviceSample;
use sluice_core::{Clock, Nanos, SECOND};

use crate::counts::ReplicaCounts;
use crate::page::{Family, Kind, Read, Scalars, labels};

/// A sample that is older says nothing of now: a replica without work takes none.
const FRESH: Nanos = 10 * SECOND;
/// Speed is measured over at least so long.
const WINDOW: Nanos = SECOND;

/// What was last read from one replica's device. A number that is not finite is unknown.
pub(crate) struct Device {
    taken: AtomicU64,
    utilization: AtomicU64,
    memory_bytes: AtomicU64,
}

/// Tokens per second since a scrape at least `WINDOW` ago, or since the start.
struct Speed {
    /// The last two times that it was asked for, at least `WINDOW` apart, with the tokens generated until then.
    marks: Mutex<[(Nanos, u64); 2]>,
}

impl Device {
    pub(crate) fn new() -> Self {
        let unknown = || AtomicU64::new(f64::NAN.to_bits());
        Self { taken: AtomicU64::new(0), utilization: unknown(), memory_bytes: unknown() }
    }

    pub(crate) fn sampled(&self, sample: &DeviceSample, now: Nanos) {
        let set = |gauge: &AtomicU64, value: Option<f64>| {
            gauge.store(value.unwrap_or(f64::NAN).to_bits(), Ordering::Relaxed);
        };
        set(&self.utilization, sample.nvml_gpu);
        set(&self.memory_bytes, sample.memory_used_bytes.map(|bytes| bytes as f64));
        self.taken.store(now, Ordering::Relaxed);
    }

    fn read(&self, of: fn(&Self) -> &AtomicU64, now: Nanos) -> Option<f64> {
        let fresh = now.saturating_sub(self.taken.load(Ordering::Relaxed)) <= FRESH;
        let value = f64::from_bits(of(self).load(Ordering::Relaxed));
        (fresh && value.is_finite()).then_some(value)
    }
}

impl Speed {
    fn since(now: Nanos) -> Self {
        Self { marks: Mutex::new([(now, 0); 2]) }
    }

    fn read(&self, generated: u64, now: Nanos) -> f64 {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(marks[1].0) >= WINDOW {
            *marks = [marks[1], (now, generated)];
        }
        let (since, before) = marks[0];
        let window = now.saturating_sub(since).max(1) as f64 / SECOND as f64;
        generated.saturating_sub(before) as f64 / window
    }
}

pub(crate) fn families(
    replicas: &[Arc<ReplicaCounts>],
    devices: &[Arc<Device>],
    clock: &Arc<dyn Clock>,
) -> Vec<Box<dyn Family>> {
    let gpu = |id: usize| labels(&[("gpu_id", &id.to_string())]);
    let sampled = |of: fn(&Device) -> &AtomicU64, unit: f64| {
        let series = devices.iter().enumerate().map(|(id, device)| {
            let (device, clock) = (Arc::clone(device), Arc::clone(clock));
            let read: Read = Box::new(move || Some(device.read(of, clock.now())? / unit));
            (gpu(id), read)
        });
        series.collect::<Vec<_>>()
    };
    let speeds = replicas.iter().enumerate().map(|(id, counts)| {
        let (counts, clock, speed) = (Arc::clone(counts), Arc::clone(clock), Speed::since(clock.now()));
        let read: Read = Box::new(move || Some(speed.read(counts.generated(), clock.now())));
        (gpu(id), read)
    });
    let utilization = sampled(|device| &device.utilization, 1.0);
    let memory = sampled(|device| &device.memory_bytes, 1e9);
    let of_now = |name, help, series| Box::new(Scalars::new(name, Kind::Gauge, help, series)) as Box<dyn Family>;
    vec![
        of_now("gpu_utilization", "Share of the last second in which a kernel ran, by NVML: 0 to 1.", utilization),
        of_now("gpu_memory_usage", "Memory in use, in GB of 10^9 bytes.", memory),
        of_now("token_generation_speed", "Tokens generated a second, since the last scrape.", speeds.collect()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_over_a_second_at_least_whoever_asks_in_between() {
        let speed = Speed::since(0);
        let asked = [
            (SECOND / 2, 50, 100.0),
            (10 * SECOND, 1000, 100.0),
            // Another scrape right after it sees the same window, and a little more.
            (10 * SECOND + SECOND / 2, 1050, 100.0),
            (20 * SECOND, 1050, 5.0),
            (30 * SECOND, 1050, 0.0),
        ];
        for (now, generated, expected) in asked {
            assert!((speed.read(generated, now) - expected).abs() < 1e-9, "at {now}: {}", speed.read(generated, now));
        }
    }

    #[test]
    fn a_device_that_cannot_be_read_or_was_long_ago_is_absent() {
        let device = Device::new();
        let both =
            |now| [device.read(|device| &device.utilization, now), device.read(|device| &device.memory_bytes, now)];
        assert_eq!(both(0), [None; 2]);
        device.sampled(&DeviceSample::default(), SECOND);
        assert_eq!(both(SECOND), [None; 2]);
        let sample = DeviceSample { nvml_gpu: Some(0.7), memory_used_bytes: Some(5), ..DeviceSample::default() };
        device.sampled(&sample, 2 * SECOND);
        assert_eq!(both(3 * SECOND), [Some(0.7), Some(5.0)]);
        assert_eq!(both(13 * SECOND), [None; 2]);
    }
}
