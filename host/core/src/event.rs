//! What a policy is told between decisions: each event once, numbered, in order.

use crate::view::DeviceSample;
use crate::{Nanos, ReplicaId, RequestId, TenantId};

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop = 1,
    /// Its own limit of new tokens, or the model's length.
    Length = 2,
    /// The client left, or was too slow to read.
    Cancelled = 3,
    Failed = 4,
}

/// A request that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finished {
    pub id: RequestId,
    pub tenant: TenantId,
    pub replica: ReplicaId,
    pub reason: FinishReason,
    pub arrival: Nanos,
    /// When it first ran, if it did.
    pub scheduled: Option<Nanos>,
    pub first_token: Option<Nanos>,
    pub finished: Nanos,
    pub prompt_tokens: u32,
    pub cached_tokens: u32,
    pub generated_tokens: u32,
    pub preemptions: u32,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Preempted {
    pub id: RequestId,
    pub recompute_tokens: u32,
}

/// Everything since the last call, each row with its number. Numbers run on over all three lists.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Events {
    pub now: Nanos,
    /// Dropped by the bounded buffer since the last call; their numbers are missing below.
    pub lost: u64,
    pub finished: Vec<(u64, Finished)>,
    pub preempted: Vec<(u64, Preempted)>,
    pub samples: Vec<DeviceSample>,
}

impl Events {
    pub fn is_empty(&self) -> bool {
        self.lost == 0 && self.finished.is_empty() && self.preempted.is_empty() && self.samples.is_empty()
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.lost = 0;
        self.finished.clear();
        self.preempted.clear();
        self.samples.clear();
    }
}
