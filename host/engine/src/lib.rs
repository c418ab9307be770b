//! The synchronous heart: pool, replica, KV blocks, prefix cache, guard and recorder.
//!
//! Architecture invariant: no clock, no threads, no tokio, no wasmtime and no candle. Whoever drives it brings the time.

pub mod check;
pub mod handle;
pub mod order;
