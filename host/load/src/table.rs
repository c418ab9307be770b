//! What a run came to, for people.

use std::fmt::Write as _;

use crate::quantiles::Quantiles;
use crate::report::Report;

/// Of the first column.
const LABEL: usize = 13;

pub(crate) fn table(report: &Report<'_>, url: &str) -> String {
    let totals = &report.totals;
    let mut lines = Lines::default();
    lines.add("target", format!("{url}, model {}", report.server.model));
    lines.add(
        "requests",
        format!(
            "{} offered in {:.2} s: {} completed, {} failed{}{}",
            totals.offered,
            totals.duration_s,
            totals.completed,
            totals.failed,
            some(totals.cut_short, "cut short"),
            some(totals.left_out, "left out as warm-up"),
        ),
    );
    let planned = totals.planned_rate.map_or_else(String::new, |rate| format!(", {rate:.3}/s planned"));
    lines.add("rate", format!("{:.3}/s completed{planned}", totals.request_throughput));
    lines.add(
        "tokens in",
        format!("{} ({:.1}/s), {} of them cached", totals.input_tokens, totals.input_throughput, totals.cached_tokens),
    );
    lines.add("tokens out", format!("{} ({:.1}/s)", totals.output_tokens, totals.output_throughput));
    lines.add("in flight", format!("{:.2} on average, {} at most", totals.mean_concurrency, totals.peak_concurrency));
    if let Some(lengths) = report.prompt_lengths {
        let (asked, counted) = (lengths.asked_mean, lengths.counted_mean);
        lines.add("prompts", format!("{asked:.1} tokens asked for, {counted:.1} counted by the server (means)"));
    }
    if let Some(goodput) = &report.goodput {
        let goals: Vec<String> = goodput.goals.iter().map(ToString::to_string).collect();
        let share = goodput.ratio * 100.0;
        let (within, offered, undecided) = (goodput.within, goodput.offered, some(goodput.undecided, "undecided"));
        lines.add(
            "goodput",
            format!(
                "{share:.2} % ({within} of {offered}{undecided}), {:.3}/s: {}",
                goodput.per_second,
                goals.join(", ")
            ),
        );
    }
    latencies(&mut lines, report);
    for (kind, error) in &report.errors {
        lines.add("failed", format!("{} × {kind}: {}", error.count, error.example));
    }
    for warning in &report.warnings {
        lines.add("note", warning.clone());
    }
    lines.0
}

fn latencies(lines: &mut Lines, report: &Report<'_>) {
    let latency = &report.latency;
    let names = ["mean", "p50", "p90", "p95", "p99", "max"].map(|name| format!("{name:>10}"));
    lines.add("", String::new());
    lines.add("milliseconds", names.concat());
    let rows = [
        ("ttft", latency.ttft_ms),
        ("tpot", latency.tpot_ms),
        ("gap", latency.gap_ms),
        ("e2el", latency.e2el_ms),
        ("send lag", latency.send_lag_ms),
    ];
    for (name, quantiles) in rows {
        if let Some(Quantiles { mean, p50, p90, p95, p99, max, .. }) = quantiles {
            lines.add(name, [mean, p50, p90, p95, p99, max].map(|value| format!("{value:>10.2}")).concat());
        }
    }
    lines.add("", String::new());
}

fn some(count: u64, what: &str) -> String {
    if count == 0 { String::new() } else { format!(", {count} {what}") }
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    fn add(&mut self, label: &str, text: String) {
        let line = format!("{label:<LABEL$}{text}");
        let _ = writeln!(self.0, "{}", line.trim_end());
    }
}
