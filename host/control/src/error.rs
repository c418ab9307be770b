//! Why a deployment, a rollback or a recording did not happen. Nothing has changed where one of these comes back, but for
//! the two that say so.

use std::time::Duration;

use sluice_core::{Digest, LoadError, PolicyFault, ReplicaId, Slot};
use sluice_engine::order::Stopped;

use crate::audit::AuditError;

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DeployError {
    #[error("a deployment is in progress: wait until it is done, then try again")]
    InProgress,
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("the component is a policy for {is}, but {asked} was asked for: deploy it without naming a slot")]
    WrongSlot { asked: Slot, is: Slot },
    #[error("the configuration is not a JSON object: {0}")]
    Configuration(String),
    #[error("the configuration has {bytes} bytes; at most {limit} are taken")]
    ConfigurationTooLarge { bytes: usize, limit: usize },
    #[error("{digest} is quarantined since it struck out: {evidence}. Deploy a component with the fault mended")]
    Quarantined { digest: Digest, evidence: String },
    #[error("the candidate could not be prepared: {0}")]
    Prepare(PolicyFault),
    #[error("the candidate failed its probe on {seat}: {reason}")]
    Probe { seat: String, reason: String },
    #[error("{seat} did not answer within {limit:?}: try again when its step is over")]
    NoAnswer { seat: String, limit: Duration },
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("not deployed, since it could not be audited: {0}")]
    Audit(AuditError),
    #[error("deployed, but the audit log says only that it began: {0}")]
    Unrecorded(AuditError),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RollbackError {
    #[error("a deployment is in progress: wait until it is done, then try again")]
    InProgress,
    #[error("{0} has no previous revision to go back to")]
    NoPrevious(Slot),
    #[error("the previous revision of {slot} ({digest}) is quarantined: deploy another one instead")]
    Quarantined { slot: Slot, digest: Digest },
    #[error("the previous revision could not be prepared: {0}")]
    Prepare(PolicyFault),
    #[error(transparent)]
    Stopped(#[from] Stopped),
    #[error("not rolled back, since it could not be audited: {0}")]
    Audit(AuditError),
    #[error("rolled back, but the audit log says only that it began: {0}")]
    Unrecorded(AuditError),
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    #[error("{slot} has no replica {}: its replicas are 0 to {last}", replica.0)]
    NoReplica { slot: Slot, replica: ReplicaId, last: usize },
    #[error("{0} decides for all replicas in one seat: ask without a replica")]
    OneSeat(Slot),
    #[error("nothing is recorded on {seat}: deploy a policy there first, or let the one that is there decide")]
    Nothing { seat: String },
    #[error("{seat} did not answer within {limit:?}: try again when its step is over")]
    NoAnswer { seat: String, limit: Duration },
    #[error("{seat} has stopped: a lost replica records again when it has come back, a stopped engine does not")]
    Stopped { seat: String },
}
