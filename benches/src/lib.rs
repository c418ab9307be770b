//! What benchmarks share.

pub mod idle;
