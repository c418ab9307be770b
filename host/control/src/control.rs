//! Deploys a policy on every seat of its slot, takes it back, and knows what happened: all on the caller's thread.

use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

use sluice_core::{
    DeploymentClass, Digest, EngineEvent, LoadedPolicy, Observer, PolicyLoader, ReplicaId, Revision, RevisionId, Seat,
    Slot,
};
use sluice_engine::order::{Order, OrderSender, SeatStatus, Seats, Stopped};
use sluice_engine::recorder::HostVersions;

use crate::ask::{NoAnswer, ask, wait};
use crate::audit::{Audit, AuditError, AuditHead};
use crate::error::{DeployError, RecordError, RollbackError};
use crate::history::{Entry, Event, EventRevision, WallClock};
use crate::kind::{Admission, Batching, Kind, Routing, SeatOf, Source};
use crate::ledger::{Held, Known, Ledger};
use crate::report::{Deployment, Outcome, RevisionReport, SeatReport, SlotReport, Stage, line, seat_name};
use crate::seating::{Outcomes, Seating};

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

/// A configuration is a JSON object; the empty one stands for none.
const NO_CONFIGURATION: &str = "{}";

/// What a control is made of.
pub struct ControlParts {
    pub loader: Arc<dyn PolicyLoader>,
    pub clock: WallClock,
    pub limits: ControlLimits,
    /// Written at the head of every recording.
    pub versions: HostVersions,
    /// Without it the history is kept in memory only.
    pub audit: Option<Audit>,
}

/// Made before the engine, which it observes; connected to the engine's seats once they exist.
pub struct Control {
    loader: Arc<dyn PolicyLoader>,
    limits: ControlLimits,
    /// Written at the head of every recording.
    versions: HostVersions,
    /// Held by the one deployment or rollback that is in progress.
    deploying: Mutex<()>,
    seating: Arc<Seating>,
}

impl Control {
    pub fn new(parts: ControlParts) -> Self {
        let ControlParts { loader, clock, limits, versions, mut audit } = parts;
        let ledger = Ledger::new(clock, limits.history, audit.as_mut());
        let seating = Arc::new(Seating::new(ledger, audit, limits.answer));
        Self { loader, limits, versions, deploying: Mutex::new(()), seating }
    }

    /// Once, when the engine runs. Before it, every order fails as if the engine had stopped.
    pub fn connect(&self, seats: Seats) {
        self.seating.connect(seats);
    }

    /// Loads, checks, probes and installs a component on every seat of its slot. Takes as long as compiling
    /// takes and then until each seat has come to its next boundary.
    pub fn deploy(&self, request: &DeployRequest<'_>) -> Result<Deployment, DeployError> {
        // Held until the outcome is written, so that no other deployment's line comes between.
        let only = self.only();
        let result = only.as_ref().ok_or(DeployError::InProgress).and_then(|_| self.try_deploy(request));
        let event = match &result {
            Ok(done) => concluded_event("deploy", request.by, done),
            Err(error) => refused_deployment(request, error),
        };
        match (self.record(event), result) {
            (Err(error), Ok(_)) => Err(DeployError::Unrecorded(error)),
            (_, result) => result,
        }
    }

    /// The previous revision takes its seats back, each at its own boundary.
    pub fn rollback(&self, slot: Slot, by: &str) -> Result<Deployment, RollbackError> {
        let only = self.only();
        let result = only.as_ref().ok_or(RollbackError::InProgress).and_then(|_| self.try_rollback(slot, by));
        let event = match &result {
            Ok(done) => concluded_event("rollback", by, done),
            Err(error) => {
                let (by, subject, evidence) = (by.to_owned(), slot.to_string(), error.to_string());
                Event { by, action: "rollback", subject, outcome: "refused", evidence, revision: None }
            }
        };
        match (self.record(event), result) {
            (Err(error), Ok(_)) => Err(RollbackError::Unrecorded(error)),
            (_, result) => result,
        }
    }

    /// All three slots. Asks every seat, and does not wait long for one that is busy.
    pub fn status(&self) -> Vec<SlotReport> {
        let Some(seats) = self.seating.seats() else { return Vec::new() };
        vec![
            self.slot_status::<Admission>(Slot::Admission, seats),
            self.slot_status::<Routing>(Slot::Routing, seats),
            self.slot_status::<Batching>(Slot::Batching, seats),
        ]
    }

    /// What a seat's flight recorder holds, as a file. Of a slot with a seat per replica, the first replica's unless
    /// another is asked for.
    pub fn recording(&self, slot: Slot, replica: Option<ReplicaId>) -> Result<Vec<u8>, RecordError> {
        let Some(seats) = self.seating.seats() else { return Err(RecordError::Stopped { seat: slot.to_string() }) };
        match slot {
            Slot::Admission => self.recording_of::<Admission>(slot, replica, seats),
            Slot::Routing => self.recording_of::<Routing>(slot, replica, seats),
            Slot::Batching => self.recording_of::<Batching>(slot, replica, seats),
        }
    }

    /// The oldest entry first.
    pub fn history(&self) -> Vec<Entry> {
        self.seating.ledger().history().entries()
    }

    /// The newest line of the audit log, if one is kept.
    pub fn audit_head(&self) -> Option<AuditHead> {
        self.seating.ledger().audit_head().cloned()
    }

    /// Writes what the engine did by itself to the audit log, and what could not be written before. To be called now and
    /// then, about once a second, and at the end.
    pub fn flush_audit(&self) -> Result<(), AuditError> {
        self.seating.record()
    }

    /// Whether a deployment or a rollback is in progress.
    pub fn is_deploying(&self) -> bool {
        self.only().is_none()
    }

    /// What a replica that starts again puts into its seat; `None` is the native rule.
    pub fn committed(&self, slot: Slot) -> Option<Revision> {
        self.seating.ledger().slot(slot).committed.map(|known| known.revision)
    }

    fn recording_of<K: Kind>(
        &self,
        slot: Slot,
        replica: Option<ReplicaId>,
        seats: &Seats,
    ) -> Result<Vec<u8>, RecordError> {
        let (seat, sender) = chosen(slot, replica, K::seats(seats))?;
        let (name, limit) = (seat_name(seat), self.limits.answer);
        match wait(ask(&sender, Order::Record), limit) {
            Ok(ring) if ring.is_empty() => Err(RecordError::Nothing { seat: name }),
            Ok(ring) => Ok(ring.to_bytes(&self.versions)),
            Err(NoAnswer::Late) => Err(RecordError::NoAnswer { seat: name, limit }),
            Err(NoAnswer::Stopped) => Err(RecordError::Stopped { seat: name }),
        }
    }

    /// Into the history, and into the audit log before it returns.
    pub(crate) fn record(&self, event: Event) -> Result<(), AuditError> {
        self.seating.ledger().append(event);
        self.seating.record()
    }

    /// The audit log says what is about to happen before the first seat is touched, or it does not happen.
    fn begin(&self, action: &'static str, by: &str, known: &Known) -> Result<(), AuditError> {
        if !self.seating.ledger().is_audited() {
            return Ok(());
        }
        let revision = known.report();
        let (by, subject, evidence) = (by.to_owned(), known.revision.id().slot.to_string(), describe(&revision));
        let revision = Some(EventRevision { digest: revision.digest, config: revision.config });
        self.record(Event { by, action, subject, outcome: "begun", evidence, revision })
    }

    fn try_deploy(&self, request: &DeployRequest<'_>) -> Result<Deployment, DeployError> {
        let seats = self.seating.seats().ok_or(Stopped)?;
        let config = self.checked_config(request.config)?;
        let digest = Digest::of(request.component);
        if let Some(evidence) = self.seating.ledger().quarantine_of(digest) {
            return Err(DeployError::Quarantined { digest, evidence: evidence.to_owned() });
        }
        let started = self.seating.ledger().now();
        let loaded = self.loader.load(request.component, request.class)?;
        if let Some(asked) = request.slot.filter(|asked| *asked != loaded.slot()) {
            return Err(DeployError::WrongSlot { asked, is: loaded.slot() });
        }
        let known = self.known(loaded.as_ref(), config, request.component.len(), started);
        match known.revision.clone() {
            Revision::Admission(source) => self.roll_out::<Admission>(&source, seats, known, request.by),
            Revision::Routing(source) => self.roll_out::<Routing>(&source, seats, known, request.by),
            Revision::Batching(source) => self.roll_out::<Batching>(&source, seats, known, request.by),
        }
    }

    fn known(&self, loaded: &dyn LoadedPolicy, config: &str, bytes: usize, started: u64) -> Known {
        let mut known = Known::new(loaded.revision(config), loaded.descriptor(), loaded.class());
        let now = self.seating.ledger().now();
        known.enter(Stage::Verified, started, format!("{bytes} bytes, sha256 {}", loaded.digest()));
        known.enter(Stage::Compiled, now, format!("within {} ms", now.saturating_sub(started)));
        known
    }

    fn checked_config<'a>(&self, config: Option<&'a str>) -> Result<&'a str, DeployError> {
        let config = config.unwrap_or(NO_CONFIGURATION);
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
        source: &Source<K>,
        seats: &Seats,
        mut known: Known,
        by: &str,
    ) -> Result<Deployment, DeployError> {
        let probed = self.probe::<K>(source, K::seats(seats))?;
        known.enter(Stage::Probed, self.seating.ledger().now(), probed.join(", "));
        // Also for a seat that has stopped: whichever of committing and its restart comes first, it takes this one.
        let ready = Seating::prepare::<K>(source, K::seats(seats)).map_err(DeployError::Prepare)?;
        let digest = known.digest();

        let _turn = self.seating.turn();
        self.begin("deploy", by, &known).map_err(DeployError::Audit)?;
        // Committed first: a replica that restarts from here on takes the new one.
        let committed = self.seating.ledger().commit(K::SLOT, known);
        let committed = committed.map_err(|evidence| DeployError::Quarantined { digest, evidence })?;
        Ok(concluded(&committed, self.seating.install(ready)))
    }

    /// The names of the seats that are alive, each of which the candidate could decide for. Fails on the first it could
    /// not.
    fn probe<K: Kind>(&self, source: &Source<K>, seats: Vec<SeatOf<K>>) -> Result<Vec<String>, DeployError> {
        let mut probed = Vec::new();
        for (seat, sender) in seats {
            // A replica that is lost takes the committed revision when it comes back.
            let Some(view) = self.snapshot::<K>(seat, &sender)? else { continue };
            let mut candidate = source.instantiate().map_err(DeployError::Prepare)?;
            let name = seat_name(seat);
            K::probe(candidate.as_mut(), &view)
                .map_err(|failure| DeployError::Probe { seat: name.clone(), reason: failure.to_string() })?;
            probed.push(name);
        }
        if probed.is_empty() { Err(Stopped.into()) } else { Ok(probed) }
    }

    fn snapshot<K: Kind>(
        &self,
        seat: Seat,
        sender: &OrderSender<K::Policy, K::View>,
    ) -> Result<Option<K::View>, DeployError> {
        let limit = self.limits.answer;
        match wait(ask(sender, Order::Snapshot), limit) {
            Ok(view) => Ok(Some(view)),
            Err(NoAnswer::Stopped) => Ok(None),
            Err(NoAnswer::Late) => Err(DeployError::NoAnswer { seat: seat_name(seat), limit }),
        }
    }

    fn try_rollback(&self, slot: Slot, by: &str) -> Result<Deployment, RollbackError> {
        let seats = self.seating.seats().ok_or(Stopped)?;
        match slot {
            Slot::Admission => self.roll_back::<Admission>(seats, by),
            Slot::Routing => self.roll_back::<Routing>(seats, by),
            Slot::Batching => self.roll_back::<Batching>(seats, by),
        }
    }

    /// Like a deployment of the previous revision, which most seats still have warm.
    fn roll_back<K: Kind>(&self, seats: &Seats, by: &str) -> Result<Deployment, RollbackError> {
        let _turn = self.seating.turn();
        let slot = K::SLOT;
        let previous = self.seating.ledger().slot(slot).previous.ok_or(RollbackError::NoPrevious(slot))?;
        let (target, digest) = (previous.revision.id(), previous.digest());
        let source = K::source(&previous.revision).ok_or(RollbackError::NoPrevious(slot))?;
        if self.seating.ledger().quarantine_of(digest).is_some() {
            return Err(RollbackError::Quarantined { slot, digest });
        }
        let statuses = Seating::ask_all::<K, _>(K::seats(seats), self.limits.answer, Order::Status);
        if statuses.iter().all(|(_, status)| *status == Err(NoAnswer::Stopped)) {
            return Err(Stopped.into());
        }
        let is_warm = |status: &SeatStatus| status.previous.as_ref() == Some(target);
        let warm = statuses.iter().filter(|(_, status)| status.as_ref().is_ok_and(is_warm)).map(|((seat, _), _)| *seat);
        let warm: Vec<Seat> = warm.collect();
        let ready = Seating::prepare::<K>(&source, K::seats(seats)).map_err(RollbackError::Prepare)?;

        self.begin("rollback", by, &previous).map_err(RollbackError::Audit)?;
        let back = self.seating.ledger().swap_back(slot, target);
        let back = back.ok_or(RollbackError::Quarantined { slot, digest })?;
        Ok(concluded(&back, self.seating.take_back(target, ready, &warm)))
    }

    fn slot_status<K: Kind>(&self, slot: Slot, seats: &Seats) -> SlotReport {
        let answers: Vec<(Seat, Option<SeatStatus>)> =
            Seating::ask_all::<K, _>(K::seats(seats), self.limits.status, Order::Status)
                .into_iter()
                .map(|((seat, _), status)| (seat, status.ok()))
                .collect();
        let ledger = self.seating.ledger();
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

    fn quarantined(&self, seat: Seat, digest: Digest, returned: Option<&RevisionId>, evidence: String) {
        {
            let mut ledger = self.seating.ledger();
            ledger.quarantine(seat, digest, returned, evidence.clone());
            let evidence = format!("{evidence}; {} decides again", ledger.describe(seat.slot));
            ledger.append(seen("quarantine", seat_name(seat), evidence));
        }
        self.seating.recall(seat.slot, digest);
    }

    fn only(&self) -> Option<MutexGuard<'_, ()>> {
        match self.deploying.try_lock() {
            Ok(only) => Some(only),
            Err(TryLockError::Poisoned(only)) => Some(only.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl Observer for Control {
    fn observe(&self, event: &EngineEvent<'_>) {
        match event {
            EngineEvent::Installed { seat, installed } => self.seating.ledger().seat_took(*seat, installed),
            EngineEvent::Fallback { seat, fault } => {
                self.seating.ledger().append(seen("fault", seat_name(*seat), fault.to_string()));
            }
            EngineEvent::Quarantined { seat, digest, returned, fault } => {
                self.quarantined(*seat, *digest, *returned, fault.to_string());
            }
            EngineEvent::ReplicaLost { replica, requeued, failed } => {
                let subject = format!("replica {}", replica.0);
                self.seating.ledger().append(seen(
                    "replica-lost",
                    subject,
                    format!("{requeued} requeued, {failed} failed"),
                ));
            }
            _ => {}
        }
    }
}

/// What the caller is told.
fn concluded(known: &Known, outcomes: Outcomes) -> Deployment {
    let committed = |outcome: &Outcome| matches!(outcome, Outcome::Committed { .. });
    Deployment {
        slot: known.revision.id().slot.to_string(),
        revision: known.report(),
        mixed: !outcomes.iter().all(|(_, outcome)| committed(outcome)),
        seats: outcomes.into_iter().map(|(seat, outcome)| (seat_name(seat), outcome)).collect(),
    }
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
    Event { by: "engine".to_owned(), action, subject, outcome: "seen", evidence, revision: None }
}

fn concluded_event(action: &'static str, by: &str, done: &Deployment) -> Event {
    let revision = EventRevision { digest: done.revision.digest.clone(), config: done.revision.config.clone() };
    Event {
        by: by.to_owned(),
        action,
        subject: done.slot.clone(),
        outcome: if done.mixed { "mixed" } else { "done" },
        evidence: describe(&done.revision),
        revision: Some(revision),
    }
}

fn refused_deployment(request: &DeployRequest<'_>, error: &DeployError) -> Event {
    let digest = Digest::of(request.component);
    Event {
        by: request.by.to_owned(),
        action: "deploy",
        subject: request.slot.map_or_else(|| "-".to_owned(), |slot| slot.to_string()),
        outcome: "refused",
        evidence: format!("{}: {error}", digest.short()),
        revision: Some(EventRevision {
            digest: digest.to_string(),
            config: request.config.unwrap_or(NO_CONFIGURATION).to_owned(),
        }),
    }
}

fn describe(revision: &RevisionReport) -> String {
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
