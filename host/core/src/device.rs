//! What the card under a replica says of itself, read by somebody else than the thread that steps.

use crate::{Nanos, ReplicaId, SECOND};

/// One reading of a card. What the card does not say is `None`.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct DeviceReading {
    /// On the engine's clock; no number of the reading is older.
    pub taken: Nanos,
    /// Share of time in which some kernel ran; says nothing of how full the card was.
    pub nvml_gpu: Option<f64>,
    /// Share of time in which the card's memory was read or written.
    pub nvml_memory: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_watts: Option<f64>,
    pub sm_clock_hz: Option<u64>,
    /// NVML's bit mask.
    pub throttle_reasons: Option<u64>,
    /// Share of the multiprocessors that were busy since the reading before.
    pub sm_activity: Option<f64>,
    /// Share of the memory's bandwidth that was used since the reading before.
    pub dram_activity: Option<f64>,
}

impl DeviceReading {
    /// Cards are read once a second: after three readings that did not come, the last one says nothing of now.
    pub const STALE_AFTER: Nanos = 3 * SECOND;

    pub fn is_fresh(&self, now: Nanos) -> bool {
        now.saturating_sub(self.taken) <= Self::STALE_AFTER
    }
}

/// The cards under the replicas, as they were last read.
pub trait DeviceReadings: Send + Sync {
    /// The last reading, however old; `None` for a replica without a card that can be read. Called once a second on the
    /// replica's own thread and by every scrape: it returns at once, whatever the card is doing.
    fn latest(&self, replica: ReplicaId) -> Option<DeviceReading>;
}

/// No card that can be read: replicas on the CPU, in tests and in the simulator.
pub struct NoDevices;

impl DeviceReadings for NoDevices {
    fn latest(&self, _: ReplicaId) -> Option<DeviceReading> {
        None
    }
}
