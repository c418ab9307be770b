//! Whole models from quantised files: GGUF as candle quantises and writes it, and what bitsandbytes saves.

use std::borrow::Cow;
use std::fs::{self, File};
use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use safetensors::Dtype;
use serde_json::json;
use tempfile::TempDir;

use sluice_checkpoint::{
    Absmax, Int8Rows, LoadFormat, LoadOptions, MatrixData, ModelFiles, Nf4Blocks, Quantization, Silent, StoredMatrix,
    int8, nf4,
};

use super::checkpoint::{Checkpoint, Stored, Tensors, save};
use super::{Run, Runner};

const LENGTHS: [usize; 4] = [37, 1, 16, 90];

/// How GGUF calls what Hugging Face calls otherwise, where neither is a part of another.
const NAMES: [(&str, &str); 15] = [
    ("model.embed_tokens.", "token_embd."),
    ("model.norm.", "output_norm."),
    ("lm_head.", "output."),
    ("model.layers.", "blk."),
    ("self_attn.q_norm.", "attn_q_norm."),
    ("self_attn.k_norm.", "attn_k_norm."),
    ("self_attn.q_proj.", "attn_q."),
    ("self_attn.k_proj.", "attn_k."),
    ("self_attn.v_proj.", "attn_v."),
    ("self_attn.o_proj.", "attn_output."),
    ("input_layernorm.", "attn_norm."),
    ("post_attention_layernorm.", "ffn_norm."),
    ("mlp.gate_proj.", "ffn_gate."),
    ("mlp.up_proj.", "ffn_up."),
    ("mlp.down_proj.", "ffn_down."),
];

/// What a matrix is quantised to, by GGUF's name for it.
type Kind = fn(&str) -> GgmlDType;

fn q8_0(_: &str) -> GgmlDType {
    GgmlDType::Q8_0
}

/// As llama.cpp's mix of that name: six bits where they matter most.
fn q4_k_m(name: &str) -> GgmlDType {
    let matters = name == "output.weight" || name.contains("attn_v") || name.contains("ffn_down");
    if matters { GgmlDType::Q6K } else { GgmlDType::Q4K }
}

/// Rows are whole superblocks.
fn wide(mut checkpoint: Checkpoint) -> Checkpoint {
    let sizes = [("hidden_size", 256), ("num_attention_heads", 4), ("head_dim", 64), ("intermediate_size", 512)];
    for (key, value) in sizes {
        checkpoint.config[key] = json!(value);
    }
    checkpoint
}

/// The logits after prompts of all lengths, side by side.
fn logits(files: &ModelFiles, quantization: Quantization) -> Vec<Vec<f32>> {
    let options = LoadOptions { quantization, format: LoadFormat::Auto, ..LoadOptions::default() };
    let model = crate::load(files, options, Box::new(Silent)).unwrap();
    let mut runner = Runner::new(model, 64, 16);
    let tokens: Vec<u32> = (0..90).map(|index| (index * index * 7 + index) % 97).collect();
    let tables: Vec<Vec<u32>> = (0..4).map(|row| (row * 8..row * 8 + 8).collect()).collect();
    let run = |(length, table)| Run { tokens: &tokens, prompt: length, start: 0, end: length, table };
    let runs: Vec<_> = LENGTHS.into_iter().zip(tables.iter().map(Vec::as_slice)).map(run).collect();
    runner.logits(&runs)
}

/// How far logits differ, measured by how large they are: the roots of both mean squares, divided.
fn difference(found: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let (found, expected) = (found.concat(), expected.concat());
    let differences = found.iter().zip(&expected).map(|(found, expected)| (found - expected).powi(2)).sum::<f32>();
    (differences / expected.iter().map(|logit| logit.powi(2)).sum::<f32>()).sqrt()
}

/// Writes the checkpoint as GGUF, and what its matrices became as a checkpoint in F32.
fn write_gguf(checkpoint: &Checkpoint, kind: Kind, folder: &Path) -> ModelFiles {
    let (mut quantised, mut widened) = (Vec::new(), Tensors::new());
    for (name, (dtype, shape, bytes)) in checkpoint.tensors() {
        let own = NAMES.iter().fold(name.clone(), |name, (theirs, own)| name.replace(theirs, own));
        let tensor = Tensor::from_raw_buffer(&bytes, dtype.try_into().unwrap(), &shape, &Device::Cpu).unwrap();
        let kind = if shape.len() == 2 { kind(&own) } else { GgmlDType::F32 };
        let tensor = QTensor::quantize(&tensor, kind).unwrap();
        let numbers = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        widened.insert(name, f32s(shape, &numbers));
        quantised.push((own, tensor));
    }
    save(&folder.join("model.safetensors"), &widened);
    let metadata = metadata(checkpoint);
    let metadata: Vec<(&str, &Value)> = metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> = quantised.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let path = folder.join("model.gguf");
    gguf_file::write(&mut File::create(&path).unwrap(), &metadata, &tensors).unwrap();
    ModelFiles::path(path)
}

fn metadata(checkpoint: &Checkpoint) -> Vec<(String, Value)> {
    let config = &checkpoint.config;
    let architecture = if config["architectures"][0] == "Qwen3ForCausalLM" { "qwen3" } else { "qwen2" };
    let sizes = [
        ("block_count", "num_hidden_layers"),
        ("context_length", "max_position_embeddings"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
        ("attention.head_count_kv", "num_key_value_heads"),
        ("attention.key_length", "head_dim"),
    ];
    let numbers = [("attention.layer_norm_rms_epsilon", "rms_norm_eps"), ("rope.freq_base", "rope_theta")];
    let sizes = sizes.map(|(key, from)| (key, Value::U32(config[from].as_u64().unwrap() as u32)));
    let numbers = numbers.map(|(key, from)| (key, Value::F32(config[from].as_f64().unwrap() as f32)));
    let own = sizes.into_iter().chain(numbers).map(|(key, value)| (format!("{architecture}.{key}"), value));
    let tokens = (0..config["vocab_size"].as_u64().unwrap()).map(|id| Value::String(format!("<{id}>"))).collect();
    let general = [
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(tokens)),
    ];
    general.into_iter().chain(own).collect()
}

fn f32s(shape: Vec<usize>, numbers: &[f32]) -> Stored {
    (Dtype::F32, shape, numbers.iter().flat_map(|number| number.to_le_bytes()).collect())
}

/// Activations of eight bits move the logits a little. What the weights were before they were quantised explains the
/// logits worse, so many times.
fn check_gguf(checkpoint: Checkpoint, kind: Kind, worse: f32) {
    let checkpoint = wide(checkpoint);
    let (folder, files) = checkpoint.write();
    let original = logits(&files, Quantization::None);
    let gguf = write_gguf(&checkpoint, kind, folder.path());
    let (found, expected) = (logits(&gguf, Quantization::None), logits(&files, Quantization::None));
    let (near, far) = (difference(&found, &expected), difference(&found, &original));
    assert!(near < 0.03, "{near}");
    assert!(near * worse < far, "{near} and {far}");
}

#[test]
fn gguf_files_compute_what_their_weights_say() {
    for tied in [true, false] {
        for checkpoint in [Checkpoint::qwen2, Checkpoint::qwen3] {
            check_gguf(checkpoint(21, tied), q8_0, 1.0);
            check_gguf(checkpoint(22, tied), q4_k_m, 5.0);
        }
    }
}

/// The checkpoint as transformers saves it, its linear layers quantised.
fn write_saved(checkpoint: &Checkpoint, quantization: Quantization) -> (TempDir, ModelFiles) {
    let (folder, files) = checkpoint.write_config();
    let mut config = checkpoint.config.clone();
    config["quantization_config"] = json!({"quant_method": "bitsandbytes"});
    fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    let mut tensors = Tensors::new();
    for (name, (dtype, shape, bytes)) in checkpoint.tensors() {
        let table = ["embed_tokens", "wte", "lm_head"].iter().any(|table| name.contains(table));
        if table || shape.len() == 1 {
            tensors.insert(name, (dtype, shape, bytes));
            continue;
        }
        let matrix = StoredMatrix { outputs: shape[0], inputs: shape[1], data: MatrixData::F32(Cow::Owned(bytes)) };
        match quantization {
            Quantization::Int8 => tensors.extend(saved_int8(&name, shape, &int8::quantize(&matrix))),
            _ => tensors.extend(saved_nf4(&name, shape, &nf4::quantize(&matrix))),
        }
    }
    save(&folder.path().join("model.safetensors"), &tensors);
    (folder, files)
}

fn saved_int8(name: &str, shape: Vec<usize>, rows: &Int8Rows<'_>) -> Vec<(String, Stored)> {
    let stem = name.strip_suffix(".weight").unwrap();
    vec![
        (format!("{stem}.SCB"), f32s(vec![shape[0]], &rows.absmax)),
        (format!("{stem}.weight_format"), (Dtype::U8, vec![], vec![0])),
        (name.to_owned(), (Dtype::I8, shape, rows.codes.iter().map(|code| *code as u8).collect())),
    ]
}

fn saved_nf4(name: &str, shape: Vec<usize>, blocks: &Nf4Blocks<'_>) -> Vec<(String, Stored)> {
    let Absmax::Nested(nested) = &blocks.absmax else { panic!("the scales are quantised too") };
    let state = json!({
        "quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": shape, "nested_blocksize": 256,
        "nested_dtype": "float32", "nested_offset": nested.offset,
    });
    let bytes = |shape: Vec<usize>, bytes: &[u8]| (Dtype::U8, shape, bytes.to_vec());
    let state = state.to_string();
    let parts = [
        ("", bytes(vec![blocks.codes.len(), 1], &blocks.codes)),
        (".absmax", bytes(vec![nested.codes.len()], &nested.codes)),
        (".quant_map", f32s(vec![16], &blocks.table)),
        (".nested_absmax", f32s(vec![nested.absmax.len()], &nested.absmax)),
        (".nested_quant_map", f32s(vec![256], &*nested.map)),
        (".quant_state.bitsandbytes__nf4", bytes(vec![state.len()], state.as_bytes())),
    ];
    parts.into_iter().map(|(part, stored)| (format!("{name}{part}"), stored)).collect()
}

#[test]
fn what_bitsandbytes_saved_computes_the_same_bits_as_what_is_quantised_at_load() {
    let checkpoints = [Checkpoint::qwen(23), wide(Checkpoint::qwen2(24, true)), Checkpoint::qwen3(25, false)];
    for checkpoint in &checkpoints {
        let (_plain, plain) = checkpoint.write();
        for quantization in [Quantization::Int8, Quantization::Nf4] {
            let (_folder, saved) = write_saved(checkpoint, quantization);
            let found = logits(&saved, Quantization::None);
            let bits = |logits: Vec<Vec<f32>>| logits.concat().iter().map(|logit| logit.to_bits()).collect::<Vec<_>>();
            assert!(difference(&found, &logits(&plain, Quantization::None)) > 0.0, "{quantization} changes nothing");
            assert_eq!(bits(found), bits(logits(&plain, quantization)), "{quantization}");
        }
    }
}
