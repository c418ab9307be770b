//! A card and a library that answer as a test tells them, and remember what they were asked.

use std::sync::{Arc, Mutex, MutexGuard};

use nvml_wrapper::error::NvmlError;

use super::library::{Activity, Answer, Card, Library, Memory, Utilization};

pub(super) const UTILIZATION: &str = "utilization";
pub(super) const MEMORY: &str = "memory";
pub(super) const POWER: &str = "power";
pub(super) const CLOCK: &str = "clock";
pub(super) const THROTTLING: &str = "throttling";
pub(super) const COUNTERS: &str = "counters";
pub(super) const ACTIVITY: &str = "activity";

/// Its copies are the same card.
#[derive(Clone, Default)]
pub(super) struct FakeCard(Arc<Mutex<Told>>);

#[derive(Default)]
pub(super) struct Told {
    /// What it does not answer.
    pub(super) refuses: Vec<&'static str>,
    /// What it was asked.
    pub(super) asked: Vec<&'static str>,
    /// What it has counted, of which activity is the difference.
    pub(super) counted: f64,
}

impl FakeCard {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap()
    }

    fn answer<T>(&self, question: &'static str, answer: T) -> Answer<T> {
        let mut told = self.told();
        told.asked.push(question);
        if told.refuses.contains(&question) { Err(NvmlError::NotSupported) } else { Ok(answer) }
    }
}

impl Card for FakeCard {
    type Counters = f64;

    fn utilization(&self) -> Answer<Utilization> {
        self.answer(UTILIZATION, Utilization { gpu: 0.9, memory: 0.5 })
    }

    fn memory(&self) -> Answer<Memory> {
        self.answer(MEMORY, Memory { used_bytes: 70, total_bytes: 141 })
    }

    fn power_watts(&self) -> Answer<f64> {
        self.answer(POWER, 650.0)
    }

    fn sm_clock_hz(&self) -> Answer<u64> {
        self.answer(CLOCK, 1_980_000_000)
    }

    fn throttle_reasons(&self) -> Answer<u64> {
        self.answer(THROTTLING, 4)
    }

    fn counters(&self) -> Answer<f64> {
        let counted = self.told().counted;
        self.answer(COUNTERS, counted)
    }

    fn activity(&self, before: &f64, after: &f64) -> Answer<Activity> {
        self.answer(ACTIVITY, Activity { sm: Some(after - before), dram: None })
    }
}

/// Knows the cards that it has, by their UUIDs.
pub(super) struct FakeLibrary(pub(super) Vec<(&'static str, FakeCard)>);

impl Library for FakeLibrary {
    type Card<'a> = FakeCard;

    fn card(&self, uuid: &str) -> Answer<FakeCard> {
        let known = self.0.iter().find(|(known, _)| *known == uuid);
        known.map(|(_, card)| card.clone()).ok_or(NvmlError::NotFound)
    }
}
