//! Steps of a checkpoint on the CPU: `cargo bench --bench checkpoint_step -- MODEL` prints one line of JSON.
//!
//! A decode step computes one token of each sequence after 128 that are in the cache; a prefill step computes 128 tokens
//! of each. The median of the steps, in milliseconds. `benches/llama_cpp/compare.py` runs it beside llama.cpp.

use std::time::Instant;

use sluice_benches::steps::{batch, executor, run};
use sluice_checkpoint::{LoadOptions, ModelFiles, Silent};
use sluice_core::Batch;
use sluice_model::{CpuExecutor, load};

const CONTEXT: u32 = 128;
const PREFILL: u32 = 128;
const SEQUENCES: [u32; 2] = [1, 8];
const DECODES: usize = 20;
const PREFILLS: usize = 4;

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    let Some(path) = std::env::args().skip(1).find(|argument| !argument.starts_with('-')) else {
        // Without a checkpoint there is nothing to time, as where all benchmarks are run.
        return;
    };
    let files = ModelFiles::path(&path);
    let model = load(&files, LoadOptions::default(), Box::new(Silent)).expect("the checkpoint loads");
    let vocab = model.info().dimensions.vocab as u32;
    let mut executor = executor(model, 8 * 512);
    let mut lines = serde_json::Map::new();
    for sequences in SEQUENCES {
        let prefill = batch(sequences, 0, PREFILL, vocab);
        lines.insert(format!("prefill {sequences}"), median(&mut executor, &prefill, PREFILLS).into());
        let decode = batch(sequences, CONTEXT, 1, vocab);
        lines.insert(format!("decode {sequences}"), median(&mut executor, &decode, DECODES).into());
    }
    println!("{}", serde_json::Value::Object(lines));
}

/// In milliseconds.
fn median(executor: &mut CpuExecutor, batch: &Batch, steps: usize) -> f64 {
    let mut times: Vec<f64> = (0..steps)
        .map(|_| {
            let began = Instant::now();
            run(executor, batch);
            began.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[steps / 2]
}
