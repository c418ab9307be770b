//! The layers that models share. Each sums in an order that depends on the sequence alone, never on what else is in
//! the batch: that is why a greedy answer in F32 is the same alone, in a crowd, in chunks and after preemption.

use sluice_checkpoint::{LoadError, Weights};

use crate::blueprint::Projection;
use linear::Part;

pub(crate) mod attention;
pub(crate) mod embedding;
pub(crate) mod linear;
pub(crate) mod logn;
pub(crate) mod math;
pub(crate) mod mlp;
pub(crate) mod paged;
pub(crate) mod rms_norm;
pub(crate) mod rotary;

pub(crate) use attention::Attention;
pub(crate) use embedding::Embedding;
pub(crate) use linear::Linear;
pub(crate) use logn::Logn;
pub(crate) use mlp::Mlp;
pub(crate) use rms_norm::RmsNorm;
pub(crate) use rotary::Rotary;

/// Multiplications that are worth waking another thread for; measured, see `benches/benches/model_step.rs`.
pub(crate) const PARALLEL_WORK: usize = 1 << 16;

/// Loads what a blueprint describes.
pub(crate) fn linear(weights: &Weights, projection: &Projection) -> Result<Linear, LoadError> {
    let parts = projection.parts.iter().map(|part| Part { name: &part.name, outputs: part.outputs });
    Linear::load(weights, &parts.collect::<Vec<_>>(), projection.inputs, projection.bias)
}
