//! What benchmarks share.

pub mod decoding;
pub mod idle;
pub mod steps;
