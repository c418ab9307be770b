//! What is known of revisions and seats: which are committed, what they went through, which may not come back.

use std::collections::BTreeMap;

use sluice_core::{DeploymentClass, Descriptor, Digest, Installed, Revision, RevisionId, Seat, Slot};

use crate::history::{Event, History, UnixMillis, WallClock, shorten};
use crate::report::{DescriptorReport, Outcome, RevisionReport, Stage, StageReport, line};

/// A revision with everything that happened to it.
#[derive(Clone)]
pub(crate) struct Known {
    pub(crate) revision: Revision,
    pub(crate) descriptor: DescriptorReport,
    class: DeploymentClass,
    stages: Vec<StageReport>,
}

/// One slot over all its seats.
#[derive(Clone, Default)]
pub(crate) struct SlotState {
    pub(crate) committed: Option<Known>,
    pub(crate) previous: Option<Known>,
}

/// What a seat was last seen to hold, and how it came there.
pub(crate) type Held = (RevisionId, Outcome);

pub(crate) struct Ledger {
    clock: WallClock,
    history: History,
    slots: BTreeMap<Slot, SlotState>,
    seats: BTreeMap<(Slot, Option<u32>), Held>,
    quarantined: BTreeMap<Digest, String>,
}

/// Rolled back and forth, a revision would collect stages without end; its first three and its last ones stay.
const STAGES: usize = 32;
const FIRST_STAGES: usize = 3;
/// More digests than anyone strikes out while a process lives.
const QUARANTINED: usize = 4096;

impl Known {
    pub(crate) fn new(revision: Revision, descriptor: &Descriptor, class: DeploymentClass) -> Self {
        Self { revision, descriptor: descriptor.into(), class, stages: Vec::new() }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.revision.id().digest
    }

    pub(crate) fn enter(&mut self, stage: Stage, unix_ms: UnixMillis, evidence: impl Into<String>) {
        if self.stages.len() == STAGES {
            self.stages.remove(FIRST_STAGES);
        }
        self.stages.push(StageReport { stage, unix_ms, evidence: shorten(evidence.into()) });
    }

    pub(crate) fn report(&self) -> RevisionReport {
        let id = self.revision.id();
        RevisionReport {
            name: id.name.clone(),
            version: id.version.clone(),
            digest: id.digest.to_string(),
            config: id.config.clone(),
            class: self.class.to_string(),
            stages: self.stages.clone(),
        }
    }
}

impl Ledger {
    pub(crate) fn new(clock: WallClock, history: usize) -> Self {
        Self {
            clock,
            history: History::new(history),
            slots: BTreeMap::new(),
            seats: BTreeMap::new(),
            quarantined: BTreeMap::new(),
        }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    pub(crate) fn append(&mut self, event: Event) {
        let now = self.now();
        self.history.append(now, event);
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn slot(&self, slot: Slot) -> SlotState {
        self.slots.get(&slot).cloned().unwrap_or_default()
    }

    /// Puts a slot back as it was before a deployment that reached no seat.
    pub(crate) fn restore(&mut self, slot: Slot, state: SlotState) {
        self.slots.insert(slot, state);
    }

    /// The new revision is the slot's from now on; the one before can come back.
    pub(crate) fn commit(&mut self, slot: Slot, mut known: Known) {
        let now = self.now();
        let state = self.slots.entry(slot).or_default();
        known.enter(Stage::Active, now, "");
        let replaced = state.committed.replace(known);
        if let Some(mut replaced) = replaced {
            replaced.enter(Stage::Retired, now, "replaced");
            state.previous = Some(replaced);
        }
    }

    /// Committed and previous change places.
    pub(crate) fn swap_back(&mut self, slot: Slot) {
        let now = self.now();
        let state = self.slots.entry(slot).or_default();
        if let Some(mut back) = state.previous.take() {
            back.enter(Stage::Active, now, "rolled back to");
            let replaced = state.committed.replace(back);
            state.previous = replaced.map(|mut replaced| {
                replaced.enter(Stage::Retired, now, "rolled back from");
                replaced
            });
        }
    }

    pub(crate) fn seat_took(&mut self, seat: Seat, installed: &Installed) {
        self.seats.insert(key(seat), (installed.revision.clone(), installed.into()));
    }

    pub(crate) fn held(&self, seat: Seat) -> Option<&Held> {
        self.seats.get(&key(seat))
    }

    pub(crate) fn quarantine_of(&self, digest: Digest) -> Option<&str> {
        self.quarantined.get(&digest).map(String::as_str)
    }

    pub(crate) fn quarantined(&self) -> impl Iterator<Item = Digest> + '_ {
        self.quarantined.keys().copied()
    }

    /// The digest may not come back, and the slot commits to what returned in its place.
    pub(crate) fn quarantine(&mut self, seat: Seat, digest: Digest, returned: Option<&RevisionId>, evidence: String) {
        let now = self.now();
        if self.quarantined.len() == QUARANTINED {
            self.quarantined.pop_first();
        }
        self.quarantined.insert(digest, shorten(evidence.clone()));
        match returned {
            Some(id) => {
                let outcome = Outcome::Committed {
                    handover: "cold".to_owned(),
                    evidence: "returned after a quarantine".to_owned(),
                    pause_ns: 0,
                };
                self.seats.insert(key(seat), (id.clone(), outcome));
            }
            None => drop(self.seats.remove(&key(seat))),
        }
        let state = self.slots.entry(seat.slot).or_default();
        if state.committed.as_ref().is_none_or(|committed| committed.digest() != digest) {
            return;
        }
        let struck = state.committed.take().map(|mut struck| {
            struck.enter(Stage::Quarantined, now, evidence);
            struck
        });
        let back = state.previous.take().filter(|previous| Some(previous.revision.id()) == returned);
        state.committed = back.map(|mut back| {
            back.enter(Stage::Active, now, "returned after a quarantine");
            back
        });
        state.previous = struck;
    }

    /// The seats of a slot that were last seen with this digest.
    pub(crate) fn holders(&self, slot: Slot, digest: Digest) -> Vec<Option<u32>> {
        let holds =
            |(key, (id, _)): (&(Slot, Option<u32>), &Held)| (key.0 == slot && id.digest == digest).then_some(key.1);
        self.seats.iter().filter_map(holds).collect()
    }

    pub(crate) fn describe(&self, slot: Slot) -> String {
        match self.slots.get(&slot).and_then(|state| state.committed.as_ref()) {
            Some(known) => line(known.revision.id()),
            None => "the native rule".to_owned(),
        }
    }
}

fn key(seat: Seat) -> (Slot, Option<u32>) {
    (seat.slot, seat.replica.map(|replica| replica.0))
}
