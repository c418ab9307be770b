//! A seat's bounded buffer of events: numbered in order, delivered before the next decision, a loss counted.

use sluice_core::view::DeviceSample;
use sluice_core::{Events, Finished, Nanos, Preempted};

/// How many events wait for a policy at the most.
pub(crate) const MAX_EVENTS: usize = 1024;

#[derive(Default)]
pub(crate) struct EventBuffer {
    waiting: Events,
    next_number: u64,
}

impl EventBuffer {
    pub(crate) fn finished(&mut self, finished: Finished) {
        if let Some(number) = self.number() {
            self.waiting.finished.push((number, finished));
        }
    }

    pub(crate) fn preempted(&mut self, preempted: Preempted) {
        if let Some(number) = self.number() {
            self.waiting.preempted.push((number, preempted));
        }
    }

    /// A sample carries a number of its own and supersedes the one before.
    pub(crate) fn sample(&mut self, sample: DeviceSample) {
        self.waiting.samples.clear();
        self.waiting.samples.push(sample);
    }

    /// What waits, if anything does.
    pub(crate) fn pending(&mut self, now: Nanos) -> Option<&Events> {
        self.waiting.now = now;
        (!self.waiting.is_empty()).then_some(&self.waiting)
    }

    pub(crate) fn delivered(&mut self) {
        self.waiting.clear();
    }

    fn number(&mut self) -> Option<u64> {
        let number = self.next_number;
        self.next_number += 1;
        if self.waiting.finished.len() + self.waiting.preempted.len() < MAX_EVENTS {
            return Some(number);
        }
        self.waiting.lost += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use sluice_core::RequestId;

    use super::*;

    #[test]
    fn a_loss_shows_as_a_gap_and_a_count() {
        let mut buffer = EventBuffer::default();
        let event = Preempted { id: RequestId(1), recompute_tokens: 5 };
        for _ in 0..MAX_EVENTS + 3 {
            buffer.preempted(event);
        }
        let events = buffer.pending(7).expect("events wait");
        assert_eq!((events.preempted.len(), events.lost, events.now), (MAX_EVENTS, 3, 7));

        buffer.delivered();
        assert!(buffer.pending(8).is_none());
        buffer.preempted(event);
        let events = buffer.pending(9).expect("one more");
        assert_eq!(events.preempted[0].0, MAX_EVENTS as u64 + 3);
    }
}
