//! The nouns of the server: request, sequence, batch, block, view, decision, and the traits of a policy and an executor.
//!
//! Architecture invariant: no IO, no real clock, no randomness, no threads, no GPU and no WebAssembly here.
//! Units, everywhere: time in nanoseconds of one monotonic clock, tokens and blocks as counts, ratios 0 to 1.

pub mod batch;
pub mod block;
pub mod clock;
pub mod decision;
pub mod device;
pub mod event;
pub mod executor;
pub mod failure;
pub mod loader;
pub mod mix;
pub mod observer;
pub mod philox;
pub mod policy;
pub mod request;
pub mod revision;
pub mod sampling;
pub mod sink;
pub mod variants;
pub mod view;

pub use batch::{Batch, Draw, Row, Sampled, Score, Scored, StepOutput, StepTimes, TokenSource};
pub use block::{BlockHash, BlockId, HashChain};
pub use clock::Clock;
pub use decision::{BatchingDecision, Choice, Chunk, NextFlow, Rejection, Route, Verdict};
pub use device::{DeviceReading, DeviceReadings, NoDevices};
pub use event::{Events, FinishReason, Finished, Preempted};
pub use executor::{Executor, ExecutorError, Ticket};
pub use failure::{Failure, FailureKind};
pub use loader::{DeploymentClass, LoadError, LoadedPolicy, PolicyLoader, Revision};
pub use mix::split_mix;
pub use observer::{EngineEvent, Handover, Installed, Observer, Seat, Unobserved};
pub use policy::{
    AdmissionPolicy, BatchingPolicy, CallCost, Descriptor, FaultKind, Policy, PolicyFault, RoutingPolicy, State,
};
pub use request::{ReplicaId, Request, RequestId, TenantId};
pub use revision::{Digest, Instantiate, RevisionId, Slot};
pub use sampling::{Logprob, SampledToken, SamplingParams, ScoredToken};
pub use sink::{EndOfStream, SinkClosed, TokenEvent, TokenSink};
pub use variants::PromptVariants;

/// Nanoseconds since the start of whoever drives the engine; monotonic.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;
/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
