//! Runs policy components: load, limit, call, swap. The only crate that knows wasmtime.
//!
//! Architecture invariant: a component gets memory, fuel, time and room for its answer by the call, and nothing else
//! of the machine: no WASI, no clock, no randomness, no files. What it does beyond that is a fault and a value.

mod bindings;
mod budget;
mod compiled;
mod component;
mod config;
mod fault;
mod host;
mod inspect;
mod instance;
mod limits;
mod lower;
mod runtime;
mod source;
mod ticker;

pub use budget::{Level, PolicyLog, Silent};
pub use limits::{Bound, Export, Limits};
pub use runtime::{Runtime, RuntimeError};

/// What compiles and runs the components. A recording names it: fuel is comparable only between equal ones.
/// `tests/end_to_end/recording.rs` holds it to the one that is built in.
pub const WASMTIME_VERSION: &str = "48.0.8";

/// Of `sluice:policy`, the interface that components are written against.
pub const INTERFACE_VERSION: &str = "0.1.0";
