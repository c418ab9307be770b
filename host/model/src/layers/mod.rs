//! The layers that models share. Each sums in an order that depends on the sequence alone, never on what else is in
//! the batch: that is why a greedy answer in F32 is the same alone, in a crowd, in chunks and after preemption.

use sluice_checkpoint::{LoadError, StoredMatrix, Weights};

use crate::blueprint::Projection;
use crate::product::{Instructions, Matrix};

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
pub use linear::Linear;
pub(crate) use logn::Logn;
pub(crate) use mlp::Mlp;
pub(crate) use rms_norm::RmsNorm;
pub(crate) use rotary::Rotary;

/// Multiplications that are worth waking another thread for; measured, see `benches/benches/model_step.rs`.
pub(crate) const PARALLEL_WORK: usize = 1 << 16;

/// Loads a linear layer that a blueprint describes.
pub(crate) fn linear(weights: &Weights, projection: &Projection) -> Result<Linear, LoadError> {
    load(weights, projection, Weights::projection)
}

/// Loads an embedding or a head, which are not quantised with the linear layers.
pub(crate) fn table(weights: &Weights, projection: &Projection) -> Result<Linear, LoadError> {
    load(weights, projection, Weights::table)
}

/// How a matrix of `[outputs, inputs]` is read by its name.
type Read = for<'w> fn(&'w Weights, &str, usize, usize) -> Result<StoredMatrix<'w>, LoadError>;

fn load(weights: &Weights, projection: &Projection, read: Read) -> Result<Linear, LoadError> {
    let Projection { parts, inputs, bias } = projection;
    let (mut matrices, mut biases) = (Vec::new(), bias.then(Vec::new));
    for part in parts {
        let stored = read(weights, &format!("{}.weight", part.name), part.outputs, *inputs)?;
        matrices.push(Matrix::pack(&stored, Instructions::detect()));
        if let Some(biases) = &mut biases {
            biases.extend(weights.vector(&format!("{}.bias", part.name), part.outputs)?);
        }
    }
    Ok(Linear::new(matrices, biases, *inputs))
}
