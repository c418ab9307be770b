//! Plays a recording back to a policy and lists where it decides otherwise.
//!
//! Through a revision that the recording holds, its own decisions come back to the byte: only the stretches in which it
//! sat there are played, each from a fresh instance as it was then. Through any other, the differences are the decision
//! diff: one instance sees everything that the seat saw, whoever decided then.

use std::sync::Arc;

use sluice_core::{FaultKind, Instantiate, Policy, PolicyFault, RevisionId, Slot, State};

use crate::codec::{Codec, DecodeError, Reader};
use crate::decide::{Admit, Decide, Next, Plan, Rank};
use crate::recorder::{DecisionRecord, Entry, Outcome, Recording, RevisionRecord};

#[derive(Debug, Default)]
pub struct ReplayReport {
    /// Whether the recording holds this very revision: then a difference is not a matter of taste.
    pub own: bool,
    /// Decisions that were made again and compared.
    pub decisions: u64,
    /// Faults are inputs: what came of them is not compared.
    pub faults: u64,
    /// Decisions of other revisions, which are not asked of one that has decisions of its own here.
    pub passed_over: u64,
    pub differences: Vec<Difference>,
    pub fuel: FuelReport,
}

/// Of the decisions that were compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FuelReport {
    pub recorded: u64,
    pub replayed: u64,
    /// Decisions that took another amount.
    pub differences: u64,
}

/// The entry's index, and both outcomes, encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub entry: usize,
    pub tag: u8,
    pub recorded: Vec<u8>,
    pub replayed: Result<Vec<u8>, PolicyFault>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("entry {entry}: {source}")]
    Decode { entry: usize, source: DecodeError },
    #[error("entry {entry} is a decision of another slot than the policy's: replay it through a policy for that one")]
    WrongSlot { entry: usize },
    #[error("entry {entry}, outside a decision: {fault}")]
    Fault { entry: usize, fault: PolicyFault },
    #[error("the recording does not start at a checkpoint")]
    NoStart,
}

/// A policy that can be asked for a recorded decision: one implementation per slot.
pub trait Replayable: Policy {
    /// `None`: a decision of another slot.
    fn replay(&mut self, record: &DecisionRecord) -> Option<Result<Result<Vec<u8>, PolicyFault>, DecodeError>>;
}

impl Replayable for dyn sluice_core::AdmissionPolicy {
    fn replay(&mut self, record: &DecisionRecord) -> Option<Result<Result<Vec<u8>, PolicyFault>, DecodeError>> {
        match record.tag {
            Admit::TAG => Some(ask::<Admit>(self, record)),
            Next::TAG => Some(ask::<Next>(self, record)),
            _ => None,
        }
    }
}

impl Replayable for dyn sluice_core::RoutingPolicy {
    fn replay(&mut self, record: &DecisionRecord) -> Option<Result<Result<Vec<u8>, PolicyFault>, DecodeError>> {
        (record.tag == Rank::TAG).then(|| ask::<Rank>(self, record))
    }
}

impl Replayable for dyn sluice_core::BatchingPolicy {
    fn replay(&mut self, record: &DecisionRecord) -> Option<Result<Result<Vec<u8>, PolicyFault>, DecodeError>> {
        (record.tag == Plan::TAG).then(|| ask::<Plan>(self, record))
    }
}

/// The slot whose seat was recorded, if anything was decided there.
pub fn slot_of(recording: &Recording) -> Option<Slot> {
    recording.entries.iter().find_map(|entry| match entry {
        Entry::Decided(decision) => match decision.tag {
            Admit::TAG | Next::TAG => Some(Slot::Admission),
            Rank::TAG => Some(Slot::Routing),
            Plan::TAG => Some(Slot::Batching),
            _ => None,
        },
        _ => None,
    })
}

/// A recorded decision in words; bytes that are none say so.
pub fn legible(tag: u8, decision: &[u8]) -> String {
    match tag {
        Admit::TAG => words::<Admit>(decision),
        Next::TAG => words::<Next>(decision),
        Rank::TAG => words::<Rank>(decision),
        Plan::TAG => words::<Plan>(decision),
        other => format!("a decision of the unknown kind {other}"),
    }
}

/// Replays the decisions of one seat through instances of one revision.
pub fn replay<P: Replayable + ?Sized>(
    recording: &Recording,
    source: &Arc<dyn Instantiate<P>>,
) -> Result<ReplayReport, ReplayError> {
    let own = recording.revisions().any(|revision| is(revision, source.revision()));
    let mut player = Player { source, instance: None, report: ReplayReport { own, ..ReplayReport::default() } };
    if recording.entries.first().is_some_and(|entry| entry.revision().is_none()) {
        return Err(ReplayError::NoStart);
    }
    for (index, entry) in recording.entries.iter().enumerate() {
        player.play(index, entry)?;
    }
    Ok(player.report)
}

struct Player<'a, P: Replayable + ?Sized> {
    source: &'a Arc<dyn Instantiate<P>>,
    /// `None` while somebody else sat there.
    instance: Option<Box<P>>,
    report: ReplayReport,
}

impl<P: Replayable + ?Sized> Player<'_, P> {
    fn play(&mut self, index: usize, entry: &Entry) -> Result<(), ReplayError> {
        let faulted = |fault| ReplayError::Fault { entry: index, fault };
        match entry {
            Entry::Started { revision, .. } | Entry::Checkpoint { revision, .. } if self.passes_over(revision) => {
                self.instance = None;
            }
            Entry::Started { state, .. } => {
                if self.report.own || self.instance.is_none() {
                    self.start(state.as_ref()).map_err(faulted)?;
                }
            }
            Entry::Checkpoint { state, .. } => match &mut self.instance {
                // It was asked for its state then, so it is now.
                Some(running) => drop(running.export_state().map_err(faulted)?),
                None => self.start(Some(state)).map_err(faulted)?,
            },
            Entry::Observed(events) => {
                if let Some(running) = &mut self.instance {
                    running.observe(events).map_err(faulted)?;
                }
            }
            Entry::Faulted { .. } if self.instance.is_some() => self.report.faults += 1,
            Entry::Faulted { .. } => {}
            Entry::Decided(decision) => self.decide(index, decision)?,
        }
        Ok(())
    }

    fn passes_over(&self, revision: &RevisionRecord) -> bool {
        self.report.own && !is(revision, self.source.revision())
    }

    /// As the guard starts an instance: cold where it does not take the state.
    fn start(&mut self, state: Option<&State>) -> Result<(), PolicyFault> {
        let mut fresh = self.source.instantiate()?;
        if let Some(state) = state.filter(|state| !state.schema.is_empty())
            && fresh.import_state(state).is_err()
        {
            fresh = self.source.instantiate()?;
        }
        self.instance = Some(fresh);
        Ok(())
    }

    fn decide(&mut self, index: usize, decision: &DecisionRecord) -> Result<(), ReplayError> {
        let Some(policy) = &mut self.instance else {
            self.report.passed_over += 1;
            return Ok(());
        };
        let recorded = match &decision.outcome {
            Outcome::Decision(recorded) => Some(recorded),
            Outcome::Fault(fault) => {
                self.report.faults += 1;
                // An instance outlives a decision that was merely refused, and may have changed by making it.
                if self.report.own && !matches!(fault.kind, FaultKind::Invalid(_)) {
                    return Ok(());
                }
                None
            }
        };
        let replayed = policy
            .replay(decision)
            .ok_or(ReplayError::WrongSlot { entry: index })?
            .map_err(|source| ReplayError::Decode { entry: index, source })?;
        let fuel = policy.last_cost().fuel;
        if replayed.is_err() {
            self.start(None).map_err(|fault| ReplayError::Fault { entry: index, fault })?;
        }
        if let Some(recorded) = recorded {
            self.report.compare(index, decision, recorded, replayed, fuel);
        }
        Ok(())
    }
}

impl ReplayReport {
    fn compare(
        &mut self,
        entry: usize,
        decision: &DecisionRecord,
        recorded: &[u8],
        replayed: Result<Vec<u8>, PolicyFault>,
        fuel: u64,
    ) {
        self.decisions += 1;
        // What a file says may be any number.
        self.fuel.recorded = self.fuel.recorded.saturating_add(decision.fuel);
        self.fuel.replayed = self.fuel.replayed.saturating_add(fuel);
        self.fuel.differences += u64::from(decision.fuel != fuel);
        if replayed.as_deref() != Ok(recorded) {
            let recorded = recorded.to_vec();
            self.differences.push(Difference { entry, tag: decision.tag, recorded, replayed });
        }
    }
}

fn is(record: &RevisionRecord, revision: &RevisionId) -> bool {
    (record.digest, &record.config) == (revision.digest, &revision.config)
}

fn words<D: Decide>(bytes: &[u8]) -> String {
    match D::Decision::decode(&mut Reader::new(bytes)) {
        Ok(decision) => format!("{decision:?}"),
        Err(error) => error.to_string(),
    }
}

fn ask<D: Decide>(
    policy: &mut D::Policy,
    record: &DecisionRecord,
) -> Result<Result<Vec<u8>, PolicyFault>, DecodeError> {
    let view = D::View::decode(&mut Reader::new(&record.view))?;
    Ok(D::ask(policy, &view).map(|decision| {
        let mut bytes = Vec::new();
        decision.encode(&mut bytes);
        bytes
    }))
}
