//! Qwen3: grouped-query attention with per-head norms of queries and keys, gated feed-forward, tied or own head.

use std::sync::Arc;

use sluice_checkpoint::config::wrong;
use sluice_checkpoint::{ConfigFile, LoadError, ModelFiles, Weights};

use crate::kv::KvCache;
use crate::layers::attention::Biases;
use crate::layers::linear::Part;
use crate::layers::{Attention, Embedding, Linear, Mlp, QkNorm, RmsNorm, Rotary};
use crate::model::{Dimensions, Model, ModelInfo};
use crate::scratch::Scratch;
use crate::step::Step;

pub(crate) const ARCHITECTURE: &str = "Qwen3ForCausalLM";

pub(crate) struct Qwen3 {
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

/// What `config.json` says.
struct Config {
    size: Dimensions,
    max_model_len: usize,
    rope_theta: f64,
    eps: f64,
    attention_bias: bool,
    tied: bool,
}

impl Qwen3 {
    pub(crate) fn load(
        files: &ModelFiles,
        config: &ConfigFile,
        open: impl FnOnce() -> Result<Weights, LoadError>,
    ) -> Result<Self, LoadError> {
        let eos_ids = config.eos_ids(files)?;
        let config = Config::read(config)?;
        let (size, weights) = (config.size, open()?);
        let embedding = Embedding::load(&weights, "model.embed_tokens", &size)?;
        let head = if config.tied {
            embedding.tied_head()
        } else {
            let head = Part { name: "lm_head", outputs: size.vocab };
            Arc::new(Linear::load(&weights, &[head], size.hidden, false)?)
        };
        let layers = (0..size.layers).map(|index| Layer::load(&weights, index, &config)).collect::<Result<_, _>>()?;
        let norm = RmsNorm::load(&weights, "model.norm", size.hidden, config.eps)?;
        let info = ModelInfo {
            name: files.name(),
            architecture: ARCHITECTURE,
            parameters: weights.parameters(),
            max_model_len: config.max_model_len as u32,
            eos_ids,
            dimensions: size,
        };
        let rotary = Rotary::new(config.rope_theta, size.head_dim);
        Ok(Self { info, embedding, rotary, layers, norm, head })
    }
}

impl Model for Qwen3 {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn forward(&self, step: &Step, cache: &mut KvCache, scratch: &mut Scratch) {
        let (rows, width) = (step.tokens.len(), self.info.dimensions.hidden);
        self.embedding.forward(&step.tokens, scratch.hidden.rows_mut(rows), width);
        self.rotary.angles(&step.positions, scratch.angles.rows_mut(rows));
        for (layer, cache) in self.layers.iter().zip(cache.layers_mut()) {
            layer.attention_norm.forward(scratch.hidden.rows(rows), scratch.normed.rows_mut(rows));
            layer.attention.forward(step, cache, scratch);
            scratch.add_branch(rows);
            layer.mlp_norm.forward(scratch.hidden.rows(rows), scratch.normed.rows_mut(rows));
            layer.mlp.forward(rows, scratch);
            scratch.add_branch(rows);
        }
        let sampled = scratch.keep(&step.sampled);
        self.norm.forward(scratch.hidden.rows(sampled), scratch.normed.rows_mut(sampled));
        let Scratch { normed, logits, panels, .. } = scratch;
        self.head.forward(normed.rows(sampled), logits.rows_mut(sampled), panels);
    }
}

impl Layer {
    fn load(weights: &Weights, index: usize, config: &Config) -> Result<Self, LoadError> {
        let (size, eps) = (&config.size, config.eps);
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let norm = |part: &str, width| RmsNorm::load(weights, &name(part), width, eps);
        let heads =
            QkNorm { query: norm("self_attn.q_norm", size.head_dim)?, key: norm("self_attn.k_norm", size.head_dim)? };
        let biases = Biases { qkv: config.attention_bias, output: config.attention_bias };
        Ok(Self {
            attention_norm: norm("input_layernorm", size.hidden)?,
            attention: Attention::load(weights, &name("self_attn"), size, biases, Some(heads))?,
            mlp_norm: norm("post_attention_layernorm", size.hidden)?,
            mlp: Mlp::load(weights, &name("mlp"), size)?,
        })
    }
}

impl Config {
    fn read(config: &ConfigFile) -> Result<Self, LoadError> {
        config.refuse("hidden_act", &["silu"])?;
        config.refuse("use_sliding_window", &[])?;
        config.refuse_rope_scaling()?;
        let (hidden, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        let size = Dimensions {
            vocab: config.size("vocab_size")?,
            hidden,
            layers: config.size("num_hidden_layers")?,
            heads,
            kv_heads: config.optional_size("num_key_value_heads")?.unwrap_or(heads),
            head_dim: config.optional_size("head_dim")?.unwrap_or(hidden / heads),
            ffn: config.size("intermediate_size")?,
        };
        if !size.heads.is_multiple_of(size.kv_heads) {
            return Err(wrong("num_key_value_heads", &format!("is {}, which does not divide {heads}", size.kv_heads)));
        }
        if size.head_dim == 0 || !size.head_dim.is_multiple_of(2) {
            return Err(wrong("head_dim", &format!("is {}, expected an even number", size.head_dim)));
        }
        Ok(Self {
            size,
            max_model_len: config.size("max_position_embeddings")?,
            rope_theta: config.rope_theta()?,
            eps: config.positive("rms_norm_eps")?,
            attention_bias: config.flag("attention_bias")?,
            tied: config.flag("tie_word_embeddings")?,
        })
    }
}
