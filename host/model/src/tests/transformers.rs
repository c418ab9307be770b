//! Checkpoints that Hugging Face's transformers wrote, and what it computes from them: see `testdata/make.py`.

use std::fs;
use std::path::PathBuf;

use serde_json::{Value, json};
use sluice_checkpoint::{ConfigFile, LoadFormat, ModelFiles};

use super::checkpoint::Checkpoint;
use super::{Run, Runner, argmax, load};
use crate::blueprint::Blueprint;

fn testdata(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "testdata", name].iter().collect()
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(testdata(name)).unwrap()).unwrap()
}

fn numbers(list: &Value) -> Vec<f32> {
    list.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

fn tokens(list: &Value) -> Vec<u32> {
    list.as_array().unwrap().iter().map(|token| token.as_u64().unwrap() as u32).collect()
}

/// Every prompt in chunks, then token by token.
fn check(name: &str) {
    let model = load(&ModelFiles::folder(testdata(name)), LoadFormat::Auto).unwrap();
    let mut runner = Runner::new(model, 16, 16);
    let table: Vec<u32> = (0..16).rev().collect();
    for golden in read(&format!("{name}/golden.json")).as_array().unwrap() {
        let (mut tokens, answer) = (tokens(&golden["prompt"]), tokens(&golden["answer"]));
        let prompt = tokens.len();
        let mut after = |tokens: &[u32], start, end| {
            let run = Run { tokens, prompt, start, end, table: &table };
            runner.logits(&[run]).remove(0)
        };
        let chunk = |start: usize| after(&tokens, start, prompt.min(start + 50));
        let mut logits = (0..prompt).step_by(50).map(chunk).last().unwrap();
        close(&logits, &numbers(&golden["logits"]));
        for token in answer {
            assert_eq!(argmax(&logits), token);
            tokens.push(token);
            logits = after(&tokens, tokens.len() - 1, tokens.len());
        }
        close(&logits, &numbers(&golden["last_logits"]));
    }
}

fn close(found: &[f32], expected: &[f32]) {
    assert_eq!(found.len(), expected.len());
    for (token, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!((found - expected).abs() < 1e-4, "token {token}: {found} against {expected}");
    }
}

#[test]
fn qwen2_in_shards_of_bf16_with_its_own_head() {
    check("qwen2-shards-bf16");
}

#[test]
fn qwen3_in_f16_with_a_tied_head() {
    check("qwen3-tied-f16");
}

/// Its prompts and answers reach beyond the context before it was stretched.
#[test]
fn qwen2_stretched_by_yarn() {
    check("qwen2-yarn-f16");
}

fn blueprint(changes: &[(&str, Value)]) -> Blueprint {
    let mut checkpoint = Checkpoint::qwen2(1, true);
    for (key, value) in changes {
        checkpoint.config[*key] = value.clone();
    }
    let (_folder, files) = checkpoint.write_config();
    crate::blueprint(&ConfigFile::read(&files).unwrap()).unwrap()
}

#[test]
fn yarn_at_true_sizes_in_newer_and_older_files() {
    for golden in read("yarn.json").as_array().unwrap() {
        let rope = &golden["rope_parameters"];
        let sizes = [("hidden_size", json!(5120)), ("num_attention_heads", json!(40))];
        let length = golden["max_position_embeddings"].clone();
        let newer =
            [("rope_parameters", rope.clone()), ("rope_theta", json!(null)), ("max_position_embeddings", length)];
        let mut settings = rope.clone();
        settings["type"] = settings.as_object_mut().unwrap().remove("rope_type").unwrap();
        let older = [("rope_scaling", settings), ("rope_theta", rope["rope_theta"].clone())];
        for changes in [newer.to_vec(), older.to_vec()] {
            let Blueprint { rope: found, max_model_len, .. } = blueprint(&[sizes.to_vec(), changes].concat());
            let stretched =
                rope["factor"].as_f64().unwrap() * rope["original_max_position_embeddings"].as_f64().unwrap();
            assert_eq!(f64::from(max_model_len), stretched);
            assert!((f64::from(found.attention_factor()) - golden["attention_factor"].as_f64().unwrap()).abs() < 1e-6);
            let (speeds, expected) = (found.speeds(0, 128), numbers(&golden["speeds"]));
            assert_eq!(speeds.len(), expected.len());
            for (pair, (found, expected)) in speeds.iter().zip(&expected).enumerate() {
                assert!((found / expected - 1.0).abs() < 1e-6, "pair {pair}: {found} against {expected}");
            }
        }
    }
}
