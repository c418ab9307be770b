//! Trusts no policy: delivers its events, asks it, checks its decision, and says when the native rule must decide.
//!
//! A fault is a strike and never more than one decision by the native rule: a dead instance is replaced by a fresh
//! one with the last checkpoint. Too many strikes quarantine the digest, and the revision before returns.

use std::collections::VecDeque;
use std::sync::Arc;

use sluice_core::view::DeviceSample;
use sluice_core::{
    Clock, Digest, EngineEvent, FaultKind, Finished, Handover, Installed, Instantiate, Nanos, Observer, Policy,
    PolicyFault, Preempted, RevisionId, SECOND, Seat, State,
};

use crate::decide::Decide;
use crate::events::EventBuffer;
use crate::order::{NoPrevious, Order, Prepared, Reply, SeatStatus};
use crate::recorder::Recorder;

#[derive(Clone, Copy, Debug)]
pub struct GuardConfig {
    /// So many faults within `strike_window` quarantine a digest.
    pub strikes: usize,
    pub strike_window: Nanos,
    pub checkpoint_interval: Nanos,
    /// Bytes of the flight recorder's ring; 0 turns it off.
    pub recorder_bytes: usize,
}

impl Default for GuardConfig {
    fn default() -> Self {
        Self { strikes: 3, strike_window: 60 * SECOND, checkpoint_interval: 5 * SECOND, recorder_bytes: 4 << 20 }
    }
}

/// How many quarantined digests a seat remembers.
const MAX_QUARANTINED: usize = 64;

/// One seat: the revision in force, the one before it, and what the guard holds against them.
pub struct Guard<P: Policy + ?Sized> {
    seat: Seat,
    config: GuardConfig,
    active: Option<Holder<P>>,
    previous: Option<Holder<P>>,
    events: EventBuffer,
    strikes: VecDeque<Nanos>,
    quarantined: VecDeque<Digest>,
    decisions: u64,
    fallbacks: u64,
    recorder: Recorder,
    observer: Arc<dyn Observer>,
}

struct Holder<P: Policy + ?Sized> {
    source: Arc<dyn Instantiate<P>>,
    instance: Box<P>,
    /// What a fresh instance starts from.
    checkpoint: Option<State>,
    checkpoint_at: Nanos,
}

impl<P: Policy + ?Sized> Guard<P> {
    /// A seat that nobody has taken: the native rule decides.
    pub fn new(seat: Seat, config: GuardConfig, observer: Arc<dyn Observer>) -> Self {
        Self {
            seat,
            config,
            active: None,
            previous: None,
            events: EventBuffer::default(),
            strikes: VecDeque::new(),
            quarantined: VecDeque::new(),
            decisions: 0,
            fallbacks: 0,
            recorder: Recorder::new(config.recorder_bytes),
            observer,
        }
    }

    pub fn seat(&self) -> Seat {
        self.seat
    }

    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    pub fn finished(&mut self, finished: &Finished) {
        if self.active.is_some() {
            self.events.finished(finished.clone());
        }
    }

    pub fn preempted(&mut self, preempted: Preempted) {
        if self.active.is_some() {
            self.events.preempted(preempted);
        }
    }

    pub fn sample(&mut self, sample: DeviceSample) {
        if self.active.is_some() {
            self.events.sample(sample);
        }
    }

    /// The policy's decision, if there is a policy and its decision can be carried out.
    pub fn decide<D: Decide<Policy = P>>(&mut self, view: &D::View, now: Nanos) -> Option<D::Decision> {
        self.active.as_ref()?;
        self.checkpoint_if_due(now);
        self.deliver_events(now).ok()?;
        let holder = self.active.as_mut()?;
        let asked = D::ask(&mut holder.instance, view);
        let cost = holder.instance.last_cost();
        let checked = asked.and_then(|decision| match D::check(view, &decision) {
            Ok(()) => Ok(decision),
            Err(reason) => Err(fault_of(holder, FaultKind::Invalid(reason))),
        });
        self.recorder.decided::<D>(view, checked.as_ref(), cost);
        match checked {
            Ok(decision) => {
                self.decisions += 1;
                self.observer.observe(&EngineEvent::Decision { seat: self.seat, cost });
                Some(decision)
            }
            Err(fault) => {
                self.strike(&fault, now);
                None
            }
        }
    }

    /// The host decided over the policy's head, by this rule.
    pub fn overridden(&self, rule: &'static str) {
        if self.active.is_some() {
            self.observer.observe(&EngineEvent::Override { seat: self.seat, rule });
        }
    }

    /// Carries out an order. A snapshot is left to the holder of the seat, which alone can make the view.
    pub fn carry_out<V>(&mut self, order: Order<P, V>, clock: &dyn Clock) -> Option<Reply<V>> {
        match order {
            Order::Snapshot(reply) => return Some(reply),
            Order::Install { prepared, reply } => reply(self.install(prepared, clock)),
            Order::Rollback(reply) => reply(self.roll_back(clock)),
            Order::Evict { digest, reply } => reply(self.evict(digest, clock.now())),
            Order::Status(reply) => reply(self.status()),
            Order::Record(reply) => reply(self.recorder.ring()),
        }
        None
    }

    /// A new revision takes the seat; the one before stays warm.
    pub fn install(&mut self, prepared: Prepared<P>, clock: &dyn Clock) -> Installed {
        let begin = clock.now();
        let state = self.export_for_handover(begin);
        let mut next =
            Holder { source: prepared.source, instance: prepared.instance, checkpoint: None, checkpoint_at: begin };
        let handover = self.hand_over(&mut next, state);
        self.previous = self.active.replace(next);
        self.seated(handover, begin, clock)
    }

    /// The previous revision takes its seat back, with the newer state if it fits, else with its own.
    pub fn roll_back(&mut self, clock: &dyn Clock) -> Result<Installed, NoPrevious> {
        let begin = clock.now();
        let mut returning = self.previous.take().ok_or(NoPrevious)?;
        let state = self.export_for_handover(begin);
        let handover = self.hand_back(&mut returning, state);
        self.previous = self.active.replace(returning);
        Ok(self.seated(handover, begin, clock))
    }

    pub fn status(&self) -> SeatStatus {
        let revision = |holder: &Option<Holder<P>>| holder.as_ref().map(|holder| holder.source.revision().clone());
        SeatStatus {
            active: revision(&self.active),
            previous: revision(&self.previous),
            decisions: self.decisions,
            fallbacks: self.fallbacks,
            strikes: u32::try_from(self.strikes.len()).unwrap_or(u32::MAX),
            quarantined: self.quarantined.iter().copied().collect(),
        }
    }

    fn seated(&mut self, handover: Handover, begin: Nanos, clock: &dyn Clock) -> Installed {
        self.strikes.clear();
        let holder = self.active.as_ref().expect("a revision was just seated");
        let revision = holder.source.revision().clone();
        self.recorder.started(begin, &revision, holder.checkpoint.as_ref());
        let installed = Installed { revision, handover, pause: clock.now() - begin };
        self.observer.observe(&EngineEvent::Installed { seat: self.seat, installed: &installed });
        installed
    }

    /// What the instance in force knows, its last events included.
    fn export_for_handover(&mut self, now: Nanos) -> Result<Option<State>, PolicyFault> {
        if self.active.is_none() {
            return Ok(None);
        }
        self.deliver_events(now)?;
        let Some(holder) = &mut self.active else { return Ok(None) };
        let state = holder.instance.export_state()?;
        holder.checkpoint = Some(state.clone());
        Ok((!state.schema.is_empty()).then_some(state))
    }

    fn hand_over(&self, next: &mut Holder<P>, state: Result<Option<State>, PolicyFault>) -> Handover {
        let state = match state {
            Ok(Some(state)) => state,
            Ok(None) => return Handover::Stateless,
            Err(fault) => return Handover::Cold { reason: fault.to_string() },
        };
        match next.instance.import_state(&state) {
            Ok(true) => {
                let bytes = state.bytes.len();
                next.checkpoint = Some(state);
                Handover::Imported { bytes }
            }
            Ok(false) => Handover::Cold { reason: format!("it refused state of schema `{}`", state.schema) },
            Err(fault) => {
                // A trap leaves the instance dead: it starts cold, from the same revision.
                if let Ok(fresh) = next.source.instantiate() {
                    next.instance = fresh;
                }
                Handover::Cold { reason: fault.to_string() }
            }
        }
    }

    /// A fresh instance returns, not the one that left: that may be dead, and state is imported before the first decision.
    fn hand_back(&self, returning: &mut Holder<P>, newer: Result<Option<State>, PolicyFault>) -> Handover {
        let own = returning.checkpoint.take().filter(|state| !state.schema.is_empty());
        if let Ok(fresh) = returning.source.instantiate() {
            returning.instance = fresh;
        }
        let handover = self.hand_over(returning, newer);
        if own.is_none() || matches!(handover, Handover::Imported { .. }) {
            return handover;
        }
        // A state that was refused may have been half imported.
        if let Ok(fresh) = returning.source.instantiate() {
            returning.instance = fresh;
        }
        match self.hand_over(returning, Ok(own)) {
            imported @ Handover::Imported { .. } => imported,
            _ => handover,
        }
    }

    fn deliver_events(&mut self, now: Nanos) -> Result<(), PolicyFault> {
        let Some(holder) = &mut self.active else { return Ok(()) };
        let Some(events) = self.events.pending(now) else { return Ok(()) };
        let observed = holder.instance.observe(events);
        if observed.is_ok() {
            self.recorder.observed(events);
        }
        self.events.delivered();
        observed.inspect_err(|fault| {
            self.recorder.faulted(now, fault);
            self.strike(fault, now);
        })
    }

    fn checkpoint_if_due(&mut self, now: Nanos) {
        let Some(holder) = &mut self.active else { return };
        let due = now >= holder.checkpoint_at.saturating_add(self.config.checkpoint_interval);
        if !due && !self.recorder.wants_checkpoint() {
            return;
        }
        holder.checkpoint_at = now;
        match holder.instance.export_state() {
            Ok(state) => {
                self.recorder.checkpoint(now, holder.source.revision(), &state);
                holder.checkpoint = Some(state);
            }
            Err(fault) => {
                self.recorder.faulted(now, &fault);
                self.strike(&fault, now);
            }
        }
    }

    fn strike(&mut self, fault: &PolicyFault, now: Nanos) {
        self.fallbacks += 1;
        self.observer.observe(&EngineEvent::Fallback { seat: self.seat, fault });
        self.strikes.push_back(now);
        while self.strikes.front().is_some_and(|&at| at.saturating_add(self.config.strike_window) < now) {
            self.strikes.pop_front();
        }
        let alive = matches!(fault.kind, FaultKind::Invalid(_));
        let usable = alive || self.revive(now);
        if !usable || self.strikes.len() >= self.config.strikes {
            self.quarantine(fault, now);
        }
    }

    /// A fresh instance in the dead one's place. False if the revision cannot make one any more.
    fn revive(&mut self, now: Nanos) -> bool {
        let Some(holder) = &mut self.active else { return false };
        let Ok(mut fresh) = holder.source.instantiate() else { return false };
        let state = holder.checkpoint.clone().filter(|state| !state.schema.is_empty());
        let imported = state.filter(|state| match fresh.import_state(state) {
            Ok(accepted) => accepted,
            Err(_) => holder.source.instantiate().is_ok_and(|cold| {
                fresh = cold;
                false
            }),
        });
        self.recorder.started(now, holder.source.revision(), imported.as_ref());
        holder.instance = fresh;
        true
    }

    fn quarantine(&mut self, fault: &PolicyFault, now: Nanos) {
        let Some(digest) = self.active.as_ref().map(|holder| holder.source.revision().digest) else { return };
        let returned = self.evict(digest, now);
        self.observer.observe(&EngineEvent::Quarantined {
            seat: self.seat,
            digest,
            returned: returned.as_ref(),
            fault,
        });
    }

    /// Drops a digest wherever it sits. Returns what is in force then.
    fn evict(&mut self, digest: Digest, now: Nanos) -> Option<RevisionId> {
        if !self.quarantined.contains(&digest) {
            if self.quarantined.len() == MAX_QUARANTINED {
                self.quarantined.pop_front();
            }
            self.quarantined.push_back(digest);
        }
        let is_evicted = |holder: &Holder<P>| holder.source.revision().digest == digest;
        self.previous.take_if(|holder| is_evicted(holder));
        if self.active.take_if(|holder| is_evicted(holder)).is_some() {
            self.strikes.clear();
            if let Some(mut returning) = self.previous.take() {
                // With its own state, if it has any: what the evicted one knew is not trusted.
                self.hand_back(&mut returning, Ok(None));
                self.recorder.started(now, returning.source.revision(), returning.checkpoint.as_ref());
                self.active = Some(returning);
            }
        }
        self.active.as_ref().map(|holder| holder.source.revision().clone())
    }
}

fn fault_of<P: Policy + ?Sized>(holder: &Holder<P>, kind: FaultKind) -> PolicyFault {
    let revision = holder.source.revision();
    PolicyFault { policy: revision.name.clone(), digest: revision.digest, kind }
}
