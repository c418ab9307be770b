//! Writes the embedded model as a GGUF file, with candle's quantisation and writer: neither is Sluice's own.

use std::collections::HashMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Tensor};
use serde_json::Value as Json;

/// How GGUF calls the tensors of a layer.
const NAMES: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

pub(crate) fn embedded(name: &str) -> Vec<u8> {
    fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("model/embedded").join(name)).unwrap()
}

/// Its matrices are quantised to `kind`.
pub(crate) fn write_embedded(folder: &Path, kind: GgmlDType) -> PathBuf {
    let weights = candle_core::safetensors::load_buffer(&embedded("model.safetensors"), &Device::Cpu).unwrap();
    let tensors: Vec<(String, QTensor)> = weights.iter().map(|(name, tensor)| quantised(name, tensor, kind)).collect();
    let metadata: Vec<(String, Value)> = shape().into_iter().chain(vocabulary()).collect();
    let path = folder.join(format!("embedded-{kind:?}.gguf"));
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    path
}

fn quantised(name: &str, tensor: &Tensor, kind: GgmlDType) -> (String, QTensor) {
    let kind = if tensor.rank() == 2 { kind } else { GgmlDType::F32 };
    let tensor = QTensor::quantize(&tensor.to_dtype(DType::F32).unwrap(), kind).unwrap();
    let name = name.strip_suffix(".weight").unwrap();
    let renamed = match name.strip_prefix("model.layers.") {
        None if name == "model.norm" => "output_norm".to_owned(),
        None => "token_embd".to_owned(),
        Some(rest) => {
            let (layer, part) = rest.split_once('.').unwrap();
            format!("blk.{layer}.{}", HashMap::from(NAMES)[part])
        }
    };
    (format!("{renamed}.weight"), tensor)
}

fn shape() -> Vec<(String, Value)> {
    let config: Json = serde_json::from_slice(&embedded("config.json")).unwrap();
    let size = |key: &str| Value::U32(config[key].as_u64().unwrap() as u32);
    let number = |key: &str| Value::F32(config[key].as_f64().unwrap() as f32);
    let keys = [
        ("block_count", size("num_hidden_layers")),
        ("context_length", size("max_position_embeddings")),
        ("embedding_length", size("hidden_size")),
        ("feed_forward_length", size("intermediate_size")),
        ("attention.head_count", size("num_attention_heads")),
        ("attention.head_count_kv", size("num_key_value_heads")),
        ("attention.key_length", size("head_dim")),
        ("attention.value_length", size("head_dim")),
        ("attention.layer_norm_rms_epsilon", number("rms_norm_eps")),
        ("rope.freq_base", number("rope_theta")),
    ];
    let own = keys.into_iter().map(|(key, value)| (format!("qwen3.{key}"), value));
    [("general.architecture".to_owned(), Value::String("qwen3".to_owned()))].into_iter().chain(own).collect()
}

fn vocabulary() -> Vec<(String, Value)> {
    let tokenizer: Json = serde_json::from_slice(&embedded("tokenizer.json")).unwrap();
    let text = |text: &str| Value::String(text.to_owned());
    let mut tokens: Vec<(u64, &str)> = (tokenizer["model"]["vocab"].as_object().unwrap().iter())
        .map(|(token, id)| (id.as_u64().unwrap(), token.as_str()))
        .collect();
    let added = tokenizer["added_tokens"].as_array().unwrap();
    tokens.extend(added.iter().map(|token| (token["id"].as_u64().unwrap(), token["content"].as_str().unwrap())));
    tokens.sort_unstable();
    tokens.dedup_by_key(|(id, _)| *id);
    let control = |token: &str| added.iter().any(|added| added["content"] == token);
    let types = tokens.iter().map(|(_, token)| Value::I32(if control(token) { 3 } else { 1 })).collect();
    let merge = |pair: &Json| text(&format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()));
    let merges = tokenizer["model"]["merges"].as_array().unwrap().iter().map(merge).collect();
    let end = tokens.iter().find(|(_, token)| *token == "<|im_end|>").unwrap().0;
    let template = String::from_utf8(embedded("chat_template.jinja")).unwrap();
    let keys = [
        ("ggml.model", text("gpt2")),
        ("ggml.pre", text("qwen2")),
        ("ggml.tokens", Value::Array(tokens.iter().map(|(_, token)| text(token)).collect())),
        ("ggml.token_type", Value::Array(types)),
        ("ggml.merges", Value::Array(merges)),
        ("ggml.eos_token_id", Value::U32(end as u32)),
        ("chat_template", Value::String(template)),
    ];
    keys.into_iter().map(|(key, value)| (format!("tokenizer.{key}"), value)).collect()
}
