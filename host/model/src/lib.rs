//! Weights, Qwen3 over paged KV, sampling, and the executor of the CPU.
//!
//! Promise: in F32 a sequence's logits are the same bits whatever else is in the batch, however its prompt is cut
//! into chunks, wherever its blocks lie, and after it was preempted and computed again.

mod config;
mod cpu;
mod dummy;
mod embedded;
mod error;
mod files;
mod kv;
mod layers;
mod model;
mod qwen3;
mod random;
mod sampling;
mod scratch;
mod step;
mod weights;

#[cfg(test)]
mod tests;

pub use cpu::CpuExecutor;
pub use embedded::embedded;
pub use error::{LoadError, Shape, TensorProblem};
pub use files::{EmbeddedFiles, FileBytes, ModelFiles};
pub use kv::{KvCache, KvTooLarge};
pub use model::{Dimensions, LoadFormat, Model, ModelInfo, load};
pub use scratch::Scratch;
pub use step::{Step, StepLimits};
