//! `sluice model perplexity`: what each quantisation costs in foretelling a text.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use sluice_checkpoint::{LoadOptions, ModelFiles, Quantization};
use sluice_model::{Perplexity, Scorer};
use sluice_text::{ChatRequest, Text};

use crate::cli::PerplexityArguments;
use crate::config::ModelSource;
use crate::loading_bar::LoadingBar;
use crate::weight_sizes::WeightSizes;
use crate::{model, text};

/// A text to score is read whole.
const TEXT_BYTES: u64 = 64 << 20;
/// Tokens of one text.
const TOKENS: u32 = u32::MAX;

pub(crate) fn run(arguments: &PerplexityArguments) -> Result<String> {
    let files = model::find(&ModelSource::typed(arguments.model.clone()))?;
    let text = text::read(&files)?;
    let texts = tokenise(&text, &arguments.text)?;
    let all = [Quantization::None, Quantization::Int8, Quantization::Nf4];
    let quantizations = if arguments.quantization.is_empty() { &all[..] } else { &arguments.quantization };
    let mut table = Table::default();
    for quantization in quantizations {
        table.add(*quantization, measure(&files, *quantization, &texts, arguments.window)?);
    }
    Ok(table.text)
}

/// A Markdown table, each row also relative to the first.
#[derive(Default)]
struct Table {
    text: String,
    first: Option<f64>,
}

struct Measured {
    perplexity: Perplexity,
    weight_bytes: u64,
}

impl Table {
    fn add(&mut self, quantization: Quantization, measured: Measured) {
        let Measured { perplexity, weight_bytes } = measured;
        let value = perplexity.value();
        if self.first.is_none() {
            let _ = writeln!(self.text, "| quantization | weights | perplexity of {} tokens | |", perplexity.tokens);
            self.text.push_str("|---|---|---|---|\n");
        }
        let change = (value / *self.first.get_or_insert(value) - 1.0) * 100.0;
        let megabytes = weight_bytes as f64 / 1e6;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "| {quantization} | {megabytes:.2} MB | {value:.4} | {change:+.2} % |");
    }
}

fn measure(files: &ModelFiles, quantization: Quantization, texts: &[Vec<u32>], window: u32) -> Result<Measured> {
    let options = LoadOptions { quantization, ..LoadOptions::default() };
    let model = sluice_model::load(files, options, Box::new(LoadingBar::default()))?;
    let weight_bytes = WeightSizes::read(files)?.quantised(quantization);
    let mut scorer = Scorer::new(model, window)?;
    let mut perplexity = Perplexity::default();
    for tokens in texts {
        scorer.score(tokens, &mut perplexity)?;
    }
    Ok(Measured { perplexity, weight_bytes })
}

/// One text of a plain file, or one of each chat.
fn tokenise(text: &Text, path: &Path) -> Result<Vec<Vec<u32>>> {
    let origin = || path.display().to_string();
    let bytes = fs::metadata(path).with_context(origin)?.len();
    ensure!(bytes <= TEXT_BYTES, "{} has {bytes} bytes, at most {TEXT_BYTES} are scored: cut it", origin());
    let content = fs::read_to_string(path).with_context(origin)?;
    if path.extension().is_none_or(|extension| extension != "jsonl") {
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
