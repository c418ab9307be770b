//! What a policy decides. Proposals only: the engine's guard checks each before anything comes of it.

use crate::Nanos;

/// Of the admission policy, on arrival.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    Accept { priority: i32 },
    Reject(Rejection),
    Degrade { max_new_tokens: u32 },
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The caller asks for too much (429); otherwise the server is busy (503).
    pub caller: bool,
    pub reason: String,
    pub retry_after: Nanos,
}

/// Of the admission policy, when a replica has room.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextFlow {
    Serve { tenant: u64 },
    HoldUntil(Nanos),
}

/// Of the routing policy.
#[derive(Clone, PartialEq, Debug)]
pub enum Route {
    /// Best first.
    Ranked(Vec<Choice>),
    HoldUntil(Nanos),
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice {
    pub replica: u32,
    pub cost: f64,
}

/// Of the batching policy: what the next step computes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct BatchingDecision {
    pub max_running: u32,
    pub token_budget: u32,
    pub order: Vec<u64>,
    pub chunks: Vec<Chunk>,
    pub victims: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    pub id: u64,
    pub tokens: u32,
}
