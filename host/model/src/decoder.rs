//! The decoder that all models share: what a blueprint describes, loaded and computed.

use std::sync::Arc;

use sluice_checkpoint::{LoadError, Weights};

use crate::blueprint::{Blueprint, LayerTensors};
use crate::kv::KvCache;
use crate::layers::{Attention, Embedding, Linear, Logn, Mlp, RmsNorm, Rotary, table};
use crate::model::{Model, ModelInfo};
use crate::scratch::Scratch;
use crate::step::Step;

pub(crate) struct Decoder {
    info: ModelInfo,
    embedding: Embedding,
    rotary: Rotary,
    layers: Vec<Layer>,
    norm: RmsNorm,
    head: Arc<Linear>,
}

struct Layer {
    attention_norm: RmsNorm,
    attention: Attention,
    mlp_norm: RmsNorm,
    mlp: Mlp,
}

impl Decoder {
    pub(crate) fn load(blueprint: &Blueprint, weights: &Weights) -> Result<Self, LoadError> {
        let size = blueprint.dimensions;
        let embedding = Embedding::load(weights, &blueprint.embedding())?;
        let head = match blueprint.head() {
            Some(head) => Arc::new(table(weights, &head)?),
            None => embedding.tied_head(),
        };
        let layers = (0..size.layers).map(|index| Layer::load(weights, blueprint, &blueprint.layer(index)));
        let layers = layers.collect::<Result<_, _>>()?;
        let norm = RmsNorm::load(weights, &blueprint.norm(), blueprint.eps)?;
        let variants = blueprint.rope.variants(blueprint.max_model_len);
        let info = ModelInfo {
            architecture: blueprint.architecture,
            parameters: weights.parameters(),
            max_model_len: blueprint.max_model_len,
            dimensions: size,
            variants: variants.clone(),
        };
        let rotary = Rotary::new(&blueprint.rope, variants, size.head_dim);
        Ok(Self { info, embedding, rotary, layers, norm, head })
    }
}

impl Model for Decoder {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&self, step: &Step, cache: &mut KvCache, scratch: &mut Scratch) {
        let (rows, width) = (step.tokens.len(), self.info.dimensions.hidden);
        self.embedding.forward(&step.tokens, scratch.hidden.rows_mut(rows), width);
        self.rotary.angles(step, scratch.angles.rows_mut(rows));
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            layer.attention_norm.forward(scratch.hidden.rows(rows), scratch.normed.rows_mut(rows));
            layer.attention.forward(step, cache, scratch);
            scratch.add_branch(rows);
            layer.mlp_norm.forward(scratch.hidden.rows(rows), scratch.normed.rows_mut(rows));
            layer.mlp.forward(rows, scratch);
            scratch.add_branch(rows);
        }
    }

    fn logits(&self, tokens: &[usize], scratch: &mut Scratch) {
        let rows = tokens.len();
        scratch.gather(tokens);
        self.norm.forward(scratch.branch.rows(rows), scratch.normed.rows_mut(rows));
        let Scratch { normed, logits, groups, .. } = scratch;
        self.head.forward(normed.rows(rows), logits.rows_mut(rows), groups);
    }
}

impl Layer {
    fn load(weights: &Weights, blueprint: &Blueprint, tensors: &LayerTensors) -> Result<Self, LoadError> {
        let (size, eps) = (&blueprint.dimensions, blueprint.eps);
        let logn = blueprint.logn.map(Logn::new);
        Ok(Self {
            attention_norm: RmsNorm::load(weights, &tensors.attention_norm, eps)?,
            attention: Attention::load(weights, tensors, size, eps, logn)?,
            mlp_norm: RmsNorm::load(weights, &tensors.mlp_norm, eps)?,
            mlp: Mlp::load(weights, tensors, size)?,
        })
    }
}
