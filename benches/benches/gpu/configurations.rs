//! Models of which there is nothing but the configuration: their weights are random.

use anyhow::Result;
use serde_json::{Value, json};
use tempfile::TempDir;

/// A folder that is there as long as this is kept.
pub(crate) fn folder(config: &Value) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    Ok(folder)
}

pub(crate) fn qwen2_14b() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152_064, "hidden_size": 5120, "num_hidden_layers": 48,
        "num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 13_824, "hidden_act": "silu",
        "tie_word_embeddings": false, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32_768,
        "torch_dtype": "bfloat16",
    })
}

pub(crate) fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 1003, "hidden_size": 896, "num_hidden_layers": 2,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 1280, "hidden_act": "silu",
        "tie_word_embeddings": true, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    })
}

pub(crate) fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 1003, "hidden_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 1536,
        "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    })
}

/// The first series, beyond its native context wherever a script is longer than that.
pub(crate) fn qwen() -> Value {
    json!({
        "architectures": ["QWenLMHeadModel"], "vocab_size": 1003, "hidden_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "kv_channels": 128, "intermediate_size": 1536, "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 2048, "max_position_embeddings": 8192,
        "tie_word_embeddings": false, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true, "bf16": true,
    })
}
