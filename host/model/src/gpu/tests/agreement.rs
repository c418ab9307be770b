//! Every way of computing a token, by every form of weights, gives what the CPU gives.

use serde_json::json;
use sluice_checkpoint::{ModelFiles, Quantization};
use sluice_kernels::Card;

use super::{QUANTIZATIONS, on_cpu, options, qwen, qwen2, random, with};
use crate::embedded;
use crate::gpu::agreement::{Agreement, Script};
use crate::gpu::{Dequantized, HostDevice};
use crate::step::StepLimits;

/// What rounding activations to bf16 may make of a log-probability: of any of twenty alternatives, and in the mean. A model
/// that was trained is surer, and its logits lie further apart.
#[derive(Clone, Copy)]
struct Tolerance {
    worst: f32,
    mean: f32,
}

const TRAINED: Tolerance = Tolerance { worst: 0.5, mean: 0.05 };
const RANDOM: Tolerance = Tolerance { worst: 0.08, mean: 0.012 };

fn check(files: &ModelFiles, vocab: u32, card: Card, quantization: Quantization, lengths: &[(usize, &[usize])]) {
    check_with(Dequantized::Anew, files, vocab, card, quantization, lengths);
}

fn check_with(
    dequantized: Dequantized,
    files: &ModelFiles,
    vocab: u32,
    card: Card,
    quantization: Quantization,
    lengths: &[(usize, &[usize])],
) {
    let script = Script::random(vocab, lengths, 16, 3);
    let rows = lengths.len() as u32;
    let limits = StepLimits { blocks: script.blocks(), block_tokens: 16, max_tokens: 512, max_rows: rows };
    let options = options(files, quantization);
    let mut cpu = on_cpu(files, options, limits);
    let mut gpu = with(dequantized, HostDevice::new(card).poisoned(), files, options, limits);
    let tolerance = if matches!(files, ModelFiles::Folder(_)) { RANDOM } else { TRAINED };
    let found = Agreement::of(&script, &mut cpu, &mut gpu, tolerance.worst).unwrap();
    eprintln!("{quantization} {lengths:?}: {found:?}");
    let close = found.worst < tolerance.worst && found.mean < tolerance.mean;
    assert!(close && found.disagreements == 0, "{quantization}: {found:?}");
    assert!(found.positions >= script.positions() && found.mean > 0.0, "{found:?}");
}

/// Prompts at once and in chunks, alone and beside others that decode.
const MIXED: &[(usize, &[usize])] = &[(40, &[33]), (9, &[4, 4]), (70, &[1, 1, 60]), (20, &[16, 1, 2])];

#[test]
fn the_embedded_model() {
    for quantization in QUANTIZATIONS {
        for card in [Card::h200(), Card::rtx_4090()] {
            check(&embedded(), 2048, card, quantization, MIXED);
        }
    }
}

/// With every number of rows that has kernels of its own, and those between.
#[test]
fn as_many_rows_as_there_are_kernels_for() {
    for rows in [1, 2, 7, 9, 17, 40, 100, 130, 270] {
        let quantization = QUANTIZATIONS[rows % 3];
        let card = if rows % 2 == 0 { Card::h200() } else { Card::rtx_4090() };
        check(&embedded(), 2048, card, quantization, &vec![(3, &[1][..]); rows]);
    }
}

/// More rows read what is kept in bf16, fewer what is quantised, prompts and answers alike.
#[test]
fn weights_that_are_kept_dequantised_too() {
    let (_folder, files) = random(&qwen2());
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        let prompt: &[(usize, &[usize])] = &[(160, &[140, 17])];
        for lengths in [&[(3, &[1][..]); 64][..], &[(3, &[1][..]); 130], prompt, MIXED] {
            check_with(Dequantized::Kept, &files, 1003, Card::h200(), quantization, lengths);
        }
        check_with(Dequantized::Kept, &embedded(), 2048, Card::rtx_4090(), quantization, &[(3, &[1][..]); 130]);
    }
}

/// Where no kernel reads the quantised weights in turn, products read what is kept of them.
#[test]
fn inputs_that_only_the_library_takes() {
    let narrow =
        json!({ "hidden_size": 320, "num_attention_heads": 5, "num_key_value_heads": 1, "intermediate_size": 448 });
    let mut config = qwen2();
    config.as_object_mut().unwrap().extend(narrow.as_object().unwrap().clone());
    let (_folder, files) = random(&config);
    for dequantized in [Dequantized::Anew, Dequantized::Kept] {
        for quantization in [Quantization::Int8, Quantization::Nf4] {
            check_with(dequantized, &files, 1003, Card::h200(), quantization, &[(3, &[1][..]); 12]);
        }
    }
}

#[test]
fn biases_and_a_vocabulary_that_fills_no_tile() {
    let (_folder, files) = random(&qwen2());
    for quantization in QUANTIZATIONS {
        check(&files, 1003, Card::h200(), quantization, MIXED);
    }
}

/// Beyond a thousand tokens attention takes another way, and from 256 new ones on so do products.
#[test]
fn long_contexts() {
    let (_folder, files) = random(&qwen2());
    let long: &[(usize, &[usize])] = &[(1100, &[300, 300, 300, 198]), (30, &[29])];
    check(&files, 1003, Card::h200(), Quantization::Nf4, long);
    check(&files, 1003, Card::rtx_4090(), Quantization::Int8, long);
}

/// Positions are stretched by the prompt's length, and queries scaled by their position.
#[test]
fn the_first_series_beyond_its_native_context() {
    let (_folder, files) = random(&qwen());
    let long: &[(usize, &[usize])] = &[(150, &[140]), (70, &[30, 35]), (20, &[19])];
    for quantization in QUANTIZATIONS {
        check(&files, 512, Card::h200(), quantization, long);
    }
}
