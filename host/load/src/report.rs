//! Everything that is known after a load: what is written to a file, and what the table shows a part of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::arguments::BenchArguments;
use crate::goodput::{Goal, Goodput};
use crate::prompt::Material;
use crate::quantiles::Quantiles;
use crate::record::{Record, Row};
use crate::server::ServerFacts;
use crate::totals::{Measured, Totals};

/// Raised when a field changes its meaning or goes.
const FORMAT_VERSION: u32 = 2;

/// The fields are described in this crate's README.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'a> {
    pub(crate) format_version: u32,
    pub(crate) tool: &'static str,
    pub(crate) tool_version: &'static str,
    /// Seconds since 1970.
    pub(crate) started_at: u64,
    pub(crate) server: &'a ServerFacts,
    /// What was typed and what was taken for the rest, less keys and headers.
    pub(crate) configuration: &'a BenchArguments,
    /// Null where prompts came from a file.
    pub(crate) prompts: Option<Material>,
    pub(crate) totals: Totals,
    pub(crate) prompt_lengths: Option<PromptLengths>,
    pub(crate) latency: Latency,
    pub(crate) goodput: Option<Goodput>,
    pub(crate) errors: BTreeMap<String, ErrorCount>,
    pub(crate) generator: Generator,
    pub(crate) warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) requests: Option<Vec<Row>>,
}

impl<'a> Report<'a> {
    /// Without warnings, which are about all the rest.
    pub(crate) fn of(facts: &Facts<'a>, measured: &Measured<'_>, beats: &[Duration]) -> Self {
        let arguments = facts.configuration;
        let goals: &[Goal] = &arguments.report.goodput;
        Self {
            format_version: FORMAT_VERSION,
            tool: "sluice bench",
            tool_version: env!("CARGO_PKG_VERSION"),
            started_at: facts.started_at,
            server: facts.server,
            configuration: arguments,
            prompts: facts.prompts,
            totals: Totals::of(measured, facts.open_loop),
            prompt_lengths: PromptLengths::of(measured),
            latency: Latency::of(measured),
            goodput: (!goals.is_empty()).then(|| Goodput::of(goals, measured.records, measured.window.length())),
            errors: errors(measured.records),
            generator: Generator {
                lateness_ms: Quantiles::of(measured.records.iter().map(Record::lateness)),
                beat_ms: Quantiles::of(beats.iter().copied()),
            },
            warnings: Vec::new(),
            requests: arguments.report.save_detailed.then(|| measured.records.iter().map(Record::row).collect()),
        }
    }
}

/// What is known before the load.
pub(crate) struct Facts<'a> {
    pub(crate) started_at: u64,
    pub(crate) server: &'a ServerFacts,
    pub(crate) configuration: &'a BenchArguments,
    pub(crate) prompts: Option<Material>,
    pub(crate) open_loop: bool,
}

/// In milliseconds, of completed requests, from when they were planned. Null where nothing was streamed.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Latency {
    pub(crate) ttft_ms: Option<Quantiles>,
    pub(crate) tpot_ms: Option<Quantiles>,
    /// Each gap of each answer is one sample.
    pub(crate) gap_ms: Option<Quantiles>,
    pub(crate) e2el_ms: Option<Quantiles>,
    /// Of all requests: between their plan and their sending.
    pub(crate) send_lag_ms: Option<Quantiles>,
    /// Of it, what a cap on concurrency held back.
    pub(crate) held_ms: Option<Quantiles>,
}

impl Latency {
    pub(crate) fn of(measured: &Measured<'_>) -> Self {
        let succeeded = measured.succeeded();
        let all = measured.records.iter();
        Self {
            ttft_ms: Quantiles::of(succeeded.clone().filter_map(Record::ttft)),
            tpot_ms: Quantiles::of(succeeded.clone().filter_map(Record::tpot)),
            gap_ms: Quantiles::of(succeeded.clone().flat_map(|record| record.answer.gaps.iter().copied())),
            e2el_ms: Quantiles::of(succeeded.map(Record::end_to_end)),
            send_lag_ms: Quantiles::of(all.clone().map(Record::send_lag)),
            held_ms: Quantiles::of(all.map(|record| record.held)),
        }
    }
}

/// What made-up prompts were to be long, and what the server counted. Means over completed requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct PromptLengths {
    pub(crate) asked_mean: f64,
    pub(crate) counted_mean: f64,
    pub(crate) furthest_apart: u64,
}

impl PromptLengths {
    /// None where nobody asked for lengths, or nobody counted.
    fn of(measured: &Measured<'_>) -> Option<Self> {
        let pairs = measured
            .succeeded()
            .filter_map(|record| Some((u64::from(record.asked.input_tokens?), record.answer.usage?.prompt_tokens)));
        let (mut count, mut asked, mut counted, mut furthest_apart) = (0_u64, 0, 0, 0);
        for (wanted, got) in pairs {
            count += 1;
            asked += wanted;
            counted += got;
            furthest_apart = furthest_apart.max(wanted.abs_diff(got));
        }
        let mean = |sum: u64| sum as f64 / count as f64;
        (count > 0).then(|| Self { asked_mean: mean(asked), counted_mean: mean(counted), furthest_apart })
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ErrorCount {
    pub(crate) count: u64,
    /// What the first of them said.
    pub(crate) example: String,
}

fn errors(records: &[Record]) -> BTreeMap<String, ErrorCount> {
    let mut errors = BTreeMap::new();
    let ended = records.iter().filter(|record| !record.is_cut_short());
    for failure in ended.filter_map(|record| record.answer.failure.as_ref()) {
        let first = || ErrorCount { count: 0, example: failure.to_string() };
        errors.entry(failure.kind()).or_insert_with(first).count += 1;
    }
    errors
}

/// How well the generator kept its own time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Generator {
    /// Between a request's plan and its sending, less what the cap held it back.
    pub(crate) lateness_ms: Option<Quantiles>,
    /// How late a task of its own was that wanted to run every 20 ms. Timestamps are about as late.
    pub(crate) beat_ms: Option<Quantiles>,
}
