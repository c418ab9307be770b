//! Runs a policy natively: maps the host's views to the SDK's. For benchmarks, tests and fast simulation.
//!
//! The tables are copied, as the canonical ABI copies them. A native policy has no guard around it: it can panic and
//! it can run for ever, so none is ever deployed.

mod convert;
mod policy;
mod revision;

pub use policy::Native;
pub use revision::NativeRevision;
