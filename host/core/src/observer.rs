//! What the engine reports to whoever counts and keeps history. Never to a policy.

use crate::view::LastStep;
use crate::{CallCost, Digest, Finished, Nanos, PolicyFault, Rejection, ReplicaId, RequestId, RevisionId, Slot};

/// Called on the threads that step: it must return at once.
pub trait Observer: Send + Sync {
    fn observe(&self, event: &EngineEvent<'_>);
}

#[derive(Clone, PartialEq, Debug)]
pub enum EngineEvent<'a> {
    /// A step was collected.
    Step {
        replica: ReplicaId,
        step: &'a LastStep,
        /// See [`StepTimes`](crate::StepTimes).
        roof: Option<Nanos>,
    },
    /// What a replica holds, after it changed. Blocks that only hold a cached prefix are not in use.
    Occupancy {
        replica: ReplicaId,
        running: u32,
        waiting: u32,
        blocks_used: u32,
        blocks_total: u32,
    },
    /// A sequence gave its first token, so long after it arrived.
    FirstToken {
        replica: ReplicaId,
        after: Nanos,
    },
    /// A further token, so long after the one before.
    Token {
        replica: ReplicaId,
        after: Nanos,
    },
    /// The prefix cache was asked for so many tokens and had so many.
    PrefixCache {
        replica: ReplicaId,
        queried: u32,
        hit: u32,
    },
    Preempted {
        replica: ReplicaId,
        id: RequestId,
        recompute_tokens: u32,
    },
    /// Of a request that was accepted; once.
    Finished(&'a Finished),
    Rejected {
        rejection: &'a Rejection,
    },
    /// The central queue after it changed.
    Queue {
        requests: u32,
        tokens: u64,
    },
    ReplicaLost {
        replica: ReplicaId,
        requeued: u32,
        failed: u32,
    },
    /// A decision by the policy in force.
    Decision {
        seat: Seat,
        cost: CallCost,
    },
    /// The native rule decided instead.
    Fallback {
        seat: Seat,
        fault: &'a PolicyFault,
    },
    /// The host overrode a policy that let something wait too long, or everything stand still.
    Override {
        seat: Seat,
        rule: &'static str,
    },
    Installed {
        seat: Seat,
        installed: &'a Installed,
    },
    /// Too many strikes: the digest may not come back, `returned` decides again (`None`: the native rule).
    Quarantined {
        seat: Seat,
        digest: Digest,
        returned: Option<&'a RevisionId>,
        fault: &'a PolicyFault,
    },
}

/// Where one policy instance sits: a slot, and for batching which replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Seat {
    pub slot: Slot,
    pub replica: Option<ReplicaId>,
}

/// A revision took its seat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Installed {
    pub revision: RevisionId,
    pub handover: Handover,
    /// How long the boundary was held up.
    pub pause: Nanos,
}

/// What became of the state of the instance before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Handover {
    /// There was none to hand over.
    Stateless,
    Imported {
        bytes: usize,
    },
    /// It started cold, for this reason.
    Cold {
        reason: String,
    },
}

/// An observer that does nothing.
pub struct Unobserved;

impl Observer for Unobserved {
    fn observe(&self, _: &EngineEvent<'_>) {}
}
