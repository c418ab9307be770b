//! `sluice model perplexity`: what each quantisation costs in foretelling a text.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sluice_checkpoint::{LoadOptions, ModelFiles, Quantization};
use sluice_model::{Perplexity, Scorer};
use sluice_text::{ChatRequest, Text};

use crate::cli::PerplexityArguments;
use crate::config::ModelSource;
use crate::loading_bar::LoadingBar;
use crate::output::say;
use crate::weight_sizes::WeightSizes;
use crate::{model, text};

/// A text to score is read whole.
const TEXT_BYTES: u64 = 64 << 20;
/// Tokens of one text.
const TOKENS: u32 = u32::MAX;

/// Each row is said as soon as it is measured.
pub(crate) fn run(arguments: &PerplexityArguments) -> Result<()> {
    let files = model::find(&ModelSource::typed(arguments.model.clone()))?;
    let sizes = WeightSizes::read(&files)?;
    let texts = tokenise(&text::read(&files)?, &arguments.text)?;
    let nothing = texts.iter().all(|tokens| tokens.len() < 2);
    ensure!(!nothing, "{} holds no token that follows another: there is nothing to foretell", arguments.text.display());
    let all = [Quantization::None, Quantization::Int8, Quantization::Nf4];
    let quantizations = match arguments.quantization.as_slice() {
        [] if sizes.is_plain() => &all,
        [] => &all[..1],
        typed => typed,
    };
    let mut first = None;
    for quantization in quantizations {
        let perplexity = measure(&files, *quantization, &texts, arguments)?;
        let value = perplexity.value().context("nothing was scored")?;
        if first.is_none() {
            say(&format!(
                "| quantization | weights | perplexity of {} tokens | |\n|---|---|---|---|",
                perplexity.tokens
            ))?;
        }
        let change = (value / *first.get_or_insert(value) - 1.0) * 100.0;
        let megabytes = sizes.held(arguments.dtype, *quantization) as f64 / 1e6;
        say(&format!("| {quantization} | {megabytes:.2} MB | {value:.4} | {change:+.2} % |"))?;
    }
    Ok(())
}

fn measure(
    files: &ModelFiles,
    quantization: Quantization,
    texts: &[Vec<u32>],
    arguments: &PerplexityArguments,
) -> Result<Perplexity> {
    let options = LoadOptions { quantization, dtype: arguments.dtype, ..LoadOptions::default() };
    let model = sluice_model::load(files, options, Box::new(LoadingBar::default()))?;
    let mut scorer = Scorer::new(model, arguments.window)?;
    let mut perplexity = Perplexity::default();
    for tokens in texts {
        scorer.score(tokens, &mut perplexity)?;
    }
    Ok(perplexity)
}

/// One text of a plain file, or one of each chat.
fn tokenise(text: &Text, path: &Path) -> Result<Vec<Vec<u32>>> {
    let origin = || path.display().to_string();
    let bytes = fs::metadata(path).with_context(origin)?.len();
    ensure!(bytes <= TEXT_BYTES, "{} has {bytes} bytes, at most {TEXT_BYTES} are scored: cut it", origin());
    let content = fs::read_to_string(path).with_context(origin)?;
    if path.extension().is_none_or(|extension| !extension.eq_ignore_ascii_case("jsonl")) {
        return Ok(vec![text.prompt_for_completion(&content, TOKENS).with_context(origin)?]);
    }
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines.map(|(index, line)| chat(text, line).with_context(|| format!("{}, line {}", origin(), index + 1))).collect()
}

/// A whole conversation, without the beginning of another answer.
fn chat(text: &Text, line: &str) -> Result<Vec<u32>> {
    let request = ChatRequest { add_generation_prompt: false, ..serde_json::from_str(line)? };
    Ok(text.prompt_for_chat(&request, TOKENS, text::now())?)
}
