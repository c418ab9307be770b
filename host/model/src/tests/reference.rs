//! candle-transformers' own Qwen2 and Qwen3 are the reference: the same tokens, and logits within 1e-4.

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{qwen2, qwen3};
use safetensors::Dtype;
use serde_json::{Value, json};

use super::checkpoint::{Checkpoint, Stored};
use super::{Run, Runner, argmax};
use sluice_checkpoint::{LoadFormat, ModelFiles};

use super::load;

const LENGTHS: [usize; 4] = [37, 1, 16, 90];
const NEW_TOKENS: usize = 12;
const BLOCK_TOKENS: usize = 16;

/// What candle says after the prompt and after each greedy token: the logits and the tokens.
fn reference(checkpoint: &Checkpoint, prompt: &[u32]) -> Vec<Vec<f32>> {
    let tensor = |(name, (dtype, shape, bytes)): (String, Stored)| {
        let dtype = DType::try_from(dtype).unwrap();
        (name, Tensor::from_raw_buffer(&bytes, dtype, &shape, &Device::Cpu).unwrap())
    };
    let tensors = checkpoint.tensors().into_iter().map(tensor).collect();
    let weights = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let mut forward = candle_model(checkpoint.config.clone(), weights);
    let (mut tokens, mut offset, mut all) = (prompt.to_vec(), 0, Vec::new());
    for _ in 0..NEW_TOKENS {
        let input = Tensor::new(&tokens[offset..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let logits = forward(&input, offset).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
        offset = tokens.len();
        tokens.push(argmax(&logits));
        all.push(logits);
    }
    all
}

type Forward = Box<dyn FnMut(&Tensor, usize) -> candle_core::Result<Tensor>>;

fn candle_model(config: Value, weights: VarBuilder<'_>) -> Forward {
    if config["architectures"][0] == "Qwen3ForCausalLM" {
        let config: qwen3::Config = serde_json::from_value(config).unwrap();
        let mut model = qwen3::ModelForCausalLM::new(&config, weights).unwrap();
        return Box::new(move |tokens, offset| model.forward(tokens, offset));
    }
    let config: qwen2::Config = serde_json::from_value(config).unwrap();
    let mut model = qwen2::ModelForCausalLM::new(&config, weights).unwrap();
    Box::new(move |tokens, offset| model.forward(tokens, offset))
}

/// All prompts in one batch: whole or in chunks first, then greedily token by token.
fn check(checkpoint: &Checkpoint, chunk: usize) {
    let (_folder, files) = checkpoint.write();
    check_files(checkpoint, &files, chunk);
}

fn check_files(checkpoint: &Checkpoint, files: &ModelFiles, chunk: usize) {
    let model = load(files, LoadFormat::Auto).unwrap();
    let vocab = model.info().dimensions.vocab as u32;
    let mut runner = Runner::new(model, 64, BLOCK_TOKENS as u32);
    let mut sequences: Vec<Vec<u32>> = LENGTHS
        .iter()
        .map(|length| (0..*length as u32).map(|index| (index * index * 7 + index + *length as u32) % vocab).collect())
        .collect();
    // Blocks from the back of the pool, the sequences' blocks between each other's.
    let tables: Vec<Vec<u32>> = (0..4).map(|row| (0..8).map(|block| 63 - (block * 4 + row)).collect()).collect();
    let expected: Vec<_> = sequences.iter().map(|prompt| reference(checkpoint, prompt)).collect();
    let mut computed = [0; 4];
    let mut made = [0; 4];
    while made.iter().any(|made| *made < NEW_TOKENS) {
        let active: Vec<usize> = (0..4).filter(|row| made[*row] < NEW_TOKENS).collect();
        let run = |row: &usize| {
            let end = sequences[*row].len().min(computed[*row] + chunk);
            Run { tokens: &sequences[*row], prompt: LENGTHS[*row], start: computed[*row], end, table: &tables[*row] }
        };
        let runs: Vec<_> = active.iter().map(run).collect();
        let ends: Vec<_> = runs.iter().map(|run| run.end).collect();
        let logits = runner.logits(&runs);
        for ((row, end), logits) in active.into_iter().zip(ends).zip(logits) {
            computed[row] = end;
            if end == sequences[row].len() {
                close(&logits, &expected[row][made[row]]);
                made[row] += 1;
                sequences[row].push(argmax(&logits));
            }
        }
    }
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(argmax(found), argmax(expected), "the greedy token");
    for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-4, "token {token}: {found} against {expected}");
    }
}

#[test]
fn whole_prompts_and_chunks() {
    for tied in [true, false] {
        for chunk in [usize::MAX / 2, 7, 1] {
            check(&Checkpoint::qwen2(1, tied), chunk);
            check(&Checkpoint::qwen3(1, tied), chunk);
        }
    }
}

#[test]
fn many_seeds() {
    for seed in 2..8 {
        check(&Checkpoint::qwen2(seed, seed % 2 == 1), 33);
        check(&Checkpoint::qwen3(seed, seed % 2 == 0), 33);
    }
}

#[test]
fn half_precision_and_shards() {
    for dtype in [Dtype::F16, Dtype::BF16] {
        check(&Checkpoint { dtype, ..Checkpoint::qwen3(9, true) }, 20);
        check(&Checkpoint { dtype, shards: 3, ..Checkpoint::qwen3(9, false) }, 20);
        check(&Checkpoint { dtype, shards: 2, ..Checkpoint::qwen2(9, false) }, 20);
    }
}

#[test]
fn biases() {
    let mut checkpoint = Checkpoint::qwen3(10, true);
    checkpoint.config["attention_bias"] = json!(true);
    check(&checkpoint, 20);
}

#[test]
fn every_query_its_own_head_and_odd_sizes() {
    let mut checkpoint = Checkpoint::qwen3(11, false);
    for (key, value) in [("num_key_value_heads", 6), ("intermediate_size", 130), ("hidden_size", 50), ("head_dim", 20)]
    {
        checkpoint.config[key] = json!(value);
    }
    check(&checkpoint, 20);
    let mut checkpoint = Checkpoint::qwen2(11, false);
    for (key, value) in [("num_key_value_heads", 5), ("num_attention_heads", 5), ("hidden_size", 50)] {
        checkpoint.config[key] = json!(value);
    }
    check(&checkpoint, 20);
}
