//! A model's files: its configuration and its weights, read without trust.
//!
//! Architecture invariant: no model is computed here. Every executor, on whatever device, loads through this crate.

pub mod config;
pub mod dummy;
mod error;
mod files;
pub mod matrix;
mod weights;

pub use config::ConfigFile;
pub use error::{LoadError, Shape, TensorProblem};
pub use files::{EmbeddedFiles, FileBytes, ModelFiles};
pub use matrix::{MatrixData, StoredMatrix};
pub use weights::{LoadFormat, Weights};
