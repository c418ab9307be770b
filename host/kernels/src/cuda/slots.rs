//! Host memory of the steps in flight, used in turns.

use super::driver::{Event, PinnedMemory};
use crate::DeviceError;

/// Begins with none.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    /// The oldest step's, if one is in flight.
    first: usize,
    in_flight: usize,
}

pub(super) struct Slot {
    pub(super) staging: PinnedMemory,
    pub(super) results: PinnedMemory,
    /// Of the results, what the step copies.
    pub(super) used: usize,
    /// Before the first operation, behind the last one, and behind the results.
    pub(super) start: Event,
    pub(super) end: Event,
    pub(super) done: Event,
}

impl Slots {
    pub(super) fn reserve(staging: usize, results: usize, depth: usize) -> Result<Self, DeviceError> {
        let slot = |_| {
            Ok(Slot {
                staging: PinnedMemory::reserve(staging)?,
                results: PinnedMemory::reserve(results)?,
                used: 0,
                start: Event::new()?,
                end: Event::new()?,
                // The next step is queued by then, so that waking up late costs the card nothing; a thread that asks all
                // the time would cost a core for each replica.
                done: Event::blocking()?,
            })
        };
        Ok(Self { slots: (0..depth).map(slot).collect::<Result<_, DeviceError>>()?, first: 0, in_flight: 0 })
    }

    /// Of the next step; none where all are in flight.
    pub(super) fn next(&mut self) -> Option<&mut Slot> {
        let index = next(self.first, self.in_flight, self.slots.len())?;
        self.slots.get_mut(index)
    }

    /// The next step is in flight.
    pub(super) fn begin(&mut self) {
        self.in_flight += 1;
    }

    pub(super) fn oldest(&self) -> Option<&Slot> {
        if self.in_flight == 0 { None } else { self.slots.get(self.first) }
    }

    /// The oldest step, which is not in flight any more; its slot is the last to be used again.
    pub(super) fn end(&mut self) -> Option<&Slot> {
        if self.in_flight == 0 {
            return None;
        }
        let ended = self.first;
        self.first = (self.first + 1) % self.slots.len();
        self.in_flight -= 1;
        self.slots.get(ended)
    }
}

/// The slot behind those in flight.
fn next(first: usize, in_flight: usize, slots: usize) -> Option<usize> {
    if in_flight < slots { Some((first + in_flight) % slots) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_in_turns_and_never_twice_at_once() {
        let places = [(0, 0, 2), (0, 1, 2), (0, 2, 2), (1, 1, 2), (1, 0, 2), (2, 2, 3), (0, 0, 0)];
        let found = places.map(|(first, in_flight, slots)| next(first, in_flight, slots));
        assert_eq!(found, [Some(0), Some(1), None, Some(0), Some(1), Some(1), None]);
    }

    #[test]
    fn without_slots_there_is_nothing() {
        let mut slots = Slots::default();
        assert!(slots.next().is_none() && slots.oldest().is_none() && slots.end().is_none());
    }
}
