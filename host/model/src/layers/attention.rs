//! The attention block: one fused projection, per-head norms where the model has them, rotation, paged attention.

use super::linear::Part;
use super::rotary::rotate;
use super::{Linear, RmsNorm, paged};
use crate::kv::KvLayer;
use crate::model::Dimensions;
use crate::scratch::Scratch;
use crate::step::Step;
use sluice_checkpoint::LoadError;
use sluice_checkpoint::Weights;

pub(crate) struct Attention {
    qkv: Linear,
    output: Linear,
    norm: Option<QkNorm>,
    size: Dimensions,
}

/// Qwen3 normalises each head of the queries and the keys.
pub(crate) struct QkNorm {
    pub(crate) query: RmsNorm,
    pub(crate) key: RmsNorm,
}

/// Which of the projections have a bias.
#[derive(Clone, Copy)]
pub(crate) struct Biases {
    pub(crate) qkv: bool,
    pub(crate) output: bool,
}

impl Attention {
    pub(crate) fn load(
        weights: &Weights,
        name: &str,
        size: &Dimensions,
        biases: Biases,
        norm: Option<QkNorm>,
    ) -> Result<Self, LoadError> {
        let [q, k, v, o] = ["q", "k", "v", "o"].map(|part| format!("{name}.{part}_proj"));
        let (query, key) = (size.heads * size.head_dim, size.kv_heads * size.head_dim);
        let qkv = [Part { name: &q, outputs: query }, Part { name: &k, outputs: key }, Part { name: &v, outputs: key }];
        Ok(Self {
            qkv: Linear::load(weights, &qkv, size.hidden, biases.qkv)?,
            output: Linear::load(weights, &[Part { name: &o, outputs: size.hidden }], query, biases.output)?,
            norm,
            size: *size,
        })
    }

    /// From `normed` to `branch`; the step's keys and values are in the cache afterwards.
    pub(crate) fn forward(&self, step: &Step, cache: &mut KvLayer, scratch: &mut Scratch) {
        let rows = step.tokens.len();
        let Scratch { normed, qkv, attended, branch, angles, panels, .. } = scratch;
        let (qkv, attended) = (qkv.rows_mut(rows), attended.rows_mut(rows));
        self.qkv.forward(normed.rows(rows), qkv, panels);
        self.remember(step, angles.rows(rows), qkv, cache);
        paged::attend(&self.size, step, qkv, cache, attended);
        self.output.forward(attended, branch.rows_mut(rows), panels);
    }

    /// Normalises and turns queries and keys, and writes keys and values into their blocks.
    fn remember(&self, step: &Step, angles: &[f32], qkv: &mut [f32], cache: &mut KvLayer) {
        let (heads, dim) = (self.size.heads * self.size.head_dim, self.size.head_dim);
        let row = self.size.qkv_width();
        for (token, (qkv, angles)) in qkv.chunks_exact_mut(row).zip(angles.chunks_exact(dim)).enumerate() {
            let (query, rest) = qkv.split_at_mut(heads);
            let (key, value) = rest.split_at_mut(rest.len() / 2);
            if let Some(norm) = &self.norm {
                norm.query.in_place(query);
                norm.key.in_place(key);
            }
            rotate(query, angles);
            rotate(key, angles);
            cache.write(step.block_of(token), step.positions[token] as usize, key, value);
        }
    }
}
