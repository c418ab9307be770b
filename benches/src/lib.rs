//! What benchmarks share.

pub mod decoding;
pub mod generation;
pub mod idle;
pub mod operations;
pub mod steps;
