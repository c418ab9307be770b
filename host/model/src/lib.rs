//! Models over paged KV, sampling, and the executor of the CPU.
//!
//! Promise: in F32 a sequence's logits are the same bits whatever else is in the batch, however its prompt is cut
//! into chunks, wherever its blocks lie, and after it was preempted and computed again.

mod cpu;
mod embedded;
mod kv;
mod layers;
mod model;
mod qwen3;
mod sampling;
mod scratch;
mod step;

#[cfg(test)]
mod tests;

pub use cpu::CpuExecutor;
pub use embedded::embedded;
pub use kv::{KvCache, KvTooLarge};
pub use model::{Dimensions, Model, ModelInfo, load};
pub use scratch::Scratch;
pub use step::{Step, StepLimits};
