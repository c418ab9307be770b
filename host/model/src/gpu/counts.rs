//! Which sequences' tokens are counted on the device, where, and how far.

use std::collections::HashMap;

use sluice_core::RequestId;

/// A draw that penalises reads how often each token has occurred. The counts of a sequence stay on the device from one
/// draw to the next, each of which adds its token.
#[derive(Debug)]
pub(crate) struct Counts {
    slots: HashMap<RequestId, Slot>,
    free: Vec<u32>,
    /// Of steps.
    now: u64,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    index: u32,
    /// Tokens that are counted, and those that draws in flight will add.
    tokens: usize,
    used: u64,
}

/// What is to be done before a draw.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Counted {
    /// Everything so far is counted.
    Here { slot: u32 },
    /// The slot is to be cleared and filled.
    Anew { slot: u32 },
}

impl Counts {
    /// No step may draw for more sequences than there are slots.
    pub(crate) fn new(slots: u32) -> Self {
        Self { slots: HashMap::new(), free: (0..slots).rev().collect(), now: 0 }
    }

    /// The slots of these are not given away in the step that begins.
    pub(crate) fn begin_step(&mut self, sequences: impl Iterator<Item = RequestId>) {
        self.now += 1;
        for sequence in sequences {
            if let Some(slot) = self.slots.get_mut(&sequence) {
                slot.used = self.now;
            }
        }
    }

    /// For a draw after so many tokens, which adds one. `None` where every slot is taken in this step.
    pub(crate) fn draw(&mut self, sequence: RequestId, tokens: usize) -> Option<Counted> {
        if let Some(slot) = self.slots.get_mut(&sequence) {
            let counted = slot.tokens == tokens;
            (slot.tokens, slot.used) = (tokens + 1, self.now);
            let slot = slot.index;
            return Some(if counted { Counted::Here { slot } } else { Counted::Anew { slot } });
        }
        let index = self.free.pop().or_else(|| self.least_used())?;
        self.slots.insert(sequence, Slot { index, tokens: tokens + 1, used: self.now });
        Some(Counted::Anew { slot: index })
    }

    /// Nobody says when a sequence has ended: the slot goes to whoever comes when no other is free.
    fn least_used(&mut self) -> Option<u32> {
        let (sequence, slot) = self.slots.iter().min_by_key(|(_, slot)| slot.used)?;
        let (sequence, slot) = (*sequence, *slot);
        if slot.used == self.now {
            return None;
        }
        self.slots.remove(&sequence);
        Some(slot.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_counted_once_and_again_where_it_went_another_way() {
        let mut counts = Counts::new(2);
        let mut draw = |sequence, tokens| {
            counts.begin_step([RequestId(sequence)].into_iter());
            counts.draw(RequestId(sequence), tokens).unwrap()
        };
        assert_eq!(draw(7, 5), Counted::Anew { slot: 0 });
        assert_eq!(draw(7, 6), Counted::Here { slot: 0 });
        assert_eq!(draw(7, 9), Counted::Anew { slot: 0 });
        assert_eq!(draw(8, 1), Counted::Anew { slot: 1 });
        assert_eq!(draw(7, 10), Counted::Here { slot: 0 });
        assert_eq!(draw(9, 1), Counted::Anew { slot: 1 }, "8 was asked for longer ago");
        assert_eq!(draw(8, 2), Counted::Anew { slot: 0 });
    }

    #[test]
    fn one_step_does_not_take_its_own_slots_away() {
        let mut counts = Counts::new(2);
        counts.begin_step([1, 2].map(RequestId).into_iter());
        assert_eq!(counts.draw(RequestId(1), 1), Some(Counted::Anew { slot: 0 }));
        assert_eq!(counts.draw(RequestId(2), 1), Some(Counted::Anew { slot: 1 }));
        assert_eq!(counts.draw(RequestId(3), 1), None);
        counts.begin_step([3, 2].map(RequestId).into_iter());
        assert_eq!(counts.draw(RequestId(3), 1), Some(Counted::Anew { slot: 0 }));
        assert_eq!(counts.draw(RequestId(2), 2), Some(Counted::Here { slot: 1 }));
    }
}
