//! Qwen2 and Qwen2.5: grouped-query attention, biases on queries, keys and values, tied or own head.

use sluice_checkpoint::{ConfigFile, LoadError};

use crate::blueprint::{Biases, Blueprint, Names, Qkv};
use crate::model::Dimensions;
use crate::rope::Rope;

pub(crate) const ARCHITECTURE: &str = "Qwen2ForCausalLM";

const NAMES: Names = Names {
    embedding: "model.embed_tokens",
    layers: "model.layers",
    norm: "model.norm",
    head: "lm_head",
    attention_norm: "input_layernorm",
    qkv: Qkv::Separate(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    head_norms: None,
    attention_output: "self_attn.o_proj",
    mlp_norm: "post_attention_layernorm",
    gate: "mlp.gate_proj",
    up: "mlp.up_proj",
    down: "mlp.down_proj",
};

pub(crate) fn blueprint(config: &ConfigFile) -> Result<Blueprint, LoadError> {
    config.refuse("hidden_act", &["silu"])?;
    config.refuse_flag("use_sliding_window")?;
    config.refuse_flag("use_mrope")?;
    config.refuse_others("layer_types", "full_attention")?;
    let heads = config.size("num_attention_heads")?;
    let dimensions = Dimensions {
        vocab: config.size("vocab_size")?,
        hidden: config.size("hidden_size")?,
        layers: config.size("num_hidden_layers")?,
        heads,
        kv_heads: config.optional_size("num_key_value_heads")?.unwrap_or(heads),
        head_dim: head_dim(config, heads)?,
        ffn: config.size("intermediate_size")?,
    };
    let length = config.size("max_position_embeddings")? as u32;
    let rope = Rope::read(config, length)?;
    let blueprint = Blueprint {
        architecture: ARCHITECTURE,
        dimensions,
        max_model_len: rope.length(length),
        eps: config.positive("rms_norm_eps")?,
        rope,
        logn: None,
        tied: config.flag("tie_word_embeddings")?,
        biases: Biases { qkv: true, output: false },
        names: NAMES,
    };
    blueprint.check(config, "num_key_value_heads", "head_dim")
}

/// Where it is not written, the heads share the width of the residual stream.
fn head_dim(config: &ConfigFile, heads: usize) -> Result<usize, LoadError> {
    let hidden = config.size("hidden_size")?;
    match config.optional_size("head_dim")? {
        Some(dim) => Ok(dim),
        None if hidden.is_multiple_of(heads) => Ok(hidden / heads),
        None => {
            Err(config
                .wrong("num_attention_heads", &format!("is {heads}, which does not divide `hidden_size` {hidden}")))
        }
    }
}
