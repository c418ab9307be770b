//! What a load came to: counts, rates, tokens.

use std::time::Duration;

use serde::Serialize;

use crate::goodput::per_second;
use crate::record::Record;
use crate::window::Window;

/// What was measured, and over which time.
pub(crate) struct Measured<'r> {
    /// Those that were planned after the warm-up, in the order they were planned in.
    pub(crate) records: &'r [Record],
    /// All of them.
    pub(crate) all: &'r [Record],
    /// From the end of the warm-up to the last answer's end.
    pub(crate) window: Window,
    /// The time in which requests were sent, where it ended the sending.
    sending: Option<Duration>,
}

impl<'r> Measured<'r> {
    /// Of records in the order of their plan.
    pub(crate) fn after(warm_up: Duration, all: &'r [Record], sending: Option<Duration>) -> Self {
        let records = &all[all.partition_point(|record| record.planned < warm_up)..];
        let to = records.iter().map(Record::ended).max().unwrap_or(warm_up);
        Self { records, all, window: Window { from: warm_up, to }, sending }
    }

    pub(crate) fn succeeded(&self) -> impl Iterator<Item = &'r Record> + Clone {
        self.records.iter().filter(|record| record.succeeded())
    }

    /// Requests lie one gap less apart than they are many. A time that was set has room for the last one's gap too. None
    /// where all came at once.
    fn planned_rate(&self) -> Option<f64> {
        let (first, last) = (self.records.first()?.planned, self.records.last()?.planned);
        let count = self.records.len() as u64;
        let rate = match self.sending {
            Some(sending) => per_second(count, sending.saturating_sub(self.window.from)),
            None => per_second(count - 1, last.saturating_sub(first)),
        };
        (first < last).then_some(rate)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Totals {
    /// Requests whose time had come: completed, failed, and cut short.
    pub(crate) offered: u64,
    pub(crate) completed: u64,
    pub(crate) failed: u64,
    /// In flight or held back when the user ended the load.
    pub(crate) cut_short: u64,
    /// Sent in the warm-up's seconds.
    pub(crate) left_out: u64,
    pub(crate) duration_s: f64,
    /// What the plan offered. Null in a closed loop, and where all came at once.
    pub(crate) planned_rate: Option<f64>,
    pub(crate) request_throughput: f64,
    /// Of completed requests, as the server counts them, else as they were asked for.
    pub(crate) input_tokens: u64,
    pub(crate) cached_tokens: u64,
    pub(crate) output_tokens: u64,
    pub(crate) output_counted_by: OutputCount,
    pub(crate) tokens_per_chunk: Option<f64>,
    /// This and what follows is of all requests within `duration_s`, those of the warm-up too that were not over.
    pub(crate) input_throughput: f64,
    pub(crate) output_throughput: f64,
    pub(crate) peak_concurrency: u64,
    pub(crate) mean_concurrency: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OutputCount {
    /// `usage.completion_tokens`
    Usage,
    /// A chunk with output is taken for one token.
    Chunks,
    /// Some answers had a usage and some had none.
    Both,
}

impl Totals {
    pub(crate) fn of(measured: &Measured<'_>, open_loop: bool) -> Self {
        let (records, all, window) = (measured.records, measured.all, measured.window);
        let sum = |count: fn(&Record) -> u64| measured.succeeded().map(count).sum::<u64>();
        let (offered, completed) = (records.len() as u64, measured.succeeded().count() as u64);
        let cut_short = records.iter().filter(|record| record.is_cut_short()).count() as u64;
        let (input_tokens, output_tokens) = (sum(Record::input_tokens), sum(Record::output_tokens));
        let chunks = sum(|record| u64::from(record.answer.chunks));
        Self {
            offered,
            completed,
            failed: offered - completed - cut_short,
            cut_short,
            left_out: (all.len() - records.len()) as u64,
            duration_s: window.length().as_secs_f64(),
            planned_rate: measured.planned_rate().filter(|_| open_loop),
            request_throughput: per_second(completed, window.length()),
            input_tokens,
            cached_tokens: sum(|record| record.answer.usage.and_then(|usage| usage.cached_tokens()).unwrap_or(0)),
            output_tokens,
            output_counted_by: OutputCount::of(measured.succeeded()),
            tokens_per_chunk: (chunks > 0).then(|| output_tokens as f64 / chunks as f64),
            input_throughput: window.input_throughput(all),
            output_throughput: window.output_throughput(all),
            peak_concurrency: window.peak(all),
            mean_concurrency: window.mean(all),
        }
    }
}

impl OutputCount {
    fn of<'r>(mut records: impl Iterator<Item = &'r Record> + Clone) -> Self {
        let by_usage = |record: &Record| record.answer.usage.is_some();
        match (records.clone().any(by_usage), records.any(|record| !by_usage(record))) {
            (true, true) => Self::Both,
            (false, true) => Self::Chunks,
            (_, false) => Self::Usage,
        }
    }
}
