//! Qwen3: Qwen2 with a norm for each head of the queries and the keys, and without biases unless it says so.

use sluice_checkpoint::{ConfigFile, LoadError};

use crate::blueprint::{Biases, Blueprint, Names};
use crate::qwen2;

pub(crate) const ARCHITECTURE: &str = "Qwen3ForCausalLM";

pub(crate) fn blueprint(config: &ConfigFile) -> Result<Blueprint, LoadError> {
    let qwen2 = qwen2::blueprint(config)?;
    let bias = config.flag("attention_bias")?;
    Ok(Blueprint {
        architecture: ARCHITECTURE,
        biases: Biases { qkv: bias, output: bias },
        names: Names { head_norms: Some(["self_attn.q_norm", "self_attn.k_norm"]), ..qwen2.names },
        ..qwen2
    })
}
