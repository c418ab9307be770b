//! The seam to a policy: one trait for what all policies share, one for each decision.

use std::fmt;

use crate::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use crate::{BatchingDecision, Digest, Events, Nanos, NextFlow, Route, Verdict};

/// What a policy says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Descriptor {
    pub name: String,
    pub version: String,
    pub description: String,
    /// JSON Schema.
    pub configuration_schema: String,
    /// Empty for a policy without state.
    pub state_schema: String,
}

/// State on its way from one instance to the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    pub schema: String,
    pub bytes: Vec<u8>,
}

/// What the last call took.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CallCost {
    pub nanos: Nanos,
    /// wasmtime's; the same for the same call on any machine. 0 for a native policy.
    pub fuel: u64,
}

/// One instance of a policy, held and called by one thread. After an error other than `Invalid` it is dead.
pub trait Policy: Send {
    /// Called before a decision when something happened since the last.
    fn observe(&mut self, events: &Events) -> Result<(), PolicyFault>;

    /// Called every few seconds for a checkpoint, and at a swap.
    fn export_state(&mut self) -> Result<State, PolicyFault>;

    /// Called at most once, before the first decision. False means a cold start.
    fn import_state(&mut self, state: &State) -> Result<bool, PolicyFault>;

    fn last_cost(&self) -> CallCost;
}

pub trait AdmissionPolicy: Policy {
    /// Once per request that arrives.
    fn admit(&mut self, view: &ArrivalView) -> Result<Verdict, PolicyFault>;

    /// When a replica has room and more than one flow waits.
    fn next(&mut self, view: &FlowView) -> Result<NextFlow, PolicyFault>;
}

pub trait RoutingPolicy: Policy {
    /// Once per request that is about to leave the central queue.
    fn rank(&mut self, view: &RoutingView) -> Result<Route, PolicyFault>;
}

pub trait BatchingPolicy: Policy {
    /// Once per step that has something to decide.
    fn plan(&mut self, view: &BatchingView) -> Result<BatchingDecision, PolicyFault>;
}

/// A policy did what it must not. A value, never a failed request: the native rule decides instead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PolicyFault {
    pub policy: String,
    pub digest: Digest,
    pub kind: FaultKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FaultKind {
    /// It trapped; the message is wasmtime's.
    Trap(String),
    /// It ran into its wall-clock deadline.
    Deadline,
    /// It ran out of fuel.
    Fuel,
    /// It asked for more memory than it may have.
    Memory,
    /// It overran its stack.
    Stack,
    /// It returned more than the call may return.
    ResultTooLarge,
    /// It refused its configuration.
    Configuration(String),
    /// What it decided cannot be done.
    Invalid(String),
}

impl FaultKind {
    /// For metrics and recordings.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Trap(_) => "trap",
            Self::Deadline => "deadline",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Stack => "stack",
            Self::ResultTooLarge => "result-too-large",
            Self::Configuration(_) => "configuration",
            Self::Invalid(_) => "invalid",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap(message) => write!(f, "trapped: {message}"),
            Self::Deadline => f.write_str("missed its deadline"),
            Self::Fuel => f.write_str("ran out of fuel"),
            Self::Memory => f.write_str("asked for more memory than it may have"),
            Self::Stack => f.write_str("overran its stack"),
            Self::ResultTooLarge => f.write_str("returned more than it may"),
            Self::Configuration(message) => write!(f, "refused its configuration: {message}"),
            Self::Invalid(message) => write!(f, "decided what cannot be done: {message}"),
        }
    }
}

impl fmt::Display for PolicyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "policy `{}` ({}) {}", self.policy, self.digest.short(), self.kind)
    }
}

impl std::error::Error for PolicyFault {}
