//! Steps of a model of 14B parameters on random weights, by the method that the peers were measured with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use sluice_benches::generation::Generation;
use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Quantization};
use sluice_kernels::cuda::CudaDevice;
use sluice_model::StepLimits;
use sluice_model::gpu::{Ceilings, GpuExecutor};
use tempfile::TempDir;

use crate::Chosen;
use crate::configurations::{folder, qwen2_14b};

/// Prompts of 512, 144 new tokens of which 16 are not counted.
const PROMPT: u32 = 512;
const ANSWER: u32 = 144;

/// Tokens of a prompt, beside sequences that decode behind as many as the longest of them.
const RUNS: [u32; 5] = [16, 128, 256, 512, CONTEXT];
const CONTEXT: u32 = 1024;

/// The mean step by the wall and by the device, for each number of sequences.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
pub(crate) fn decode(chosen: &Chosen) -> Result<()> {
    let folder = folder(&qwen2_14b())?;
    println!(
        "weights, sequences: step by the device, by the wall, the card's roof, ms, its share; prompts of {PROMPT}"
    );
    for quantization in &chosen.quantizations {
        let most = chosen.sequences.iter().copied().max().context("a number of sequences")?;
        let mut gpu = dummy(&folder, *quantization, chosen, &generation(most, PROMPT, ANSWER, 8192))?;
        for sequences in &chosen.sequences {
            let generation = generation(*sequences, PROMPT, ANSWER, 8192);
            let timed = (0..2).map(|_| generation.run(&mut gpu)).collect::<Result<Vec<_>, _>>()?;
            let best = timed.iter().min_by_key(|timed| timed.step()).context("two runs")?;
            let device = milliseconds(best.device_step());
            println!("{quantization}, {sequences}: {device:.3}, {}", share(best.step(), best.roof_step()));
        }
    }
    Ok(())
}

/// Prompts of 2,048 tokens, in steps of as many tokens as there are, and in steps of 2,048.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
pub(crate) fn prefill(chosen: &Chosen) -> Result<()> {
    let folder = folder(&qwen2_14b())?;
    println!("weights, prompts of 2048, tokens a step: ms, tokens per second");
    for quantization in &chosen.quantizations {
        let mut gpu = dummy(&folder, *quantization, chosen, &generation(8, 2048, 2, 16_384))?;
        for (sequences, max_tokens) in [(8, 16_384), (8, 2048), (1, 2048)] {
            let generation = generation(sequences, 2048, 2, max_tokens);
            let timed = (0..3).map(|_| generation.run(&mut gpu)).collect::<Result<Vec<_>, _>>()?;
            let best = timed.iter().map(|timed| timed.prefill).min().context("three runs")?;
            let rate = f64::from(sequences * 2048) / best.as_secs_f64();
            println!("{quantization}, {sequences}, {max_tokens}: {:.1}, {rate:.0}", milliseconds(best));
        }
    }
    Ok(())
}

/// Steps of sequences that are given a token each, and a run of a prompt beside them.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
pub(crate) fn mixed(chosen: &Chosen) -> Result<()> {
    let folder = folder(&qwen2_14b())?;
    println!("weights, sequences, tokens of a prompt: step by the device, the card's roof, ms, its share");
    for quantization in &chosen.quantizations {
        let most = chosen.sequences.iter().copied().max().context("a number of sequences")?;
        let longest = generation(most + 1, CONTEXT, 16, CONTEXT + most);
        let mut gpu = dummy(&folder, *quantization, chosen, &longest)?;
        for (sequences, run) in chosen.sequences.iter().flat_map(|count| RUNS.map(|run| (*count, run))) {
            let generation = generation(sequences + 1, CONTEXT, 16, longest.max_tokens);
            let times = (0..4).map(|_| generation.mixed(&mut gpu, run)).collect::<Result<Vec<_>, _>>()?;
            let best = times.iter().min_by_key(|times| times.device).context("four steps")?;
            let roof = Duration::from_nanos(best.roof.unwrap_or(0));
            println!("{quantization}, {sequences}, {run}: {}", share(Duration::from_nanos(best.device), roof));
        }
    }
    Ok(())
}

/// With room for the largest of what is generated.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn dummy(
    folder: &TempDir,
    quantization: Quantization,
    chosen: &Chosen,
    most: &Generation,
) -> Result<GpuExecutor<CudaDevice>> {
    let began = Instant::now();
    let files = ModelFiles::folder(folder.path());
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 7 }, quantization, ..LoadOptions::default() };
    let (max_tokens, max_rows) = (most.max_tokens, most.sequences);
    let limits = StepLimits { blocks: most.blocks(), block_tokens: 16, max_tokens, max_rows };
    let mut gpu = chosen.load(&files, options, limits)?;
    println!("{quantization}: loaded in {:.1} s", began.elapsed().as_secs_f64());
    if let Some(Ceilings { bytes_per_second, flops_per_second }) = gpu.measure_roof()? {
        println!("{quantization}: the card reads {:.2} TB/s", bytes_per_second / 1e12);
        println!("{quantization}: and multiplies {:.0} TFLOP/s", flops_per_second / 1e12);
    }
    Ok(gpu)
}

fn generation(sequences: u32, prompt: u32, answer: u32, max_tokens: u32) -> Generation {
    Generation { sequences, prompt, answer, max_tokens, vocab: 150_000 }
}

/// Of the roof, where that is known.
fn share(step: Duration, roof: Duration) -> String {
    let (step, roof) = (milliseconds(step), milliseconds(roof));
    if roof > 0.0 {
        format!("{step:.3}, {roof:.3}, {:.0} %", 100.0 * roof / step)
    } else {
        format!("{step:.3}, roof unknown")
    }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}
