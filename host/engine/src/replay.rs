//! Plays a recording back to a policy and lists where it decides otherwise.
//!
//! Through the same digest there is no difference; through another, the differences are the decision diff.

use std::sync::Arc;

use sluice_core::{FaultKind, Instantiate, Policy, PolicyFault};

use crate::codec::{Codec, DecodeError, Reader};
use crate::decide::{Admit, Decide, Next, Plan, Rank};
use crate::recorder::{DecisionRecord, Entry, Outcome, Recording};

#[derive(Debug, Default)]
pub struct ReplayReport {
    pub decisions: u64,
    /// Faults are inputs: they are not asked for again.
    pub faults: u64,
    pub differences: Vec<Difference>,
}

/// The entry's index, and both outcomes, encoded.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub entry: usize,
    pub recorded: Vec<u8>,
    pub replayed: Result<Vec<u8>, PolicyFault>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    #[error("entry {entry}: {source}")]
    Decode { entry: usize, source: DecodeError },
    #[error("entry {entry}: the policy is for another slot than the recording")]
    WrongSlot { entry: usize },
    #[error("entry {entry}: {fault}")]
    Instantiate { entry: usize, fault: PolicyFault },
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

/// Replays every decision of one seat through instances of one revision.
pub fn replay<P: Replayable + ?Sized>(
    recording: &Recording,
    source: &Arc<dyn Instantiate<P>>,
) -> Result<ReplayReport, ReplayError> {
    let mut report = ReplayReport::default();
    let mut instance: Option<Box<P>> = None;
    for (entry, recorded) in recording.entries.iter().enumerate() {
        let faulted = |fault| ReplayError::Instantiate { entry, fault };
        match recorded {
            Entry::Started { state, .. } => {
                let mut fresh = source.instantiate().map_err(faulted)?;
                if let Some(state) = state {
                    fresh.import_state(state).map_err(faulted)?;
                }
                instance = Some(fresh);
            }
            Entry::Checkpoint { state, .. } => match &mut instance {
                Some(running) => drop(running.export_state().map_err(faulted)?),
                None => {
                    let mut fresh = source.instantiate().map_err(faulted)?;
                    fresh.import_state(state).map_err(faulted)?;
                    instance = Some(fresh);
                }
            },
            Entry::Observed(events) => {
                let running = instance.as_mut().ok_or(ReplayError::NoStart)?;
                running.observe(events).map_err(faulted)?;
            }
            Entry::Faulted { .. } => report.faults += 1,
            Entry::Decided(decision) => {
                decide_again(&mut report, entry, decision, instance.as_deref_mut().ok_or(ReplayError::NoStart)?)?;
            }
        }
    }
    Ok(report)
}

fn decide_again<P: Replayable + ?Sized>(
    report: &mut ReplayReport,
    entry: usize,
    decision: &DecisionRecord,
    policy: &mut P,
) -> Result<(), ReplayError> {
    let mut again = || {
        policy
            .replay(decision)
            .ok_or(ReplayError::WrongSlot { entry })?
            .map_err(|source| ReplayError::Decode { entry, source })
    };
    match &decision.outcome {
        Outcome::Decision(recorded) => {
            let replayed = again()?;
            report.decisions += 1;
            if replayed.as_ref() != Ok(recorded) {
                report.differences.push(Difference { entry, recorded: recorded.clone(), replayed });
            }
        }
        Outcome::Fault(fault) => {
            report.faults += 1;
            // An instance outlives a decision that was merely refused, and may have changed by making it.
            if matches!(fault.kind, FaultKind::Invalid(_)) {
                drop(again()?);
            }
        }
    }
    Ok(())
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
