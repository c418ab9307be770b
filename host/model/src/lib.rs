//! Models over paged KV, sampling, and the executors of the CPU and of GPUs.
//!
//! Promise: on the CPU, whatever form its weights are in, a sequence's logits are the same bits whatever else is in the
//! batch, however its prompt is cut into chunks, wherever its blocks lie, and after it was preempted and computed again.

mod adjuster;
pub mod blueprint;
mod cpu;
mod decoder;
mod embedded;
pub mod gpu;
mod kv;
mod layers;
mod logprobs;
mod memory;
mod model;
mod perplexity;
mod product;
mod qwen;
mod qwen2;
mod qwen3;
pub mod rope;
mod sampling;
mod scratch;
mod step;

#[cfg(test)]
mod tests;

pub use blueprint::Blueprint;
pub use cpu::CpuExecutor;
pub use embedded::embedded;
pub use kv::{KvCache, KvTooLarge};
pub use layers::Linear;
pub use memory::{ExecutorBytes, NoMemory};
pub use model::{Dimensions, Model, ModelInfo, blueprint, load};
pub use perplexity::{Perplexity, ScoreError, Scorer};
pub use product::Group;
pub use rope::Rope;
pub use scratch::{Scratch, StepTooLarge};
pub use step::{Step, StepLimits};
