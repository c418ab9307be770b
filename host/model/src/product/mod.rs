//! Matrix products in every form in which weights are held, each output one chain of operations in the order of its
//! inputs: the same bits for a row alone, in a batch and in chunks.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod decoded;
mod floats;
mod ggml;
mod instructions;
mod int8;
mod matrix;
mod nf4;
mod panels;
mod tiles;
#[cfg(target_arch = "x86_64")]
mod vnni;

#[cfg(test)]
mod tests;

pub use activations::Group;
pub(crate) use activations::Quantize;
pub(crate) use instructions::Instructions;
pub(crate) use matrix::Matrix;
pub(crate) use panels::{PANEL, Rows};
