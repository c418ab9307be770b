//! Turns one card's answers into a reading: what it refuses is asked less and less often.

use std::fmt::Display;
use std::mem;

use sluice_core::{DeviceReading, Nanos};

use super::library::{Activity, Answer, Card};

/// Readings between two attempts at what a card goes on refusing, at the most: about a minute.
const LONGEST_PAUSE: u32 = 63;

pub(super) struct Reader<C: Card> {
    card: C,
    /// Of the last reading, if the card gave them.
    counters: Option<C::Counters>,
    questions: Questions,
}

#[derive(Default)]
struct Questions {
    utilization: Patience,
    memory: Patience,
    power: Patience,
    clock: Patience,
    throttling: Patience,
    counters: Patience,
    activity: Patience,
}

/// How patiently something is asked that may be refused for ever, or for a while.
#[derive(Default)]
struct Patience {
    /// Readings to come in which it is not asked.
    rest: u32,
    /// The pause after the next refusal.
    pause: u32,
}

impl<C: Card> Reader<C> {
    pub(super) fn new(card: C) -> Self {
        Self { card, counters: None, questions: Questions::default() }
    }

    pub(super) fn read(&mut self, now: Nanos) -> DeviceReading {
        let Activity { sm, dram } = self.activity();
        let (card, asked) = (&self.card, &mut self.questions);
        let utilization = asked.utilization.ask("utilization", || card.utilization());
        let memory = asked.memory.ask("memory", || card.memory());
        DeviceReading {
            taken: now,
            nvml_gpu: utilization.map(|utilization| utilization.gpu),
            nvml_memory: utilization.map(|utilization| utilization.memory),
            memory_used_bytes: memory.map(|memory| memory.used_bytes),
            memory_total_bytes: memory.map(|memory| memory.total_bytes),
            power_watts: asked.power.ask("power", || card.power_watts()),
            sm_clock_hz: asked.clock.ask("SM clock", || card.sm_clock_hz()),
            throttle_reasons: asked.throttling.ask("throttle reasons", || card.throttle_reasons()),
            sm_activity: known(sm),
            dram_activity: known(dram),
        }
    }

    /// From one count to the next. Counts further apart than one reading are not compared: nobody asked for the mean of
    /// a minute.
    fn activity(&mut self) -> Activity {
        let (card, asked) = (&self.card, &mut self.questions);
        let before = mem::replace(&mut self.counters, asked.counters.ask("counters", || card.counters()));
        let (Some(before), Some(after)) = (&before, &self.counters) else { return Activity::default() };
        asked.activity.ask("activity", || card.activity(before, after)).unwrap_or_default()
    }
}

impl Patience {
    fn ask<T>(&mut self, what: &str, question: impl FnOnce() -> Answer<T>) -> Option<T> {
        if self.rest > 0 {
            self.rest -= 1;
            return None;
        }
        match question() {
            Ok(answer) => {
                self.pause = 0;
                Some(answer)
            }
            Err(error) => {
                self.refused(what, &error);
                None
            }
        }
    }

    fn refused(&mut self, what: &str, error: &dyn Display) {
        if self.pause == 0 {
            tracing::debug!(what, %error, "a card does not say it; it is asked again now and then");
        }
        self.rest = self.pause;
        self.pause = (self.pause * 2 + 1).min(LONGEST_PAUSE);
    }
}

fn known(ratio: Option<f64>) -> Option<f64> {
    ratio.filter(|ratio| ratio.is_finite())
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
