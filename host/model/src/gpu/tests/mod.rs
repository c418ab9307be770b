//! Whole models on a device of the host's own memory, against the same models on the CPU.

mod agreement;
mod exact;
mod pipeline;

use std::fs;
use std::sync::Arc;

use serde_json::{Value, json};
use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Quantization, Silent};
use sluice_core::{Clock, Nanos};
use tempfile::TempDir;

use crate::gpu::{Dequantized, GpuExecutor, GpuModel, HostDevice};
use crate::step::StepLimits;
use crate::{CpuExecutor, load};

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Nanos {
        0
    }
}

/// Random weights of this configuration; they are there as long as the folder is.
fn random(config: &Value) -> (TempDir, ModelFiles) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let files = ModelFiles::folder(folder.path());
    (folder, files)
}

fn qwen2() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 1003, "hidden_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 128, "intermediate_size": 384,
        "hidden_act": "silu", "tie_word_embeddings": false, "rms_norm_eps": 1e-6, "rope_theta": 1e6,
        "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    })
}

/// Made for 64 tokens, stretched to 256.
fn qwen() -> Value {
    json!({
        "architectures": ["QWenLMHeadModel"], "vocab_size": 512, "hidden_size": 256, "num_hidden_layers": 2,
        "num_attention_heads": 2, "kv_channels": 128, "intermediate_size": 768, "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 64, "max_position_embeddings": 256,
        "tie_word_embeddings": false, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true, "bf16": true,
    })
}

const QUANTIZATIONS: [Quantization; 3] = [Quantization::None, Quantization::Int8, Quantization::Nf4];

fn options(files: &ModelFiles, quantization: Quantization) -> LoadOptions {
    let format = match files {
        ModelFiles::Folder(_) => LoadFormat::Dummy { seed: 7 },
        _ => LoadFormat::Auto,
    };
    LoadOptions { format, quantization, ..LoadOptions::default() }
}

fn on_cpu(files: &ModelFiles, options: LoadOptions, limits: StepLimits) -> CpuExecutor {
    let model = load(files, options, Box::new(Silent)).unwrap();
    CpuExecutor::new(model, limits, Arc::new(Stopped)).unwrap()
}

fn on(device: HostDevice, files: &ModelFiles, options: LoadOptions, limits: StepLimits) -> GpuExecutor<HostDevice> {
    with(Dequantized::Anew, device, files, options, limits)
}

fn with(
    dequantized: Dequantized,
    device: HostDevice,
    files: &ModelFiles,
    options: LoadOptions,
    limits: StepLimits,
) -> GpuExecutor<HostDevice> {
    let model = GpuModel::read(files.clone(), options, None).unwrap();
    model.load(device, limits, dequantized, Box::new(Silent), Arc::new(Stopped)).unwrap()
}
