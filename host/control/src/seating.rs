//! Brings the seats of a slot to what the ledger says they hold: the ledger decides, the seats obey.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use sluice_core::{Digest, Installed, PolicyFault, RevisionId, Seat, Slot};
use sluice_engine::order::{Order, OrderSender, Prepared, Reply, Seats};

use crate::ask::{NoAnswer, ask, wait};
use crate::audit::{Audit, AuditError};
use crate::history::Event;
use crate::kind::{Admission, Batching, Kind, Routing, SeatOf, Source};
use crate::ledger::{Known, Ledger};
use crate::report::Outcome;

pub(crate) struct Seating {
    /// How long a seat may take to answer.
    answer: Duration,
    seats: OnceLock<Seats>,
    /// Held from the change of what is committed until every seat has answered, so that no two changes interleave.
    turn: Mutex<()>,
    /// Also locked on threads that step, so never held while waiting for anything.
    ledger: Mutex<Ledger>,
    /// Locked before the ledger, and held while the disk writes.
    audit: Option<Mutex<Audit>>,
}

/// A seat, and an instance for it.
pub(crate) struct Ready<K: Kind> {
    seat: Seat,
    sender: OrderSender<K::Policy, K::View>,
    prepared: Prepared<K::Policy>,
}

/// The seats of one slot that an order was given to, with what came of it.
pub(crate) type Outcomes = Vec<(Seat, Outcome)>;

/// What a seat says decides there; `None` is the native rule.
type InForce = Result<Option<RevisionId>, NoAnswer>;

impl Seating {
    pub(crate) fn new(ledger: Ledger, audit: Option<Audit>, answer: Duration) -> Self {
        let (ledger, audit) = (Mutex::new(ledger), audit.map(Mutex::new));
        Self { answer, seats: OnceLock::new(), turn: Mutex::new(()), ledger, audit }
    }

    /// Writes what the audit log lacks. Returns when that is on the disk: never called on a thread that steps.
    pub(crate) fn record(&self) -> Result<(), AuditError> {
        let Some(audit) = &self.audit else { return Ok(()) };
        let mut audit = audit.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let entries = self.ledger().unwritten();
            if entries.is_empty() {
                return Ok(());
            }
            audit.append(&entries).inspect_err(|error| tracing::error!(unwritten = entries.len(), "{error}"))?;
            self.ledger().written(entries.len(), audit.head().clone());
        }
    }

    pub(crate) fn connect(&self, seats: Seats) {
        // A second engine in the same process would be a bug of the wiring; the first one stays.
        let first = self.seats.set(seats).is_ok();
        assert!(first, "control is connected to one engine only");
    }

    pub(crate) fn seats(&self) -> Option<&Seats> {
        self.seats.get()
    }

    /// Waits for whoever has it, no longer than a few answers take.
    pub(crate) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of what the ledger calls, only the clock could panic, and it is read before anything changes: what a poisoned
    /// lock guards is whole.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An instance for every one of these seats, before the first is touched.
    pub(crate) fn prepare<K: Kind>(source: &Source<K>, seats: Vec<SeatOf<K>>) -> Result<Vec<Ready<K>>, PolicyFault> {
        let ready = |(seat, sender)| {
            let prepared = Prepared { source: Arc::clone(source), instance: source.instantiate()? };
            Ok(Ready { seat, sender, prepared })
        };
        seats.into_iter().map(ready).collect()
    }

    /// To be called with the turn, like everything that changes seats.
    pub(crate) fn install<K: Kind>(&self, ready: Vec<Ready<K>>) -> Outcomes {
        let order = |Ready { seat, sender, prepared }: Ready<K>| {
            (seat, ask(&sender, |reply| Order::Install { prepared, reply }))
        };
        let asked: Vec<_> = ready.into_iter().map(order).collect();
        asked.into_iter().map(|(seat, asked)| (seat, self.outcome(seat, wait(asked, self.answer)))).collect()
    }

    /// Where `target` is warm it takes its seat back; everywhere else, as on a replica that restarted, it is installed.
    pub(crate) fn take_back<K: Kind>(&self, target: &RevisionId, ready: Vec<Ready<K>>, warm: &[Seat]) -> Outcomes {
        let (warm, mut cold): (Vec<_>, Vec<_>) = ready.into_iter().partition(|ready| warm.contains(&ready.seat));
        let order = |ready: Ready<K>| {
            let asked = ask(&ready.sender, Order::Rollback);
            (ready, asked)
        };
        let asked: Vec<_> = warm.into_iter().map(order).collect();
        let mut outcomes = Vec::new();
        for (ready, asked) in asked {
            let answer = match wait(asked, self.answer) {
                Ok(Ok(installed)) if installed.revision == *target => Ok(installed),
                // The seat's guard threw out what it held while it was asked.
                Ok(_) => {
                    cold.push(ready);
                    continue;
                }
                Err(none) => Err(none),
            };
            outcomes.push((ready.seat, self.outcome(ready.seat, answer)));
        }
        outcomes.extend(self.install(cold));
        outcomes.sort_by_key(|(seat, _)| seat.replica);
        outcomes
    }

    /// Puts a question to all of these seats, and then waits for each.
    pub(crate) fn ask_all<K: Kind, T: Send + 'static>(
        seats: Vec<SeatOf<K>>,
        limit: Duration,
        order: impl Fn(Reply<T>) -> Order<K::Policy, K::View>,
    ) -> Vec<(SeatOf<K>, Result<T, NoAnswer>)> {
        let put = |seat: SeatOf<K>| {
            let asked = ask(&seat.1, &order);
            (seat, asked)
        };
        let asked: Vec<_> = seats.into_iter().map(put).collect();
        asked.into_iter().map(|(seat, asked)| (seat, wait(asked, limit))).collect()
    }

    /// A digest that struck out on one seat leaves them all, before it strikes there. Returns at once, since threads
    /// that step call it: a thread that lives until the seats have answered does the work.
    pub(crate) fn recall(self: &Arc<Self>, slot: Slot, digest: Digest) {
        let seating = Arc::clone(self);
        let work = move || {
            // Goes on without it: a quarantine does not wait for a disk, and what is not written was logged.
            let _unwritten = seating.record();
            let _turn = seating.turn();
            let done = match slot {
                Slot::Admission => seating.converge::<Admission>(digest),
                Slot::Routing => seating.converge::<Routing>(digest),
                Slot::Batching => seating.converge::<Batching>(digest),
            };
            if let Err(fault) = done {
                seating.recall_failed(slot, &fault.to_string());
                let _unwritten = seating.record();
            }
        };
        if let Err(error) = thread::Builder::new().name("recall".into()).spawn(work) {
            self.recall_failed(slot, &error.to_string());
        }
    }

    /// Throws the digest out of every seat, then installs what is committed where something else is in force.
    fn converge<K: Kind>(&self, digest: Digest) -> Result<(), PolicyFault> {
        let Some(seats) = self.seats() else { return Ok(()) };
        let evict = |reply| Order::Evict { digest, reply };
        let in_force = Self::ask_all::<K, _>(K::seats(seats), self.answer, evict);
        for ((seat, _), answer) in &in_force {
            if let Ok(in_force) = answer {
                self.ledger().seat_lost(*seat, in_force.as_ref());
            }
        }
        let committed = self.ledger().slot(K::SLOT).committed;
        let Some(source) = committed.as_ref().and_then(|known: &Known| K::source(&known.revision)) else {
            self.clear::<K>(in_force);
            return Ok(());
        };
        // A seat that is late gets the order too: it may hold anything. One that stopped restarts with what is committed.
        let other = |answer: &InForce| match answer {
            Ok(id) => id.as_ref() != Some(source.revision()),
            Err(NoAnswer::Late) => true,
            Err(NoAnswer::Stopped) => false,
        };
        let seats = in_force.into_iter().filter(|(_, answer)| other(answer)).map(|(seat, _)| seat).collect();
        self.install(Self::prepare::<K>(&source, seats)?);
        Ok(())
    }

    /// The native rule is committed: what else is in force leaves, and what returns in its place then.
    fn clear<K: Kind>(&self, in_force: Vec<(SeatOf<K>, InForce)>) {
        for (seat, answer) in in_force {
            let mut in_force = answer.ok().flatten();
            // A seat holds two revisions at the most.
            for _ in 0..2 {
                let Some(RevisionId { digest, .. }) = in_force else { break };
                let evict = |reply| Order::Evict { digest, reply };
                let Ok(left) = wait(ask(&seat.1, evict), self.answer) else { break };
                self.ledger().seat_lost(seat.0, left.as_ref());
                in_force = left;
            }
        }
    }

    fn outcome(&self, seat: Seat, answer: Result<Installed, NoAnswer>) -> Outcome {
        match answer {
            Ok(installed) => {
                self.ledger().seat_took(seat, &installed);
                Outcome::from(&installed)
            }
            Err(NoAnswer::Late) => Outcome::Pending,
            Err(NoAnswer::Stopped) => Outcome::Stopped,
        }
    }

    fn recall_failed(&self, slot: Slot, why: &str) {
        let evidence = format!("{why}: deploy again, or roll back, to bring all seats to one revision");
        let (by, subject) = ("engine".to_owned(), slot.to_string());
        self.ledger().append(Event { by, action: "recall", subject, outcome: "failed", evidence, revision: None });
    }
}
