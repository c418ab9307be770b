//! Prometheus metrics: counts what the engine reports, and writes it out without asking the engine.
//!
//! Architecture invariant: never a label with a request, a key or a user; every label comes from a bounded set.

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

pub use edge::{Counted, EdgeMetrics, Timeout};
pub use metrics::{Compat, Metrics, MetricsError, MetricsOptions};
