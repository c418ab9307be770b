//! What a policy author depends on: rows, a trait per decision, and the export macros.
//!
//! A policy is a type with a configuration ([`config!`]), the trait of its slot ([`batching::Batching`],
//! [`routing::Routing`] or [`admission::Admission`]) and one line that exports it. It compiles natively too, so its
//! algorithm is tested like any other code; only on wasm32 does it become a component.

pub mod admission;
pub mod batching;
pub mod bindings;
pub mod config;
pub mod guest;
pub mod host;
mod json;
pub mod policy;
pub mod queue;
pub mod routing;
pub mod rows;
pub mod state;

pub use bindings::shared::sluice::policy::types::{Descriptor, DeviceSample, Events, Request, State};
pub use config::{Choice, Configuration};
pub use policy::{Package, Policy};
pub use rows::{FinishReason, FinishedRequest, Phase, PreemptedSequence, ReplicaState};

/// Nanoseconds of the clock that comes in with every view.
pub type Nanos = u64;

/// One second.
pub const SECOND: Nanos = 1_000_000_000;
/// One millisecond.
pub const MILLISECOND: Nanos = 1_000_000;
