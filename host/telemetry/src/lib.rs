//! What the GPUs say of themselves, and Prometheus metrics: counts what the engine reports, and writes both out without
//! asking the engine or a card.
//!
//! Architecture invariant: never a label with a request, a key or a user; every label comes from a bounded set.

mod cards;
mod counts;
mod device;
mod distribution;
mod edge;
mod engine;
mod make;
mod metrics;
mod names;
mod own;
mod page;
mod policy;
mod vllm;

pub use cards::CardSampler;
pub use edge::{Counted, EdgeMetrics, Timeout};
pub use metrics::{Compat, Metrics, MetricsError, MetricsOptions};
