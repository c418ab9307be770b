//! A model's files: its configuration and its weights, read without trust.
//!
//! Architecture invariant: no model is computed here. Every executor, on whatever device, loads through this crate.

mod bitsandbytes;
mod config;
pub mod dummy;
mod error;
mod files;
mod float;
pub mod ggml;
mod gguf;
mod hub;
pub mod int8;
pub mod matrix;
pub mod nf4;
mod options;
mod progress;
mod safetensors_file;
mod weights;

#[cfg(test)]
mod tests;

pub use config::ConfigFile;
pub use error::{LoadError, Shape, TensorProblem};
pub use files::{EmbeddedFiles, FileBytes, ModelFiles};
pub use ggml::{GgmlBlocks, GgmlKind};
pub use gguf::{GgufProblem, GgufTokenizer};
pub use hub::HubEnvironment;
pub use int8::Int8Rows;
pub use matrix::{Form, MatrixData, StoredMatrix};
pub use nf4::{Absmax, NestedAbsmax, Nf4Blocks};
pub use options::{Dtype, LoadFormat, LoadOptions, OptionError, Quantization};
pub use progress::{Progress, Silent};
pub use weights::Weights;
