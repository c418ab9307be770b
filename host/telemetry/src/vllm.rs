//! vLLM's names for the same numbers, with its labels and buckets, so that its dashboards show this server.
//!
//! As in the metrics of its V1 engine (`vllm/v1/metrics/loggers.py`) and in the dashboard that it ships, with two older
//! names that other dashboards use. A replica is an `engine`; what waits for a replica, and what never came to one, is
//! counted with the first.

use std::sync::Arc;

use sluice_core::view::EngineLimits;

use crate::counts::ReplicaCounts;
use crate::distribution::Unit;
use crate::names::{Group, Number, Spread, Value, by_reason};
use crate::page::{Family, Kind, Read, Scalars, labels};

pub(crate) const FIRST_TOKEN: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
pub(crate) const INTER_TOKEN: &[f64] =
    &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
pub(crate) const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
pub(crate) const ITERATION: &[f64] =
    &[1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];

const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

const NUMBERS: &[Number] = &[
    gauge("vllm:num_requests_running", "Requests in the batch.", Value::Sum(|engine| engine.running.get())),
    gauge("vllm:num_requests_waiting", "Requests that wait.", Value::Sum(|engine| engine.waiting.get())),
    gauge("vllm:kv_cache_usage_perc", "KV blocks in use: 1 is all of them.", KV_USAGE),
    gauge("vllm:gpu_cache_usage_perc", "KV blocks in use, by the name before.", KV_USAGE),
    counter(
        "vllm:prefix_cache_queries_total",
        "Tokens the prefix cache was asked for.",
        Value::Sum(|engine| engine.prefix_queried.get()),
    ),
    counter(
        "vllm:prefix_cache_hits_total",
        "Tokens the prefix cache had.",
        Value::Sum(|engine| engine.prefix_hit.get()),
    ),
    counter("vllm:num_preemptions_total", "Sequences preempted.", Value::Sum(|engine| engine.preemptions.get())),
    counter(
        "vllm:prompt_tokens_total",
        "Prompt tokens, counted when their request ends.",
        Value::Sum(|engine| engine.prompt_tokens.get()),
    ),
    counter("vllm:generation_tokens_total", "Tokens generated.", Value::Sum(ReplicaCounts::generated)),
];

const KV_USAGE: Value = Value::Share(|engine| engine.blocks_used.get(), |engine| engine.blocks_total.get());

const TIMES: &[(Spread, &[f64])] = &[
    (
        time("vllm:time_to_first_token_seconds", "From arrival to the first token.", |engine| &engine.first_token),
        FIRST_TOKEN,
    ),
    (
        time("vllm:inter_token_latency_seconds", "From one token to the next.", |engine| &engine.inter_token),
        INTER_TOKEN,
    ),
    (
        time("vllm:time_per_output_token_seconds", "From one token to the next, by the name before.", |engine| {
            &engine.inter_token
        }),
        INTER_TOKEN,
    ),
    (
        time(
            "vllm:request_time_per_output_token_seconds",
            "Mean time of a request's tokens but the first.",
            |engine| &engine.request.per_token,
        ),
        INTER_TOKEN,
    ),
    (time("vllm:e2e_request_latency_seconds", "From arrival to the end.", |engine| &engine.request.duration), REQUEST),
    (
        time("vllm:request_queue_time_seconds", "From arrival to the first step.", |engine| &engine.request.queued),
        REQUEST,
    ),
    (
        time("vllm:request_prefill_time_seconds", "From the first step to the first token.", |engine| {
            &engine.request.prefill
        }),
        REQUEST,
    ),
    (
        time("vllm:request_decode_time_seconds", "From the first token to the end.", |engine| &engine.request.decode),
        REQUEST,
    ),
    (
        time("vllm:request_inference_time_seconds", "From the first step to the end.", |engine| {
            &engine.request.inference
        }),
        REQUEST,
    ),
];

const LENGTHS: &[Spread] = &[
    tokens("vllm:request_prompt_tokens", "Tokens of a prompt.", |engine| &engine.request.prompt),
    tokens("vllm:request_prefill_kv_computed_tokens", "Tokens of a prompt that were not in the cache.", |engine| {
        &engine.request.computed
    }),
    tokens("vllm:request_generation_tokens", "Tokens generated for a request.", |engine| &engine.request.generated),
    tokens("vllm:request_max_num_generation_tokens", "Tokens generated for each choice of a request.", |engine| {
        &engine.request.generated
    }),
];

const STEPS: Spread = tokens("vllm:iteration_tokens_total", "Tokens of a step.", |engine| &engine.step_tokens);

/// 1, 2 and 5 times the powers of ten, up to the longest sequence: vLLM's bounds of token counts.
pub(crate) fn lengths(max_model_len: u32) -> Vec<f64> {
    let powers = (0..10).map(|exponent| 10f64.powi(exponent));
    let bounds = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|mantissa| mantissa * power));
    bounds.take_while(|&bound| bound <= f64::from(max_model_len.max(1))).collect()
}

pub(crate) fn families(
    model: &str,
    limits: &EngineLimits,
    replicas: &[Arc<ReplicaCounts>],
    unplaced: &Arc<ReplicaCounts>,
) -> Vec<Box<dyn Family>> {
    let group = |(id, counts): (usize, &Arc<ReplicaCounts>)| Group {
        labels: labels(&[("engine", &id.to_string()), ("model_name", model)]),
        members: [counts].into_iter().chain((id == 0).then_some(unplaced)).cloned().collect(),
    };
    let engines: Vec<Group> = replicas.iter().enumerate().map(group).collect();
    let success = by_reason("vllm:request_success_total", "Requests that ended.", "finished_reason", REASONS, &engines);

    let mut families: Vec<Box<dyn Family>> = vec![
        Box::new(success),
        Box::new(cache_config(limits, replicas.len())),
        Box::new(STEPS.family(ITERATION, &engines)),
    ];
    families.extend(NUMBERS.iter().map(|number| Box::new(number.family(&engines)) as Box<dyn Family>));
    let times = TIMES.iter().map(|(spread, bounds)| Box::new(spread.family(bounds, &engines)) as Box<dyn Family>);
    families.extend(times);
    let bounds = lengths(limits.max_model_len);
    families.extend(LENGTHS.iter().map(|spread| Box::new(spread.family(&bounds, &engines)) as Box<dyn Family>));
    families
}

fn cache_config(limits: &EngineLimits, replicas: usize) -> Scalars {
    let (size, blocks) = (limits.block_tokens.to_string(), limits.blocks_total.to_string());
    let info = |id: usize| {
        let one: Read = Box::new(|| Some(1.0));
        (labels(&[("block_size", &size), ("engine", &id.to_string()), ("num_gpu_blocks", &blocks)]), one)
    };
    let help = "The KV cache: its blocks, and how many tokens one holds.";
    Scalars::new("vllm:cache_config_info", Kind::Gauge, help, (0..replicas).map(info).collect())
}

const fn gauge(name: &'static str, help: &'static str, value: Value) -> Number {
    Number { name, kind: Kind::Gauge, help, value }
}

const fn counter(name: &'static str, help: &'static str, value: Value) -> Number {
    Number { name, kind: Kind::Counter, help, value }
}

type Of = fn(&ReplicaCounts) -> &Arc<crate::distribution::Distribution>;

const fn time(name: &'static str, help: &'static str, of: Of) -> Spread {
    Spread { name, help, unit: Unit::Time, of }
}

const fn tokens(name: &'static str, help: &'static str, of: Of) -> Spread {
    Spread { name, help, unit: Unit::Tokens, of }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_up_to_the_models() {
        assert_eq!(lengths(100), [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]);
        assert_eq!(lengths(32_768).last(), Some(&20_000.0));
        assert_eq!(lengths(0), [1.0]);
    }
}
