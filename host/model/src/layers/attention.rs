//! The attention block: one fused projection, per-head norms where the model has them, rotation, paged attention.

use sluice_checkpoint::{LoadError, Weights};

use super::rotary::rotate;
use super::{Linear, Logn, RmsNorm, linear, paged};
use crate::blueprint::LayerTensors;
use crate::kv::KvLayer;
use crate::model::Dimensions;
use crate::scratch::Scratch;
use crate::step::Step;

pub(crate) struct Attention {
    qkv: Linear,
    output: Linear,
    /// Of each head of the queries and of the keys.
    norms: Option<[RmsNorm; 2]>,
    logn: Option<Logn>,
    size: Dimensions,
}

impl Attention {
    pub(crate) fn load(
        weights: &Weights,
        tensors: &LayerTensors,
        size: &Dimensions,
        eps: f64,
        logn: Option<Logn>,
    ) -> Result<Self, LoadError> {
        let norms = match &tensors.head_norms {
            Some([query, key]) => Some([RmsNorm::load(weights, query, eps)?, RmsNorm::load(weights, key, eps)?]),
            None => None,
        };
        Ok(Self {
            qkv: linear(weights, &tensors.qkv)?,
            output: linear(weights, &tensors.attention_output)?,
            norms,
            logn,
            size: *size,
        })
    }

    /// From `normed` to `branch`; the step's keys and values are in the cache afterwards.
    pub(crate) fn forward(&self, step: &Step, cache: &mut KvLayer, scratch: &mut Scratch) {
        let rows = step.tokens.len();
        let Scratch { normed, qkv, attended, branch, angles, groups, .. } = scratch;
        let (qkv, attended) = (qkv.rows_mut(rows), attended.rows_mut(rows));
        self.qkv.forward(normed.rows(rows), qkv, groups);
        self.remember(step, angles.rows(rows), qkv, cache);
        paged::attend(&self.size, step, qkv, cache, attended);
        self.output.forward(attended, branch.rows_mut(rows), groups);
    }

    /// Normalises and turns queries and keys, and writes keys and values into their blocks.
    fn remember(&self, step: &Step, angles: &[f32], qkv: &mut [f32], cache: &mut KvLayer) {
        let (heads, dim) = (self.size.heads * self.size.head_dim, self.size.head_dim);
        let row = self.size.qkv_width();
        for (token, (qkv, angles)) in qkv.chunks_exact_mut(row).zip(angles.chunks_exact(dim)).enumerate() {
            let (query, rest) = qkv.split_at_mut(heads);
            let (key, value) = rest.split_at_mut(rest.len() / 2);
            if let Some([of_query, of_key]) = &self.norms {
                of_query.in_place(query);
                of_key.in_place(key);
            }
            rotate(query, angles);
            rotate(key, angles);
            if let Some(logn) = &self.logn {
                logn.scale(step.positions[token], query);
            }
            cache.write(step.block_of(token), step.positions[token] as usize, key, value);
        }
    }
}
