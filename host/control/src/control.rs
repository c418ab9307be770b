//! Deploys a policy on every seat of its slot, takes it back, and knows what happened: all on the caller's thread.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::Duration;

use sluice_core::{
    DeploymentClass, Digest, EngineEvent, Instantiate, LoadedPolicy, Observer, PolicyLoader, ReplicaId, Revision,
    RevisionId, Seat, Slot,
};
use sluice_engine::order::{NoPrevious, Order, OrderSender, Prepared, SeatStatus, Seats, Stopped};
use sluice_engine::recorder::HostVersions;

use crate::ask::{Answer, NoAnswer, ask};
use crate::error::{DeployError, RecordError, RollbackError};
use crate::history::{Entry, Event, WallClock};
use crate::kind::{Admission, Batching, Kind, Routing, SeatOf};
use crate::ledger::{Held, Known, Ledger, SlotState};
use crate::report::{Deployment, Outcome, SeatReport, SlotReport, Stage, line, seat_name};

#[derive(Clone, Copy, Debug)]
pub struct ControlLimits {
    /// How long a seat may take to answer. A step of a large model on a CPU takes its time.
    pub answer: Duration,
    /// How long a status waits for a seat before it reports it without its counts.
    pub status: Duration,
    /// Entries of the history that are kept.
    pub history: usize,
    pub configuration_bytes: usize,
}

impl Default for ControlLimits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(10),
            status: Duration::from_secs(1),
            history: 1000,
            configuration_bytes: 64 * 1024,
        }
    }
}

pub struct DeployRequest<'a> {
    pub component: &'a [u8],
    /// A JSON object; the empty one where there is none.
    pub config: Option<&'a str>,
    pub class: DeploymentClass,
    /// If set, the component must be a policy for it.
    pub slot: Option<Slot>,
    /// Who asks: for the history.
    pub by: &'a str,
}

/// Made before the engine, which it observes; connected to the engine's seats once they exist.
pub struct Control {
    loader: Arc<dyn PolicyLoader>,
    limits: ControlLimits,
    /// Written at the head of every recording.
    versions: HostVersions,
    seats: OnceLock<Seats>,
    /// Held by the one deployment or rollback that is in progress.
    turn: Mutex<()>,
    /// Also locked on threads that step, so never held while waiting for anything.
    ledger: Arc<Mutex<Ledger>>,
}

/// The seats of one slot that an order was given to, with what came of it.
type Outcomes = Vec<(Seat, Outcome)>;

impl Control {
    pub fn new(loader: Arc<dyn PolicyLoader>, clock: WallClock, limits: ControlLimits, versions: HostVersions) -> Self {
        Self {
            loader,
            limits,
            versions,
            seats: OnceLock::new(),
            turn: Mutex::new(()),
            ledger: Arc::new(Mutex::new(Ledger::new(clock, limits.history))),
        }
    }

    /// Once, when the engine runs. Before it, every order fails as if the engine had stopped.
    pub fn connect(&self, seats: Seats) {
        // A second engine in the same process would be a bug of the wiring; the first one stays.
        let first = self.seats.set(seats).is_ok();
        assert!(first, "control is connected to one engine only");
    }

    /// Loads, checks, probes and installs a component on every seat of its slot. Takes as long as compiling
    /// takes and then until each seat has come to its next boundary.
    pub fn deploy(&self, request: &DeployRequest<'_>) -> Result<Deployment, DeployError> {
        let result = self.try_deploy(request);
        let (subject, outcome, evidence) = match &result {
            Ok(done) => (done.slot.clone(), outcome_of(done), describe(done)),
            Err(error) => {
                let subject = request.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string());
                (subject, "refused", format!("{}: {error}", Digest::of(request.component).short()))
            }
        };
        self.ledger().append(Event { by: request.by.to_owned(), action: "deploy", subject, outcome, evidence });
        result
    }

    /// The previous revision takes its seats back, each at its own boundary.
    pub fn rollback(&self, slot: Slot, by: &str) -> Result<Deployment, RollbackError> {
        let result = self.try_rollback(slot);
        let (outcome, evidence) = match &result {
            Ok(done) => (outcome_of(done), describe(done)),
            Err(error) => ("refused", error.to_string()),
        };
        let subject = slot.to_string();
        self.ledger().append(Event { by: by.to_owned(), action: "rollback", subject, outcome, evidence });
        result
    }

    /// All three slots. Asks every seat, and does not wait long for one that is busy.
    pub fn status(&self) -> Vec<SlotReport> {
        let Some(seats) = self.seats.get() else { return Vec::new() };
        vec![
            self.slot_status::<Admission>(Slot::Admission, seats),
            self.slot_status::<Routing>(Slot::Routing, seats),
            self.slot_status::<Batching>(Slot::Batching, seats),
        ]
    }

    /// What a seat's flight recorder holds, as a file. Of a slot with a seat per replica, the first replica's unless
    /// another is asked for.
    pub fn recording(&self, slot: Slot, replica: Option<ReplicaId>) -> Result<Vec<u8>, RecordError> {
        let Some(seats) = self.seats.get() else { return Err(RecordError::Stopped { seat: slot.to_string() }) };
        match slot {
            Slot::Admission => self.recording_of::<Admission>(slot, replica, seats),
            Slot::Routing => self.recording_of::<Routing>(slot, replica, seats),
            Slot::Batching => self.recording_of::<Batching>(slot, replica, seats),
        }
    }

    /// The oldest entry first.
    pub fn history(&self) -> Vec<Entry> {
        self.ledger().history().entries()
    }

    /// What a replica that starts again puts into its seat; `None` is the native rule.
    pub fn committed(&self, slot: Slot) -> Option<Revision> {
        self.ledger().slot(slot).committed.map(|known| known.revision)
    }

    /// Whether a replica is there to take work.
    pub fn is_ready(&self) -> bool {
        let takes_orders = |seat: &OrderSender<_, _>| seat(Order::Status(Box::new(drop))).is_ok();
        self.seats.get().is_some_and(|seats| seats.batching.iter().any(takes_orders))
    }

    fn recording_of<K: Kind>(
        &self,
        slot: Slot,
        replica: Option<ReplicaId>,
        seats: &Seats,
    ) -> Result<Vec<u8>, RecordError> {
        let (seat, sender) = chosen(slot, replica, K::seats(seats))?;
        let (name, limit) = (seat_name(seat), self.limits.answer);
        let answer = ask(&sender, Order::Record).map_err(|Stopped| NoAnswer::Stopped);
        match answer.and_then(|answer| answer.wait(limit)) {
            Ok(ring) if ring.is_empty() => Err(RecordError::Nothing { seat: name }),
            Ok(ring) => Ok(ring.to_bytes(&self.versions)),
            Err(NoAnswer::Late) => Err(RecordError::NoAnswer { seat: name, limit }),
            Err(NoAnswer::Stopped) => Err(RecordError::Stopped { seat: name }),
        }
    }

    fn try_deploy(&self, request: &DeployRequest<'_>) -> Result<Deployment, DeployError> {
        let _turn = self.turn().ok_or(DeployError::InProgress)?;
        let seats = self.seats.get().ok_or(Stopped)?;
        let config = self.checked_config(request.config)?;
        let digest = Digest::of(request.component);
        if let Some(evidence) = self.ledger().quarantine_of(digest) {
            return Err(DeployError::Quarantined { digest, evidence: evidence.to_owned() });
        }
        let started = self.ledger().now();
        let loaded = self.loader.load(request.component, request.class)?;
        if let Some(asked) = request.slot.filter(|asked| *asked != loaded.slot()) {
            return Err(DeployError::WrongSlot { asked, is: loaded.slot() });
        }
        let known = self.known(loaded.as_ref(), config, request.component.len(), started);
        match known.revision.clone() {
            Revision::Admission(source) => self.roll_out::<Admission>(&source, seats, known),
            Revision::Routing(source) => self.roll_out::<Routing>(&source, seats, known),
            Revision::Batching(source) => self.roll_out::<Batching>(&source, seats, known),
        }
    }

    fn known(&self, loaded: &dyn LoadedPolicy, config: &str, bytes: usize, started: u64) -> Known {
        let mut known = Known::new(loaded.revision(config), loaded.descriptor(), loaded.class());
        let now = self.ledger().now();
        known.enter(Stage::Verified, started, format!("{bytes} bytes, sha256 {}", loaded.digest()));
        known.enter(Stage::Compiled, now, format!("within {} ms", now.saturating_sub(started)));
        known
    }

    fn checked_config<'a>(&self, config: Option<&'a str>) -> Result<&'a str, DeployError> {
        let config = config.unwrap_or("{}");
        let (bytes, limit) = (config.len(), self.limits.configuration_bytes);
        if bytes > limit {
            return Err(DeployError::ConfigurationTooLarge { bytes, limit });
        }
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(config)
            .map_err(|error| DeployError::Configuration(error.to_string()))?;
        Ok(config)
    }

    /// Probes, prepares an instance for every seat, and only then touches the first seat.
    fn roll_out<K: Kind>(
        &self,
        source: &Arc<dyn Instantiate<K::Policy>>,
        seats: &Seats,
        mut known: Known,
    ) -> Result<Deployment, DeployError> {
        let slot = source.revision().slot;
        let live = self.probe::<K>(source, K::seats(seats))?;
        let names: Vec<String> = live.iter().map(|(seat, _)| seat_name(*seat)).collect();
        known.enter(Stage::Probed, self.ledger().now(), names.join(", "));
        let instances: Vec<Box<K::Policy>> =
            live.iter().map(|_| source.instantiate().map_err(DeployError::Prepare)).collect::<Result<_, _>>()?;

        // Committed first: a replica that restarts from here on takes the new one.
        let before = self.ledger().slot(slot);
        self.ledger().commit(slot, known);
        let asked = live.into_iter().zip(instances).map(|((seat, sender), instance)| {
            let prepared = Prepared { source: Arc::clone(source), instance };
            (seat, ask(&sender, |reply| Order::Install { prepared, reply }))
        });
        let asked: Vec<_> = asked.collect();
        let outcomes = self.gather(asked, Ok);
        Ok(self.concluded(slot, before, outcomes)?)
    }

    /// The seats that are alive, each of which the candidate could decide for. Fails on the first it could not.
    fn probe<K: Kind>(
        &self,
        source: &Arc<dyn Instantiate<K::Policy>>,
        seats: Vec<SeatOf<K>>,
    ) -> Result<Vec<SeatOf<K>>, DeployError> {
        let mut live = Vec::new();
        for (seat, sender) in seats {
            // A replica that is lost takes the committed revision when it comes back.
            let Some(view) = self.snapshot::<K>(seat, &sender)? else { continue };
            let mut candidate = source.instantiate().map_err(DeployError::Prepare)?;
            K::probe(candidate.as_mut(), &view)
                .map_err(|failure| DeployError::Probe { seat: seat_name(seat), reason: failure.to_string() })?;
            live.push((seat, sender));
        }
        if live.is_empty() { Err(Stopped.into()) } else { Ok(live) }
    }

    fn snapshot<K: Kind>(
        &self,
        seat: Seat,
        sender: &OrderSender<K::Policy, K::View>,
    ) -> Result<Option<K::View>, DeployError> {
        let limit = self.limits.answer;
        match ask(sender, Order::Snapshot).map_err(|Stopped| NoAnswer::Stopped).and_then(|answer| answer.wait(limit)) {
            Ok(view) => Ok(Some(view)),
            Err(NoAnswer::Stopped) => Ok(None),
            Err(NoAnswer::Late) => Err(DeployError::NoAnswer { seat: seat_name(seat), limit }),
        }
    }

    fn try_rollback(&self, slot: Slot) -> Result<Deployment, RollbackError> {
        let _turn = self.turn().ok_or(RollbackError::InProgress)?;
        let seats = self.seats.get().ok_or(Stopped)?;
        let before = self.ledger().slot(slot);
        let digest = before.previous.as_ref().map(Known::digest).ok_or(RollbackError::NoPrevious(slot))?;
        if self.ledger().quarantine_of(digest).is_some() {
            return Err(RollbackError::Quarantined { slot, digest });
        }
        self.ledger().swap_back(slot);
        let outcomes = match slot {
            Slot::Admission => self.take_back::<Admission>(seats),
            Slot::Routing => self.take_back::<Routing>(seats),
            Slot::Batching => self.take_back::<Batching>(seats),
        };
        if outcomes.iter().all(|(_, outcome)| *outcome == Outcome::NoPrevious) {
            self.ledger().restore(slot, before);
            return Err(RollbackError::NoPrevious(slot));
        }
        Ok(self.concluded(slot, before, outcomes)?)
    }

    fn take_back<K: Kind>(&self, seats: &Seats) -> Outcomes {
        let asked = K::seats(seats).into_iter().map(|(seat, sender)| (seat, ask(&sender, Order::Rollback))).collect();
        self.gather(asked, |answer| answer)
    }

    /// Waits for every seat that was given an order.
    fn gather<T>(
        &self,
        asked: Vec<(Seat, Result<Answer<T>, Stopped>)>,
        installed: impl Fn(T) -> Result<sluice_core::Installed, NoPrevious>,
    ) -> Outcomes {
        let wait = |(seat, answer): (Seat, Result<Answer<T>, Stopped>)| {
            let answer = answer.map_err(|Stopped| NoAnswer::Stopped).and_then(|answer| answer.wait(self.limits.answer));
            let outcome = match answer.map(&installed) {
                Ok(Ok(installed)) => {
                    self.ledger().seat_took(seat, &installed);
                    Outcome::from(&installed)
                }
                Ok(Err(NoPrevious)) => Outcome::NoPrevious,
                Err(NoAnswer::Late) => Outcome::Pending,
                Err(NoAnswer::Stopped) => Outcome::Stopped,
            };
            (seat, outcome)
        };
        asked.into_iter().map(wait).collect()
    }

    /// What the caller is told, or, if no seat is alive any more, the slot as it was before.
    fn concluded(&self, slot: Slot, before: SlotState, outcomes: Outcomes) -> Result<Deployment, Stopped> {
        let mut ledger = self.ledger();
        let reached = outcomes.iter().any(|(_, outcome)| *outcome != Outcome::Stopped);
        let revision = ledger.slot(slot).committed.filter(|_| reached);
        let Some(revision) = revision else {
            ledger.restore(slot, before);
            return Err(Stopped);
        };
        let committed = |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. } | Outcome::Stopped);
        Ok(Deployment {
            slot: slot.to_string(),
            revision: revision.report(),
            mixed: !outcomes.iter().all(|(_, outcome)| committed(outcome)),
            seats: outcomes.into_iter().map(|(seat, outcome)| (seat_name(seat), outcome)).collect(),
        })
    }

    fn slot_status<K: Kind>(&self, slot: Slot, seats: &Seats) -> SlotReport {
        let asked: Vec<_> =
            K::seats(seats).into_iter().map(|(seat, sender)| (seat, ask(&sender, Order::Status))).collect();
        let answers: Vec<(Seat, Option<SeatStatus>)> = asked
            .into_iter()
            .map(|(seat, answer)| (seat, answer.ok().and_then(|answer| answer.wait(self.limits.status).ok())))
            .collect();
        let ledger = self.ledger();
        let state = ledger.slot(slot);
        let committed_id = state.committed.as_ref().map(|known| known.revision.id().clone());
        let active = |seat: Seat, status: &Option<SeatStatus>| match status {
            Some(status) => status.active.clone(),
            None => ledger.held(seat).map(|(id, _)| id.clone()),
        };
        let committed_seats = answers.iter().filter(|(seat, status)| active(*seat, status) == committed_id).count();
        SlotReport {
            slot: slot.to_string(),
            committed: state.committed.as_ref().map(Known::report),
            descriptor: state.committed.as_ref().map(|known| known.descriptor.clone()),
            previous: state.previous.as_ref().map(Known::report),
            mixed: committed_seats != answers.len(),
            committed_seats,
            seats: answers.iter().map(|(seat, status)| seat_report(*seat, status, ledger.held(*seat))).collect(),
            quarantined: ledger.quarantined().map(|digest| digest.to_string()).collect(),
        }
    }

    /// A digest that struck out on one replica leaves the others too, before it strikes there.
    fn recall(&self, slot: Slot, digest: Digest) {
        let Some(seats) = self.seats.get().filter(|_| slot == Slot::Batching) else { return };
        let holders = self.ledger().holders(slot, digest);
        let held = |seat: &SeatOf<Batching>| holders.contains(&seat.0.replica.map(|replica| replica.0));
        for (seat, sender) in Batching::seats(seats).into_iter().filter(held) {
            let ledger = Arc::clone(&self.ledger);
            let reply = Box::new(move |answer: Result<sluice_core::Installed, NoPrevious>| {
                if let Ok(installed) = answer {
                    lock(&ledger).seat_took(seat, &installed);
                }
            });
            // A seat that has stopped holds nothing.
            let _stopped = sender(Order::Rollback(reply));
        }
    }

    fn quarantined(&self, seat: Seat, digest: Digest, returned: Option<&RevisionId>, evidence: String) {
        {
            let mut ledger = self.ledger();
            ledger.quarantine(seat, digest, returned, evidence.clone());
            let evidence = format!("{evidence}; {} decides again", ledger.describe(seat.slot));
            ledger.append(seen("quarantine", seat_name(seat), evidence));
        }
        self.recall(seat.slot, digest);
    }

    fn turn(&self) -> Option<MutexGuard<'_, ()>> {
        match self.turn.try_lock() {
            Ok(turn) => Some(turn),
            Err(TryLockError::Poisoned(turn)) => Some(turn.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        lock(&self.ledger)
    }
}

impl Observer for Control {
    fn observe(&self, event: &EngineEvent<'_>) {
        match event {
            EngineEvent::Installed { seat, installed } => self.ledger().seat_took(*seat, installed),
            EngineEvent::Fallback { seat, fault } => {
                self.ledger().append(seen("fault", seat_name(*seat), fault.to_string()));
            }
            EngineEvent::Quarantined { seat, digest, returned, fault } => {
                self.quarantined(*seat, *digest, *returned, fault.to_string());
            }
            EngineEvent::ReplicaLost { replica, requeued, failed } => {
                let subject = format!("replica {}", replica.0);
                self.ledger().append(seen("replica-lost", subject, format!("{requeued} requeued, {failed} failed")));
            }
            _ => {}
        }
    }
}

/// A thread that panicked while it held the lock has left the ledger whole: every change is one assignment.
fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

fn chosen<S>(slot: Slot, replica: Option<ReplicaId>, seats: Vec<(Seat, S)>) -> Result<(Seat, S), RecordError> {
    let last = seats.len().saturating_sub(1);
    let per_replica = seats.iter().any(|(seat, _)| seat.replica.is_some());
    match replica {
        Some(_) if !per_replica => Err(RecordError::OneSeat(slot)),
        Some(replica) => {
            let mut seats = seats.into_iter();
            seats.find(|(seat, _)| seat.replica == Some(replica)).ok_or(RecordError::NoReplica { slot, replica, last })
        }
        None => seats.into_iter().next().ok_or_else(|| RecordError::Stopped { seat: slot.to_string() }),
    }
}

fn seen(action: &'static str, subject: String, evidence: String) -> Event {
    Event { by: "engine".to_owned(), action, subject, outcome: "seen", evidence }
}

fn outcome_of(done: &Deployment) -> &'static str {
    if done.mixed { "mixed" } else { "done" }
}

fn describe(done: &Deployment) -> String {
    let revision = &done.revision;
    format!("{}@{} {}, configured with {}", revision.name, revision.version, revision.digest, revision.config)
}

fn seat_report(seat: Seat, status: &Option<SeatStatus>, held: Option<&Held>) -> SeatReport {
    let active = match status {
        Some(status) => status.active.as_ref().map(line),
        None => held.map(|(id, _)| line(id)),
    };
    SeatReport {
        seat: seat_name(seat),
        installed: held.filter(|(id, _)| active.as_deref() == Some(&line(id))).map(|(_, outcome)| outcome.clone()),
        active,
        previous: status.as_ref().and_then(|status| status.previous.as_ref()).map(line),
        decisions: status.as_ref().map(|status| status.decisions),
        fallbacks: status.as_ref().map(|status| status.fallbacks),
        strikes: status.as_ref().map(|status| status.strikes),
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
