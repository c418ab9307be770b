//! `sluice model`: looks at a model's files without serving them, and measures what quantisation costs.

use std::fmt::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use sluice_checkpoint::{Dtype, ModelFiles, Quantization};

use crate::cli::ModelCommand;
use crate::config::ModelSource;
use crate::output::{say, with_causes};
use crate::weight_sizes::WeightSizes;
use crate::{model, perplexity_command, text};

/// Of what is wrong or unused, so many lines are shown: one wrong dimension makes hundreds of tensors wrong.
const LINES: usize = 10;

/// What the program exits with.
pub(crate) fn run(command: ModelCommand) -> Result<ExitCode> {
    match command {
        ModelCommand::Inspect { model } => {
            let (report, code) = inspect(&model::find(&ModelSource::typed(model))?)?;
            say(report.trim_end())?;
            Ok(code)
        }
        ModelCommand::Perplexity(arguments) => {
            perplexity_command::run(&arguments)?;
            Ok(ExitCode::SUCCESS)
        }
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
    if sizes.is_plain() {
        memory(&sizes, &mut report);
    }
    let mut wrong = sizes.wrong.clone();
    match text::load(files, sizes.blueprint.dimensions.vocab) {
        Ok(text) => report.line("tokenizer", &format!("{} tokens", text.model.vocabulary())),
        Err(error) => wrong.push(with_causes(&error)),
    }
    report.list("wrong", &wrong);
    report.list("unused", &sizes.unused);
    report.line("verdict", if wrong.is_empty() { "can be served" } else { "cannot be served: see what is wrong" });
    Ok((report.0, ExitCode::from(u8::from(!wrong.is_empty()))))
}

fn describe(files: &ModelFiles, sizes: &WeightSizes, report: &mut Report) {
    let blueprint = &sizes.blueprint;
    let shape = &blueprint.dimensions;
    report.line("model", &format!("{} ({})", files.name(), blueprint.architecture));
    report.line("parameters", &format!("{:.2} M", sizes.parameters() as f64 / 1e6));
    let heads = format!("{} query and {} key/value heads of {}", shape.heads, shape.kv_heads, shape.head_dim);
    report.line("layers", &format!("{}, hidden {}, {heads}, feed-forward {}", shape.layers, shape.hidden, shape.ffn));
    let head = if blueprint.tied { "the head is tied to it" } else { "a head of its own" };
    report.line("embedding", &format!("{} rows, {head}", shape.vocab));
    report.line("context", &format!("{} tokens", blueprint.max_model_len));
    let numbers = 2 * shape.layers * shape.kv_heads * shape.head_dim;
    let kib = numbers as f64 * size_of::<f32>() as f64 / 1024.0;
    report.line("KV cache", &format!("{kib:.1} KiB a token in f32"));
}

fn memory(sizes: &WeightSizes, report: &mut Report) {
    for dtype in [Dtype::F32, Dtype::Bf16] {
        report.line("memory", &format!("{} in {dtype}", size(sizes.held(dtype, Quantization::None))));
    }
    for quantization in [Quantization::Int8, Quantization::Nf4] {
        let bytes = sizes.held(Dtype::Auto, quantization);
        report.line("memory", &format!("{} quantised to {quantization}", size(bytes)));
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
