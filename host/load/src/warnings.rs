//! What a reader of the figures has to know to read them rightly.

use crate::calibration::Counter;
use crate::prompt::Material;
use crate::quantiles::Quantiles;
use crate::record::{Record, milliseconds};
use crate::report::Report;
use crate::totals::{Measured, OutputCount, Totals};

/// Of the generator's own delay.
const LATE_MS: f64 = 10.0;
/// Of a length that a server counted, from the one that was asked for.
const FAR: f64 = 0.05;
/// Of prompts that should have nothing in common: short words fall together by chance.
const FEW: f64 = 0.02;

pub(crate) fn warnings(report: &Report<'_>, measured: &Measured<'_>, stopped: bool) -> Vec<String> {
    let findings = [
        stopped.then(|| {
            "ended before its plan: latencies are of what was over by then, which favours short answers".to_owned()
        }),
        failures(report),
        held(measured),
        late(report),
        counted_by_chunks(report),
        several_tokens_per_chunk(report),
        short_answers(report),
        prompt_lengths(report),
        too_long(report, measured),
        cached(report),
    ];
    findings.into_iter().flatten().collect()
}

fn failures(report: &Report<'_>) -> Option<String> {
    let failed = report.totals.failed;
    (failed > 0).then(|| format!("{failed} requests failed: latencies are of those that did not"))
}

fn held(measured: &Measured<'_>) -> Option<String> {
    let held = measured.records.iter().map(|record| record.held).filter(|held| !held.is_zero());
    let longest = held.clone().max()?;
    Some(format!(
        "the cap on concurrency held {} requests back, {:.0} ms at most: latencies count that time, but the server was \
         offered less than the plan",
        held.count(),
        milliseconds(longest)
    ))
}

fn late(report: &Report<'_>) -> Option<String> {
    let of = |quantiles: Option<Quantiles>| quantiles.map_or(0.0, |quantiles| quantiles.p99);
    let late = of(report.generator.lateness_ms).max(of(report.generator.beat_ms));
    (late > LATE_MS).then(|| {
        format!(
            "the generator itself was late (p99 {late:.1} ms): its machine had too little time for it, and latencies \
             contain that"
        )
    })
}

fn counted_by_chunks(report: &Report<'_>) -> Option<String> {
    let count = report.totals.output_counted_by;
    (count != OutputCount::Usage && report.totals.completed > 0)
        .then(|| "answers came without a usage: each chunk with output was taken for one token".to_owned())
}

fn several_tokens_per_chunk(report: &Report<'_>) -> Option<String> {
    let tokens = report.totals.tokens_per_chunk.filter(|tokens| *tokens > 1.05 && report.latency.gap_ms.is_some())?;
    Some(format!("a chunk carries {tokens:.2} tokens on average: gaps are between chunks, tpot is per token"))
}

fn short_answers(report: &Report<'_>) -> Option<String> {
    let (typed, totals) = (&report.configuration.prompts, &report.totals);
    let wanted = f64::from(typed.output_len) * (1.0 - typed.range_ratio) * totals.completed as f64;
    let fixed = typed.ignore_eos && typed.prompts.is_none() && report.configuration.load.trace.is_none();
    (fixed && (totals.output_tokens as f64) < wanted.floor())
        .then(|| "answers were shorter than asked for in spite of --ignore-eos".to_owned())
}

fn prompt_lengths(report: &Report<'_>) -> Option<String> {
    if let Some(Material::Words(calibration)) = report.prompts
        && calibration.counted_by == Counter::Nobody
    {
        return Some("the server does not say how long a prompt is: a word was taken for a token".to_owned());
    }
    let lengths = report.prompt_lengths?;
    ((lengths.counted_mean / lengths.asked_mean - 1.0).abs() > FAR).then(|| {
        format!(
            "prompts of {:.0} tokens were asked for; the server counted {:.0}",
            lengths.asked_mean, lengths.counted_mean
        )
    })
}

fn too_long(report: &Report<'_>, measured: &Measured<'_>) -> Option<String> {
    let (longest, limit) = (longest(measured)?, report.server.max_model_len?);
    (longest > limit).then(|| {
        format!("a prompt and its answer may be {longest} tokens, and the model's length is {limit}: some cannot fit")
    })
}

fn cached(report: &Report<'_>) -> Option<String> {
    let Totals { cached_tokens, input_tokens, .. } = report.totals;
    let share = cached_tokens as f64 / input_tokens.max(1) as f64;
    let unforeseen = report.prompts.is_some() && report.configuration.prompts.prefix_len == 0 && share > FEW;
    unforeseen.then(|| {
        format!(
            "{:.0} % of the prompts' tokens were in the server's cache, though they share nothing: it may have seen this \
             seed before, and another --seed makes other prompts",
            share * 100.0
        )
    })
}

/// The most tokens that a prompt and its answer may have together.
fn longest(measured: &Measured<'_>) -> Option<u64> {
    let length = |record: &Record| {
        let input = record.answer.usage.map(|usage| usage.prompt_tokens);
        let input = input.or(record.asked.input_tokens.map(u64::from))?;
        Some(input + u64::from(record.asked.output_tokens?))
    };
    measured.records.iter().filter_map(length).max()
}
