//! Qwen, the first series (Qwen-14B-Chat): every query its own head of keys and values, one fused projection with a
//! bias, and positions stretched by the prompt's length (dynamic NTK) and by the logarithm of the position (logn).

use sluice_checkpoint::{ConfigFile, LoadError};

use crate::blueprint::{Biases, Blueprint, Names, Qkv};
use crate::model::Dimensions;
use crate::rope::{Rope, Scaling};

pub(crate) const ARCHITECTURE: &str = "QWenLMHeadModel";

/// The block's output is c_proj(w1(x) · silu(w2(x))).
const NAMES: Names = Names {
    embedding: "transformer.wte",
    layers: "transformer.h",
    norm: "transformer.ln_f",
    head: "lm_head",
    attention_norm: "ln_1",
    qkv: Qkv::Fused("attn.c_attn"),
    head_norms: None,
    attention_output: "attn.c_proj",
    mlp_norm: "ln_2",
    gate: "mlp.w2",
    up: "mlp.w1",
    down: "mlp.c_proj",
};

/// A key that is absent means what the model's own configuration class says: most are on.
pub(crate) fn blueprint(config: &ConfigFile) -> Result<Blueprint, LoadError> {
    for key in ["no_bias", "scale_attn_weights"] {
        if !config.flag_or(key, true)? {
            return Err(config.wrong(key, "is false, which is not served: only true is"));
        }
    }
    if config.optional_positive("rotary_pct")?.is_some_and(|part| part != 1.0) {
        return Err(config.wrong("rotary_pct", "is not 1, and only whole heads are turned"));
    }
    let native = native(config)?;
    let longest = config.size("max_position_embeddings")? as u32;
    let stretched = config.flag_or("use_dynamic_ntk", true)?;
    let scaling = if stretched { Scaling::DynamicNtk { native } } else { Scaling::None };
    let blueprint = Blueprint {
        architecture: ARCHITECTURE,
        dimensions: dimensions(config)?,
        max_model_len: if stretched { longest } else { longest.min(native) },
        eps: config.positive("layer_norm_epsilon")?,
        rope: Rope { theta: config.positive("rotary_emb_base")?, scaling }.check(config, "rotary_emb_base")?,
        logn: config.flag_or("use_logn_attn", true)?.then_some(native),
        tied: config.flag("tie_word_embeddings")?,
        biases: Biases { qkv: true, output: false },
        names: NAMES,
    };
    blueprint.check(config, "num_attention_heads", "kv_channels")
}

/// The context that the model was made for: a base of logarithms, too.
fn native(config: &ConfigFile) -> Result<u32, LoadError> {
    match config.size("seq_length")? as u32 {
        1 => Err(config.wrong("seq_length", "is 1, expected at least 2")),
        native => Ok(native),
    }
}

/// `intermediate_size` counts w1 and w2 together.
fn dimensions(config: &ConfigFile) -> Result<Dimensions, LoadError> {
    let (hidden, heads, head_dim) =
        (config.size("hidden_size")?, config.size("num_attention_heads")?, config.size("kv_channels")?);
    if heads * head_dim != hidden {
        let problem = format!("is {head_dim}: times {heads} heads it should be `hidden_size`, {hidden}");
        return Err(config.wrong("kv_channels", &problem));
    }
    let both = config.size("intermediate_size")?;
    if !both.is_multiple_of(2) {
        return Err(config.wrong("intermediate_size", &format!("is {both}, expected an even number")));
    }
    Ok(Dimensions {
        vocab: config.size("vocab_size")?,
        hidden,
        layers: config.size("num_hidden_layers")?,
        heads,
        kv_heads: heads,
        head_dim,
        ffn: both / 2,
    })
}
