//! The synchronous heart: pool, replica, KV blocks, prefix cache, guard and recorder.
//!
//! Architecture invariant: no real clock, no threads, no tokio, no wasmtime and no candle. Whoever drives it brings
//! the time.

mod admission;
mod batching;
pub mod blocks;
pub mod check;
pub mod codec;
pub mod decide;
mod events;
mod flows;
pub mod guard;
pub mod handle;
mod holdings;
pub mod link;
mod meter;
pub mod order;
pub mod pool;
mod random;
mod rates;
pub mod recorder;
pub mod replay;
pub mod replica;
mod roster;
mod routing;
mod rows;
mod sequence;
