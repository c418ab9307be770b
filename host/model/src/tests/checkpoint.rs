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
    pub(super) fn new(seed: u64, tied: bool) -> Self {
        let config = json!({
            "architectures": ["Qwen3ForCausalLM"], "vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 3,
            "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 16, "intermediate_size": 80,
            "max_position_embeddings": 256, "rope_theta": 10000.0, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "tie_word_embeddings": tied, "attention_bias": false, "max_window_layers": 3, "use_sliding_window": false,
            "sliding_window": null, "rope_scaling": null, "eos_token_id": 5
        });
        Self { config, seed, dtype: Dtype::F32, shards: 1 }
    }

    pub(super) fn write(&self) -> (TempDir, ModelFiles) {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("config.json"), self.config.to_string()).unwrap();
        let tensors = self.tensors();
        if self.shards == 1 {
            save(&folder.path().join("model.safetensors"), &tensors);
        } else {
            self.write_shards(folder.path(), tensors);
        }
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
        let size = |key: &str| self.config[key].as_u64().unwrap() as usize;
        let (vocab, hidden, ffn, dim) =
            (size("vocab_size"), size("hidden_size"), size("intermediate_size"), size("head_dim"));
        let (query, key) = (size("num_attention_heads") * dim, size("num_key_value_heads") * dim);
        let mut shapes = vec![("model.embed_tokens", vec![vocab, hidden]), ("model.norm", vec![hidden])];
        if !self.config["tie_word_embeddings"].as_bool().unwrap() {
            shapes.push(("lm_head", vec![vocab, hidden]));
        }
        let mut shapes: Vec<_> = shapes.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape)).collect();
        let projections = [("q", query, hidden), ("k", key, hidden), ("v", key, hidden), ("o", hidden, query)];
        let mlp = [("gate", ffn, hidden), ("up", ffn, hidden), ("down", hidden, ffn)];
        let norms = [("self_attn.q_norm", dim), ("self_attn.k_norm", dim)];
        let norms = norms.into_iter().chain([("input_layernorm", hidden), ("post_attention_layernorm", hidden)]);
        for layer in 0..size("num_hidden_layers") {
            let name = |part: String| format!("model.layers.{layer}.{part}");
            for (part, outputs, inputs) in projections {
                shapes.push((name(format!("self_attn.{part}_proj.weight")), vec![outputs, inputs]));
                if self.config["attention_bias"].as_bool().unwrap() {
                    shapes.push((name(format!("self_attn.{part}_proj.bias")), vec![outputs]));
                }
            }
            for (part, outputs, inputs) in mlp {
                shapes.push((name(format!("mlp.{part}_proj.weight")), vec![outputs, inputs]));
            }
            shapes.extend(norms.clone().map(|(part, width)| (name(format!("{part}.weight")), vec![width])));
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
