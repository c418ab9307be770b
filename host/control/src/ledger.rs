//! What is known of revisions and seats: which are committed, what they went through, which may not come back.

use std::collections::{BTreeMap, VecDeque};

use sluice_core::{DeploymentClass, Descriptor, Digest, Installed, Revision, RevisionId, Seat, Slot};

use crate::audit::{Audit, AuditHead};
use crate::history::{Entry, Event, History, UnixMillis, WallClock, shorten};
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
    /// `None` where no audit log is kept.
    audit: Option<Unwritten>,
    slots: BTreeMap<Slot, SlotState>,
    seats: BTreeMap<(Slot, Option<u32>), Held>,
    /// The oldest first. This list alone decides what may come back; a seat's own is for its status.
    quarantined: VecDeque<(Digest, String)>,
}

/// What the audit log lacks: whoever appends an entry under the ledger's lock writes it after the lock is given back.
struct Unwritten {
    head: AuditHead,
    entries: VecDeque<Entry>,
    /// Entries for which there was no room while the log could not be written.
    lost: u64,
}

/// Entries that wait for a log that cannot be written.
const UNWRITTEN: usize = 1000;

/// Rolled back and forth, a revision would collect stages without end; its first three and its last ones stay.
const STAGES: usize = 32;
const FIRST_STAGES: usize = 3;
/// More digests than anyone strikes out while a process lives. A seat remembers fewer, and forgets them when its
/// replica restarts: what it remembers refuses nothing.
const QUARANTINED: usize = 4096;

impl Known {
    pub(crate) fn new(revision: Revision, descriptor: &Descriptor, class: DeploymentClass) -> Self {
        Self { revision, descriptor: descriptor.into(), class, stages: Vec::new() }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.revision.id().digest
    }

    fn is_quarantined(&self) -> bool {
        self.stages.last().is_some_and(|stage| stage.stage == Stage::Quarantined)
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
    pub(crate) fn new(clock: WallClock, history: usize, audit: Option<&mut Audit>) -> Self {
        let (newest, audit) = match audit {
            None => (Vec::new(), None),
            Some(audit) => {
                let (head, entries) = (audit.head().clone(), VecDeque::new());
                (audit.take_newest(), Some(Unwritten { head, entries, lost: 0 }))
            }
        };
        Self {
            clock,
            history: History::new(history, newest),
            audit,
            slots: BTreeMap::new(),
            seats: BTreeMap::new(),
            quarantined: VecDeque::new(),
        }
    }

    pub(crate) fn now(&self) -> UnixMillis {
        (self.clock)()
    }

    pub(crate) fn append(&mut self, event: Event) {
        let (now, is_audited) = (self.now(), event.is_audited());
        let entry = self.history.append(now, event);
        let Some(audit) = self.audit.as_mut().filter(|_| is_audited) else { return };
        match audit.entries.len() < UNWRITTEN {
            true => audit.entries.push_back(entry.clone()),
            false => audit.lost += 1,
        }
    }

    pub(crate) fn is_audited(&self) -> bool {
        self.audit.is_some()
    }

    /// What the audit log lacks, in its order.
    pub(crate) fn unwritten(&self) -> Vec<Entry> {
        self.audit.iter().flat_map(|audit| audit.entries.iter().cloned()).collect()
    }

    /// The first `count` of these are written.
    pub(crate) fn written(&mut self, count: usize, head: AuditHead) {
        let Some(audit) = &mut self.audit else { return };
        audit.entries.drain(..count);
        audit.head = head;
        let lost = std::mem::take(&mut audit.lost);
        if lost > 0 {
            let evidence = format!("{lost} entries were lost while it could not be written");
            let (by, subject) = ("engine".to_owned(), "audit log".to_owned());
            self.append(Event { by, action: "audit", subject, outcome: "failed", evidence, revision: None });
        }
    }

    pub(crate) fn audit_head(&self) -> Option<&AuditHead> {
        self.audit.as_ref().map(|audit| &audit.head)
    }

    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    pub(crate) fn slot(&self, slot: Slot) -> SlotState {
        self.slots.get(&slot).cloned().unwrap_or_default()
    }

    /// The new revision is the slot's from now on; the one before can come back. Not if it struck out meanwhile:
    /// then the answer is why.
    pub(crate) fn commit(&mut self, slot: Slot, mut known: Known) -> Result<Known, String> {
        if let Some(evidence) = self.quarantine_of(known.digest()) {
            return Err(evidence.to_owned());
        }
        let now = self.now();
        let state = self.slots.entry(slot).or_default();
        known.enter(Stage::Active, now, "");
        let replaced = state.committed.replace(known.clone());
        if let Some(mut replaced) = replaced {
            replaced.enter(Stage::Retired, now, "replaced");
            state.previous = Some(replaced);
        }
        Ok(known)
    }

    /// Committed and previous change places, if the previous one is this one still and may come back.
    pub(crate) fn swap_back(&mut self, slot: Slot, to: &RevisionId) -> Option<Known> {
        let now = self.now();
        let quarantined = self.quarantine_of(to.digest).is_some();
        let state = self.slots.entry(slot).or_default();
        let mut back = state.previous.take_if(|previous| !quarantined && previous.revision.id() == to)?;
        back.enter(Stage::Active, now, "rolled back to");
        let replaced = state.committed.replace(back.clone());
        state.previous = replaced.map(|mut replaced| {
            replaced.enter(Stage::Retired, now, "rolled back from");
            replaced
        });
        Some(back)
    }

    pub(crate) fn seat_took(&mut self, seat: Seat, installed: &Installed) {
        self.seats.insert(key(seat), (installed.revision.clone(), installed.into()));
    }

    /// A digest left the seat; what is in force there now may have been there before.
    pub(crate) fn seat_lost(&mut self, seat: Seat, in_force: Option<&RevisionId>) {
        let Some(id) = in_force else { return drop(self.seats.remove(&key(seat))) };
        if self.held(seat).is_some_and(|(held, _)| held == id) {
            return;
        }
        let outcome = Outcome::Committed {
            handover: "cold".to_owned(),
            evidence: "returned after a quarantine".to_owned(),
            pause_ns: 0,
        };
        self.seats.insert(key(seat), (id.clone(), outcome));
    }

    pub(crate) fn held(&self, seat: Seat) -> Option<&Held> {
        self.seats.get(&key(seat))
    }

    pub(crate) fn quarantine_of(&self, digest: Digest) -> Option<&str> {
        self.quarantined.iter().find(|(struck, _)| *struck == digest).map(|(_, evidence)| evidence.as_str())
    }

    pub(crate) fn quarantined(&self) -> impl Iterator<Item = Digest> + '_ {
        self.quarantined.iter().map(|(digest, _)| *digest)
    }

    /// The digest may not come back. If it was committed, the slot's previous revision is again, whatever returned
    /// at the seat that threw it out; if that may not come back either, the native rule.
    pub(crate) fn quarantine(&mut self, seat: Seat, digest: Digest, returned: Option<&RevisionId>, evidence: String) {
        let (now, evidence) = (self.now(), shorten(evidence));
        self.seat_lost(seat, returned);
        if self.quarantine_of(digest).is_none() {
            if self.quarantined.len() == QUARANTINED {
                self.quarantined.pop_front();
            }
            self.quarantined.push_back((digest, evidence.clone()));
        }
        let state = self.slots.entry(seat.slot).or_default();
        for known in [&mut state.committed, &mut state.previous].into_iter().flatten() {
            if known.digest() == digest && !known.is_quarantined() {
                known.enter(Stage::Quarantined, now, evidence.clone());
            }
        }
        if state.committed.as_ref().is_some_and(Known::is_quarantined) {
            let back = state.previous.take_if(|previous| !previous.is_quarantined());
            let back = back.map(|mut back| {
                back.enter(Stage::Active, now, "returned after a quarantine");
                back
            });
            state.previous = std::mem::replace(&mut state.committed, back);
        }
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
