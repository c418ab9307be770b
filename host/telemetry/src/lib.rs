//! Prometheus metrics: counts what the engine reports, and writes it out without asking the engine.
//!
//! Architecture invariant: never a label with a request, a key or a user; every label comes from a bounded set.

mod edge;
mod engine;
mod make;
mod metrics;
mod policy;

pub use edge::{Counted, EdgeMetrics, Timeout};
pub use metrics::{Metrics, MetricsError};
