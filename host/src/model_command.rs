//! `sluice model`: looks at a model's files without serving them, and measures what quantisation costs.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use sluice_checkpoint::{Form, ModelFiles, Quantization};

use crate::cli::ModelCommand;
use crate::config::ModelSource;
use crate::weight_sizes::WeightSizes;
use crate::{model, perplexity_command, text};

/// Of what is wrong or unused, so many lines are shown: one wrong dimension makes hundreds of tensors wrong.
const LINES: usize = 10;

/// What the command says when it has worked, and what it exits with.
pub(crate) fn run(command: ModelCommand) -> Result<(String, ExitCode)> {
    match command {
        ModelCommand::Inspect { model } => inspect(&model::find(&ModelSource::typed(model))?),
        ModelCommand::Perplexity(arguments) => Ok((perplexity_command::run(&arguments)?, ExitCode::SUCCESS)),
    }
}

/// Exits with 1 if the model could not be served.
fn inspect(files: &ModelFiles) -> Result<(String, ExitCode)> {
    let sizes = WeightSizes::read(files).context("the model cannot be served")?;
    let mut report = Report::default();
    describe(files, &sizes, &mut report);
    for (form, bytes) in sizes.stored() {
        report.line("stored", &format!("{} in {form}", size(bytes)));
    }
    if sizes.wrong.is_empty() && sizes.is_plain() {
        memory(&sizes, &mut report);
    }
    let mut wrong = sizes.wrong.clone();
    match text::read(files) {
        Ok(text) => report.line("tokenizer", &format!("{} tokens", text.vocabulary())),
        Err(error) => wrong.push(error.to_string()),
    }
    report.list("wrong", &wrong);
    report.list("unused", &sizes.unused);
    report.line("verdict", if wrong.is_empty() { "can be served" } else { "cannot be served: see what is wrong" });
    Ok((report.0, ExitCode::from(u8::from(!wrong.is_empty()))))
}

fn describe(files: &ModelFiles, sizes: &WeightSizes, report: &mut Report) {
    let blueprint = &sizes.blueprint;
    let shape = &blueprint.dimensions;
    let parameters: u64 = blueprint.tensors().map(|tensor| tensor.parameters()).sum();
    report.line("model", &format!("{} ({})", files.name(), blueprint.architecture));
    report.line("parameters", &format!("{:.2} M", parameters as f64 / 1e6));
    let heads = format!("{} query and {} key/value heads of {}", shape.heads, shape.kv_heads, shape.head_dim);
    report.line("layers", &format!("{}, hidden {}, {heads}, feed-forward {}", shape.layers, shape.hidden, shape.ffn));
    let head = if blueprint.tied { "the head is tied to it" } else { "a head of its own" };
    report.line("embedding", &format!("{} rows, {head}", shape.vocab));
    report.line("context", &format!("{} tokens", blueprint.max_model_len));
    let numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim;
    report.line("KV cache", &format!("{} a token in f32, {} in 16 bits", binary(4 * numbers), binary(2 * numbers)));
}

fn memory(sizes: &WeightSizes, report: &mut Report) {
    for form in [Form::F32, Form::Bf16] {
        report.line("memory", &format!("{} in {form}", size(sizes.converted(form))));
    }
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        report.line("memory", &format!("{} quantised to {quantization}", size(sizes.quantised(quantization))));
    }
}

/// Names and values, a line each.
#[derive(Default)]
struct Report(String);

impl Report {
    fn line(&mut self, name: &str, value: &str) {
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name:<12}{value}");
    }

    fn list(&mut self, name: &str, values: &[String]) {
        for value in values.iter().take(LINES) {
            self.line(name, value);
        }
        if let Some(more @ 1..) = values.len().checked_sub(LINES) {
            self.line(name, &format!("and {more} more"));
        }
    }
}

/// As disks and files are measured.
fn size(bytes: u64) -> String {
    if bytes < 1_000_000_000 {
        format!("{:.1} MB", bytes as f64 / 1e6)
    } else {
        format!("{:.2} GB", bytes as f64 / 1e9)
    }
}

fn binary(bytes: usize) -> String {
    format!("{:.1} KiB", bytes as f64 / 1024.0)
}
