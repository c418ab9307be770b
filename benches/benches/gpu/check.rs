//! Whether a card computes what the CPU does: operation by operation, then whole models.

use std::time::{Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};
use sluice_benches::operations::{Checker, MEMORY, Subject, subjects};
use sluice_checkpoint::{LoadFormat, LoadOptions, ModelFiles, Quantization, Silent};
use sluice_kernels::{Card, Device};
use sluice_model::gpu::HostDevice;
use sluice_model::gpu::agreement::{Agreement, Script};
use sluice_model::{CpuExecutor, StepLimits, embedded, load};
use tempfile::TempDir;

use crate::configurations::{folder, qwen, qwen2, qwen3};
use crate::{Chosen, clock};

/// A model, and what rounding to bf16 may make of its log-probabilities. A trained one is surer than random ones, and its
/// logits lie further apart: of the 50,000 alternatives of the longest script, plain arithmetic that rounds where the card
/// does puts the worst 0.56 from f32's, and an H200 0.66.
struct Subjected {
    name: &'static str,
    files: ModelFiles,
    format: LoadFormat,
    vocab: u32,
    /// Tokens of the longest sequence.
    longest: usize,
    /// Of any of a position's twenty alternatives, and of all in the mean.
    worst: f32,
    mean: f32,
    /// The most likely token is the same wherever the next one is further behind than this.
    decided: f32,
    /// Random weights are there as long as their folder.
    _folder: Option<TempDir>,
}

/// Sequences, and the runs that they are computed in.
type Lengths = Vec<(usize, &'static [usize])>;

const BLOCK_TOKENS: u32 = 16;

/// Operations, unless only models are meant, and models, unless only some operations are.
pub(crate) fn run(words: &[String], chosen: &Chosen) -> Result<()> {
    let words = words.iter().map(String::as_str).filter(|word| word.parse::<u32>().is_err());
    let (seeds, words): (Vec<&str>, Vec<&str>) = words.partition(|word| word.starts_with("seed="));
    let seed = match seeds.first() {
        Some(seed) => seed["seed=".len()..].parse().with_context(|| format!("`{seed}` is no number"))?,
        None => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_nanos() as u64,
    };
    let only_operations = words.iter().any(|word| *word != "models" && word.parse::<Quantization>().is_err());
    let operations = words.contains(&"models") || check_operations(&words, seed, chosen)?;
    let models = only_operations || check_models(chosen)?;
    ensure!(operations && models, "the card does not compute what the CPU does");
    Ok(())
}

/// Each on the card and on the host. Goes on after failures.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn check_operations(words: &[&str], seed: u64, chosen: &Chosen) -> Result<bool> {
    let gpu = chosen.open()?;
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

/// Each model in each form, told the same tokens on the CPU and on the card.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn check_models(chosen: &Chosen) -> Result<bool> {
    let mut good = true;
    println!("model, weights, sequences: positions, worst and mean difference of log-probabilities, disagreements");
    for model in models()? {
        for quantization in &chosen.quantizations {
            good &= check_model(&model, *quantization, chosen)?;
        }
    }
    Ok(good)
}

/// One executor for all scripts, since loading takes longer than they do.
#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn check_model(model: &Subjected, quantization: Quantization, chosen: &Chosen) -> Result<bool> {
    let scripts: Vec<Script> =
        scripts(model.longest).iter().map(|lengths| Script::random(model.vocab, lengths, BLOCK_TOKENS, 3)).collect();
    let options = LoadOptions { format: model.format, quantization, ..LoadOptions::default() };
    let most = |count: fn(&Script) -> u32| scripts.iter().map(count).max().unwrap_or(0);
    let limits = StepLimits {
        blocks: most(Script::blocks),
        block_tokens: BLOCK_TOKENS,
        max_tokens: 4096,
        max_rows: most(|script| script.sequences.len() as u32),
    };
    let mut cpu = CpuExecutor::new(load(&model.files, options, Box::new(Silent))?, limits, clock())?;
    let mut gpu = chosen.load(&model.files, options, limits)?;
    let mut all = true;
    for script in &scripts {
        let found = Agreement::of(script, &mut cpu, &mut gpu, model.decided)?;
        let close = found.worst < model.worst && found.mean < model.mean && found.disagreements == 0;
        let good = close && found.positions >= script.positions();
        all &= good;
        let (sign, sequences) = (if good { "ok  " } else { "FAIL" }, script.sequences.len());
        let Agreement { positions, worst, mean, disagreements } = found;
        let name = model.name;
        println!("{sign} {name}, {quantization}, {sequences}: {positions}, {worst:.3}, {mean:.4}, {disagreements}");
    }
    Ok(all)
}

fn models() -> Result<Vec<Subjected>> {
    let (name, files, format) = ("embedded", embedded(), LoadFormat::Auto);
    let (worst, mean, decided) = (0.8, 0.05, 0.5);
    let mut models =
        vec![Subjected { name, files, format, vocab: 2048, longest: 1900, worst, mean, decided, _folder: None }];
    for (name, config) in [("qwen2", qwen2()), ("qwen3", qwen3()), ("qwen", qwen())] {
        let folder = folder(&config)?;
        let (files, format) = (ModelFiles::folder(folder.path()), LoadFormat::Dummy { seed: 7 });
        let (worst, mean, decided, _folder) = (0.08, 0.012, 0.08, Some(folder));
        models.push(Subjected { name, files, format, vocab: 1003, longest: 2300, worst, mean, decided, _folder });
    }
    Ok(models)
}

/// Each number of rows that has kernels of its own; prompts beside answers; contexts that take other ways, and for the
/// first series lie beyond what it was made for.
fn scripts(longest: usize) -> Vec<Lengths> {
    let rows = [1, 2, 5, 8, 12, 16, 30, 60, 120, 250].map(|rows| vec![(20, &[12][..]); rows]);
    let mixed: Lengths = vec![(40, &[33]), (9, &[4, 4]), (70, &[1, 1, 60]), (20, &[16, 1, 2])];
    let long: Lengths = vec![(longest, &[700, 1, 1000, 170]), (600, &[500, 90]), (30, &[3])];
    rows.into_iter().chain([mixed, long]).collect()
}
