//! The gauges of the GPUs: three that their operators know by name, and ours. What is not known is not there.

use std::sync::{Arc, Mutex, PoisonError};

use nvml_wrapper::bitmasks::device::ThrottleReasons;
use sluice_core::{Clock, DeviceReading, DeviceReadings, Nanos, ReplicaId, SECOND};

use crate::counts::ReplicaCounts;
use crate::page::{Family, Kind, Read, Scalars, labels};

/// Speed is measured over at least so long.
const WINDOW: Nanos = SECOND;

/// A gauge of what a card says.
struct Said {
    name: &'static str,
    help: &'static str,
    value: fn(&DeviceReading) -> Option<f64>,
}

const SAID: &[Said] = &[
    Said {
        name: "gpu_utilization",
        help: "Share of the last second in which a kernel ran, by NVML: 0 to 1.",
        value: |card| card.nvml_gpu,
    },
    Said {
        name: "gpu_memory_usage",
        help: "Memory in use, in GB of 10^9 bytes.",
        value: |card| Some(card.memory_used_bytes? as f64 / 1e9),
    },
    Said {
        name: "sluice_gpu_memory_access_ratio",
        help: "Share of the last second in which the GPU's memory was read or written, by NVML.",
        value: |card| card.nvml_memory,
    },
    Said {
        name: "sluice_gpu_memory_used_bytes",
        help: "Memory in use.",
        value: |card| Some(card.memory_used_bytes? as f64),
    },
    Said {
        name: "sluice_gpu_memory_size_bytes",
        help: "Memory that the GPU has.",
        value: |card| Some(card.memory_total_bytes? as f64),
    },
    Said { name: "sluice_gpu_power_watts", help: "Power that the GPU draws.", value: |card| card.power_watts },
    Said {
        name: "sluice_gpu_sm_clock_hertz",
        help: "Clock of the multiprocessors.",
        value: |card| Some(card.sm_clock_hz? as f64),
    },
    Said {
        name: "sluice_gpu_sm_activity_ratio",
        help: "Share of the multiprocessors that were busy in the last second.",
        value: |card| card.sm_activity,
    },
    Said {
        name: "sluice_gpu_dram_activity_ratio",
        help: "Share of the memory's bandwidth that was used in the last second.",
        value: |card| card.dram_activity,
    },
];

/// Why a card runs at less than its highest clock, by the names that nvidia-smi has for it.
const THROTTLED_BY: &[(ThrottleReasons, &str)] = &[
    (ThrottleReasons::GPU_IDLE, "gpu_idle"),
    (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "applications_clocks_setting"),
    (ThrottleReasons::SW_POWER_CAP, "sw_power_cap"),
    (ThrottleReasons::HW_SLOWDOWN, "hw_slowdown"),
    (ThrottleReasons::SYNC_BOOST, "sync_boost"),
    (ThrottleReasons::SW_THERMAL_SLOWDOWN, "sw_thermal_slowdown"),
    (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hw_thermal_slowdown"),
    (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "hw_power_brake_slowdown"),
    (ThrottleReasons::DISPLAY_CLOCK_SETTING, "display_clock_setting"),
];

/// Tokens per second since a scrape at least `WINDOW` ago, or since the start.
struct Speed {
    /// The last two times that it was asked for, at least `WINDOW` apart, with the tokens generated until then.
    marks: Mutex<[(Nanos, u64); 2]>,
}

/// One replica's card, as long as it answers.
#[derive(Clone)]
struct Card {
    replica: ReplicaId,
    devices: Arc<dyn DeviceReadings>,
    clock: Arc<dyn Clock>,
}

impl Card {
    fn latest(&self) -> Option<DeviceReading> {
        self.devices.latest(self.replica).filter(|reading| reading.is_fresh(self.clock.now()))
    }

    fn labels(&self, reason: Option<&str>) -> String {
        let id = self.replica.0.to_string();
        let mut names = vec![("gpu_id", id.as_str())];
        names.extend(reason.map(|reason| ("reason", reason)));
        labels(&names)
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
    devices: &Arc<dyn DeviceReadings>,
    clock: &Arc<dyn Clock>,
) -> Vec<Box<dyn Family>> {
    let card = |id| Card { replica: ReplicaId(id), devices: Arc::clone(devices), clock: Arc::clone(clock) };
    let cards: Vec<Card> = (0..).map(card).take(replicas.len()).collect();
    let speeds = cards.iter().zip(replicas).map(|(card, counts)| {
        let (counts, clock, speed) = (Arc::clone(counts), Arc::clone(clock), Speed::since(clock.now()));
        let read: Read = Box::new(move || Some(speed.read(counts.generated(), clock.now())));
        (card.labels(None), read)
    });
    let help = "Tokens generated a second, since the last scrape.";
    let mut families = vec![Scalars::new("token_generation_speed", Kind::Gauge, help, speeds.collect())];
    families.extend(SAID.iter().map(|said| said.family(&cards)));
    families.push(throttled(&cards));
    families.into_iter().map(|family| Box::new(family) as Box<dyn Family>).collect()
}

impl Said {
    fn family(&self, cards: &[Card]) -> Scalars {
        let series = cards.iter().map(|card| {
            let (value, labels, card) = (self.value, card.labels(None), card.clone());
            (labels, Box::new(move || value(&card.latest()?)) as Read)
        });
        Scalars::new(self.name, Kind::Gauge, self.help, series.collect())
    }
}

fn throttled(cards: &[Card]) -> Scalars {
    let series = cards.iter().flat_map(|card| {
        THROTTLED_BY.iter().map(move |&(reason, name)| {
            let (labels, card) = (card.labels(Some(name)), card.clone());
            let read = move || Some(f64::from(u8::from(card.latest()?.throttle_reasons? & reason.bits() != 0)));
            (labels, Box::new(read) as Read)
        })
    });
    let help = "Whether this keeps the GPU's clocks down: 0 or 1.";
    Scalars::new("sluice_gpu_throttled", Kind::Gauge, help, series.collect())
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
}
