//! One GPU: `cargo bench --features cuda --bench gpu -- check` holds every operation against the host's own arithmetic
//! and whole models against the CPU; `-- decode` and `-- prefill` time steps of Qwen2.5-14B's shape on random weights.
//! Further words choose: `none`, `int8` or `nf4`, and numbers of sequences; for `check`, what is checked (`norm`,
//! `product nf4`, `product 5120x5120`, `models`), and `seed=N`, which random inputs.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_benches::generation::Generation;
use sluice_benches::operations::{Checker, MEMORY, Subject, subjects};
use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Quantization, Silent};
use sluice_core::{Clock, Nanos};
use sluice_kernels::cuda::CudaDevice;
use sluice_kernels::{Card, Device};
use sluice_model::gpu::agreement::{Agreement, Script};
use sluice_model::gpu::{GpuExecutor, GpuModel, HostDevice};
use sluice_model::{CpuExecutor, StepLimits, embedded, load};
use tempfile::TempDir;

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

const QUANTIZATIONS: [Quantization; 3] = [Quantization::None, Quantization::Int8, Quantization::Nf4];

/// What bf16 makes of a log-probability: of any of twenty alternatives, and in the mean.
const TOLERANCE: f32 = 0.5;
const MEAN: f32 = 0.06;

/// Of the method that the peers were measured by: prompts of 512, 144 new tokens of which 16 are not counted.
const PROMPT: u32 = 512;
const ANSWER: u32 = 144;
const SEQUENCES: [u32; 8] = [1, 4, 8, 16, 32, 64, 128, 256];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let chosen = Chosen::of(&words);
    match words.first().map(String::as_str) {
        Some("check") => check(&words[1..], &chosen),
        Some("decode") => decode(&chosen),
        Some("prefill") => prefill(&chosen),
        // Without a word there is nothing to do, as where all benchmarks are run.
        _ => Ok(()),
    }
}

struct Chosen {
    quantizations: Vec<Quantization>,
    sequences: Vec<u32>,
}

impl Chosen {
    fn of(words: &[String]) -> Self {
        let mut quantizations: Vec<Quantization> = words.iter().filter_map(|word| word.parse().ok()).collect();
        let mut sequences: Vec<u32> = words.iter().filter_map(|word| word.parse().ok()).collect();
        if quantizations.is_empty() {
            quantizations = QUANTIZATIONS.to_vec();
        }
        if sequences.is_empty() {
            sequences = SEQUENCES.to_vec();
        }
        Self { quantizations, sequences }
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(Monotonic(Instant::now()))
}

fn on_gpu(files: &ModelFiles, options: LoadOptions, limits: StepLimits) -> Result<GpuExecutor<CudaDevice>> {
    let model = GpuModel::read(files.clone(), options)?;
    Ok(model.load(CudaDevice::open(0)?, limits, Box::new(Silent), clock())?)
}

/// Operations, unless only models are meant, and models, unless only some operations are.
fn check(words: &[String], chosen: &Chosen) -> Result<()> {
    let words = words.iter().map(String::as_str).filter(|word| word.parse::<u32>().is_err());
    let (seeds, words): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with("seed="));
    let seed = match seeds.first() {
        Some(seed) => seed["seed=".len()..].parse().with_context(|| format!("`{seed}` is no number"))?,
        None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64,
    };
    let only_operations = words.iter().any(|word| *word != "models" && word.parse::<Quantization>().is_err());
    let operations = words.contains(&"models") || check_operations(&words, seed)?;
    let models = only_operations || check_models(chosen)?;
    ensure!(operations && models, "the card does not compute what the CPU does");
    Ok(())
}

/// Each on the card and on the host. Goes on after failures.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn check_operations(words: &[&str], seed: u64) -> Result<bool> {
    let gpu = CudaDevice::open(0)?;
    let card = gpu.card().clone();
    let meant: Vec<Subject> = subjects(&card, true).into_iter().filter(|subject| subject.is_meant(words)).collect();
    ensure!(!meant.is_empty(), "nothing that is checked is called `{}`", words.join(" "));
    println!("operations, seed={seed}: mean difference from the host's numbers");
    let host = HostDevice::new(Card { memory_bytes: u64::MAX, ..card.clone() });
    let mut checker = Checker::new(gpu, host, MEMORY)?;
    let (mut good, began) = (true, Instant::now());
    for subject in meant {
        for finding in checker.run(&subject.case(&card, seed))? {
            good &= finding.outcome.is_ok();
            match finding.outcome {
                Ok(difference) => println!("ok   {}: {difference:.1e}", finding.name),
                Err(wrong) => println!("FAIL {}: {wrong}", finding.name),
            }
        }
    }
    println!("operations: {:.0} s", began.elapsed().as_secs_f64());
    Ok(good)
}

/// Whole models, told the same tokens on the CPU and on the card.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn check_models(chosen: &Chosen) -> Result<bool> {
    let random = [("qwen2", qwen2(2)), ("qwen3", qwen3()), ("qwen", qwen())];
    let folders = random.map(|(name, config)| (name, folder(&config)));
    let mut failed = false;
    println!("model, weights, sequences: draws, worst and mean difference of log-probabilities, disagreements");
    for quantization in &chosen.quantizations {
        let dummy = LoadFormat::Dummy { seed: 7 };
        let mut models = vec![("embedded", embedded(), LoadFormat::Auto, 2048)];
        for (name, folder) in &folders {
            let folder = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}"))?;
            models.push((name, ModelFiles::folder(folder.path()), dummy, 1003));
        }
        for (name, files, format, vocab) in models {
            let options = LoadOptions { format, quantization: *quantization, ..LoadOptions::default() };
            for lengths in scripts() {
                let found = agreement(&files, options, vocab, &lengths)?;
                let good = found.worst < TOLERANCE && found.mean < MEAN && found.disagreements == 0;
                failed |= !good;
                println!(
                    "{} {name}, {quantization}, {}: {}, {:.3}, {:.4}, {}",
                    if good { "ok  " } else { "FAIL" },
                    lengths.len(),
                    found.draws,
                    found.worst,
                    found.mean,
                    found.disagreements
                );
            }
        }
    }
    Ok(!failed)
}

/// Sequences, and the runs that they are computed in.
type Lengths = Vec<(usize, &'static [usize])>;

fn scripts() -> Vec<Lengths> {
    let rows = [1, 2, 5, 8, 12, 16, 30, 60, 120, 250].map(|rows| vec![(20, &[12][..]); rows]);
    let mixed: Lengths = vec![(40, &[33]), (9, &[4, 4]), (70, &[1, 1, 60]), (20, &[16, 1, 2])];
    let long: Lengths = vec![(1400, &[700, 1, 600, 80]), (600, &[500, 90]), (30, &[3])];
    rows.into_iter().chain([mixed, long]).collect()
}

fn agreement(files: &ModelFiles, options: LoadOptions, vocab: u32, lengths: &Lengths) -> Result<Agreement> {
    let script = Script::random(vocab, lengths, 16, 3);
    let rows = lengths.len() as u32;
    let limits = StepLimits { blocks: script.blocks(), block_tokens: 16, max_tokens: 4096, max_rows: rows };
    let mut cpu = CpuExecutor::new(load(files, options, Box::new(Silent))?, limits, clock())?;
    let mut gpu = on_gpu(files, options, limits)?;
    Ok(Agreement::of(&script, &mut cpu, &mut gpu, TOLERANCE)?)
}

/// The mean step by the wall and by the device, for each number of sequences.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn decode(chosen: &Chosen) -> Result<()> {
    let folder = folder(&qwen2_14b())?;
    println!("weights, sequences: step by the wall, by the device, host's share; prompts of {PROMPT}, ms");
    for quantization in &chosen.quantizations {
        let most = chosen.sequences.iter().copied().max().context("a number of sequences")?;
        let mut gpu = dummy(&folder, *quantization, most, 8192)?;
        for sequences in &chosen.sequences {
            let generation = generation(*sequences, PROMPT, ANSWER, 8192);
            let timed = (0..2).map(|_| generation.run(&mut gpu)).collect::<Result<Vec<_>, _>>()?;
            let best = timed.iter().min_by_key(|timed| timed.step()).context("two runs")?;
            let (step, device) = (milliseconds(best.step()), milliseconds(best.device_step()));
            println!("{quantization}, {sequences}: {step:.3}, {device:.3}, {:.1} %", (1.0 - device / step) * 100.0);
        }
    }
    Ok(())
}

/// Prompts of 2,048 tokens, in steps of as many tokens as there are, and in steps of 2,048.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn prefill(chosen: &Chosen) -> Result<()> {
    let folder = folder(&qwen2_14b())?;
    println!("weights, prompts of 2048, tokens a step: ms, tokens per second");
    for quantization in &chosen.quantizations {
        let mut gpu = dummy(&folder, *quantization, 8, 16_384)?;
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

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn dummy(folder: &TempDir, quantization: Quantization, sequences: u32, tokens: u32) -> Result<GpuExecutor<CudaDevice>> {
    let began = Instant::now();
    let files = ModelFiles::folder(folder.path());
    let options = LoadOptions { format: LoadFormat::Dummy { seed: 7 }, quantization, ..LoadOptions::default() };
    let blocks = generation(sequences, 2048, ANSWER, tokens).blocks();
    let limits = StepLimits { blocks, block_tokens: 16, max_tokens: tokens, max_rows: sequences };
    let gpu = on_gpu(&files, options, limits)?;
    println!("{quantization}: loaded in {:.1} s", began.elapsed().as_secs_f64());
    Ok(gpu)
}

fn generation(sequences: u32, prompt: u32, answer: u32, max_tokens: u32) -> Generation {
    Generation { sequences, prompt, answer, max_tokens, vocab: 150_000 }
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn folder(config: &Value) -> Result<TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("config.json"), config.to_string())?;
    Ok(folder)
}

fn qwen2_14b() -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 152_064, "hidden_size": 5120, "num_hidden_layers": 48,
        "num_attention_heads": 40, "num_key_value_heads": 8, "intermediate_size": 13_824, "hidden_act": "silu",
        "tie_word_embeddings": false, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 32_768,
        "torch_dtype": "bfloat16",
    })
}

fn qwen2(layers: u32) -> Value {
    json!({
        "architectures": ["Qwen2ForCausalLM"], "vocab_size": 1003, "hidden_size": 896, "num_hidden_layers": layers,
        "num_attention_heads": 14, "num_key_value_heads": 2, "intermediate_size": 1280, "hidden_act": "silu",
        "tie_word_embeddings": true, "rms_norm_eps": 1e-6, "rope_theta": 1e6, "max_position_embeddings": 4096,
        "torch_dtype": "bfloat16",
    })
}

fn qwen3() -> Value {
    json!({
        "architectures": ["Qwen3ForCausalLM"], "vocab_size": 1003, "hidden_size": 1024, "num_hidden_layers": 2,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 128, "intermediate_size": 1536,
        "hidden_act": "silu", "tie_word_embeddings": false, "attention_bias": false, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "max_position_embeddings": 4096, "torch_dtype": "bfloat16",
    })
}

/// The first series, beyond its native context wherever a script is longer than that.
fn qwen() -> Value {
    json!({
        "architectures": ["QWenLMHeadModel"], "vocab_size": 1003, "hidden_size": 512, "num_hidden_layers": 2,
        "num_attention_heads": 4, "kv_channels": 128, "intermediate_size": 1536, "layer_norm_epsilon": 1e-6,
        "rotary_emb_base": 10000, "rotary_pct": 1.0, "seq_length": 512, "max_position_embeddings": 2048,
        "tie_word_embeddings": false, "use_dynamic_ntk": true, "use_logn_attn": true, "no_bias": true, "bf16": true,
    })
}
