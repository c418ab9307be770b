//! Tiny random checkpoints in Hugging Face's layout.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};
use tempfile::TempDir;

use sluice_checkpoint::{ModelFiles, dummy};

pub(super) struct Checkpoint {
    pub(super) config: Value,
    pub(super) seed: u64,
    pub(super) dtype: Dtype,
    pub(super) shards: usize,
}

/// A tensor as it lies in a file.
pub(super) type Stored = (Dtype, Vec<usize>, Vec<u8>);

pub(super) type Tensors = BTreeMap<String, Stored>;

impl Checkpoint {
    pub(super) fn qwen3(seed: u64, tied: bool) -> Self {
        Self::of(
            seed,
            json!({
                "architectures": ["Qwen3ForCausalLM"], "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 80,
                "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                "tie_word_embeddings": tied, "attention_bias": false, "max_window_layers": 3,
                "use_sliding_window": false, "sliding_window": null, "rope_scaling": null, "eos_token_id": 5
            }),
        )
    }

    pub(super) fn qwen2(seed: u64, tied: bool) -> Self {
        Self::of(
            seed,
            json!({
                "architectures": ["Qwen2ForCausalLM"], "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3,
                "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 80,
                "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
                "tie_word_embeddings": tied, "max_window_layers": 3, "use_sliding_window": false,
                "sliding_window": 256, "eos_token_id": 5
            }),
        )
    }

    /// Everything that Qwen-14B-Chat's file says of the model itself.
    pub(super) fn qwen(seed: u64) -> Self {
        Self::of(
            seed,
            json!({
                "architectures": ["QWenLMHeadModel"], "model_type": "qwen", "vocab_size": 97, "hidden_size": 32,
                "num_hidden_layers": 2, "num_attention_heads": 2, "kv_channels": 16, "intermediate_size": 96,
                "layer_norm_epsilon": 1e-6, "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 2048,
                "max_position_embeddings": 8192, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true,
                "scale_attn_weights": true, "softmax_in_fp32": false, "tie_word_embeddings": false,
                "attn_dropout_prob": 0.0, "emb_dropout_prob": 0.0, "use_flash_attn": "auto", "use_cache": true,
                "onnx_safe": null, "bf16": false, "fp16": false, "fp32": false
            }),
        )
    }

    fn of(seed: u64, config: Value) -> Self {
        Self { config, seed, dtype: Dtype::F32, shards: 1 }
    }

    pub(super) fn write(&self) -> (TempDir, ModelFiles) {
        let (folder, files) = self.write_config();
        let tensors = self.tensors();
        if self.shards == 1 {
            save(&folder.path().join("model.safetensors"), &tensors);
        } else {
            self.write_shards(folder.path(), tensors);
        }
        (folder, files)
    }

    /// Without weights.
    pub(super) fn write_config(&self) -> (TempDir, ModelFiles) {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let files = ModelFiles::folder(folder.path());
        (folder, files)
    }

    fn write_shards(&self, folder: &Path, tensors: Tensors) {
        let mut shards = vec![Tensors::new(); self.shards];
        let mut map = serde_json::Map::new();
        for (index, (name, tensor)) in tensors.into_iter().enumerate() {
            let shard = index % self.shards;
            map.insert(name.clone(), json!(shard_name(shard, self.shards)));
            shards[shard].insert(name, tensor);
        }
        for (index, shard) in shards.iter().enumerate() {
            save(&folder.join(shard_name(index, self.shards)), shard);
        }
        fs::write(folder.join("model.safetensors.index.json"), json!({ "weight_map": map }).to_string()).unwrap();
    }

    pub(super) fn tensors(&self) -> Tensors {
        let tensor = |(name, shape): (String, Vec<usize>)| {
            let values = dummy::tensor(self.seed, &name, &shape);
            let bytes = match self.dtype {
                Dtype::F16 => values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|value| bf16::from_f32(*value).to_le_bytes()).collect(),
                _ => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            };
            (name, (self.dtype, shape, bytes))
        };
        self.shapes().into_iter().map(tensor).collect()
    }

    fn shapes(&self) -> Vec<(String, Vec<usize>)> {
        match self.config["architectures"][0].as_str() {
            Some("QWenLMHeadModel") => self.shapes_of_qwen(),
            architecture => self.shapes_of_newer(architecture == Some("Qwen3ForCausalLM")),
        }
    }

    fn size(&self, key: &str) -> usize {
        self.config[key].as_u64().unwrap() as usize
    }

    fn flag(&self, key: &str) -> bool {
        self.config[key].as_bool().unwrap()
    }

    fn shapes_of_qwen(&self) -> Vec<(String, Vec<usize>)> {
        let (vocab, hidden, ffn) =
            (self.size("vocab_size"), self.size("hidden_size"), self.size("intermediate_size") / 2);
        let mut shapes = vec![("transformer.wte.weight".to_owned(), vec![vocab, hidden])];
        for layer in 0..self.size("num_hidden_layers") {
            let parts = [
                ("ln_1.weight", vec![hidden]),
                ("attn.c_attn.weight", vec![3 * hidden, hidden]),
                ("attn.c_attn.bias", vec![3 * hidden]),
                ("attn.c_proj.weight", vec![hidden, hidden]),
                ("ln_2.weight", vec![hidden]),
                ("mlp.w1.weight", vec![ffn, hidden]),
                ("mlp.w2.weight", vec![ffn, hidden]),
                ("mlp.c_proj.weight", vec![hidden, ffn]),
            ];
            shapes.extend(parts.map(|(part, shape)| (format!("transformer.h.{layer}.{part}"), shape)));
        }
        shapes.push(("transformer.ln_f.weight".to_owned(), vec![hidden]));
        if !self.flag("tie_word_embeddings") {
            shapes.push(("lm_head.weight".to_owned(), vec![vocab, hidden]));
        }
        shapes
    }

    fn shapes_of_newer(&self, third: bool) -> Vec<(String, Vec<usize>)> {
        let (vocab, hidden, ffn) = (self.size("vocab_size"), self.size("hidden_size"), self.size("intermediate_size"));
        let heads = self.size("num_attention_heads");
        let dim = if third { self.size("head_dim") } else { hidden / heads };
        let (query, key) = (heads * dim, self.size("num_key_value_heads") * dim);
        let mut shapes = vec![("model.embed_tokens", vec![vocab, hidden]), ("model.norm", vec![hidden])];
        if !self.flag("tie_word_embeddings") {
            shapes.push(("lm_head", vec![vocab, hidden]));
        }
        let mut shapes: Vec<_> = shapes.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect();
        let projections = [("q", query, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, query)];
        let mlp = [("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)];
        let mut norms = vec![("input_layernorm", hidden), ("post_attention_layernorm", hidden)];
        if third {
            norms.extend([("self_attn.q_norm", dim), ("self_attn.k_norm", dim)]);
        }
        for layer in 0..self.size("num_hidden_layers") {
            let name = |part: String| format!("model.layers.{layer}.{part}");
            for (part, outputs, inputs) in projections {
                shapes.push((name(format!("self_attn.{part}_proj.weight")), vec![outputs, inputs]));
                let biased = if third { self.flag("attention_bias") } else { part != "o" };
                if biased {
                    shapes.push((name(format!("self_attn.{part}_proj.bias")), vec![outputs]));
                }
            }
            for (part, outputs, inputs) in mlp {
                shapes.push((name(format!("mlp.{part}_proj.weight")), vec![outputs, inputs]));
            }
            shapes.extend(norms.iter().map(|(part, width)| (name(format!("{part}.weight")), vec![*width])));
        }
        shapes
    }
}

pub(super) fn save(path: &Path, tensors: &Tensors) {
    let views = tensors
        .iter()
        .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
    fs::write(path, safetensors::serialize(views, None).unwrap()).unwrap();
}

fn shard_name(index: usize, count: usize) -> String {
    format!("model-{:05}-of-{count:05}.safetensors", index + 1)
}
