//! What is asked of a card, and of the library that knows cards: NVML in the server, a script in tests.

use nvml_wrapper::error::NvmlError;

/// What a library says, or why it does not.
pub(super) type Answer<T> = Result<T, NvmlError>;

pub(super) trait Library {
    type Card<'a>: Card
    where
        Self: 'a;

    /// Asked once for each card. CUDA counts cards in another order than NVML, and some not at all: only the UUID is
    /// the same.
    fn card(&self, uuid: &str) -> Answer<Self::Card<'_>>;
}

/// Each is asked once a second for as long as it answers.
pub(super) trait Card {
    /// What the card has counted up to a moment.
    type Counters;

    fn utilization(&self) -> Answer<Utilization>;
    fn memory(&self) -> Answer<Memory>;
    fn power_watts(&self) -> Answer<f64>;
    fn sm_clock_hz(&self) -> Answer<u64>;
    fn throttle_reasons(&self) -> Answer<u64>;
    fn counters(&self) -> Answer<Self::Counters>;
    fn activity(&self, before: &Self::Counters, after: &Self::Counters) -> Answer<Activity>;
}

/// Shares of the time in which a kernel ran, and in which the memory was read or written.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Utilization {
    pub(super) gpu: f64,
    pub(super) memory: f64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Memory {
    pub(super) used_bytes: u64,
    pub(super) total_bytes: u64,
}

/// Shares of the multiprocessors that were busy, and of the memory's bandwidth that was used, between two counts.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Activity {
    pub(super) sm: Option<f64>,
    pub(super) dram: Option<f64>,
}
