//! Our own names of the engine's numbers, by Prometheus' rules: base units, `_total`, ratios from 0 to 1.

use std::sync::Arc;

use crate::counts::ReplicaCounts;
use crate::distribution::Unit;
use crate::names::{Group, Number, Spread, Value, by_reason};
use crate::page::{Family, Kind, labels};

/// Seconds from a millisecond to a few minutes: first tokens, whole requests, time in the queue.
pub(crate) const LATENCY: &[f64] =
    &[0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0, 180.0];
/// Seconds between two tokens, and of one step.
pub(crate) const STEP: &[f64] =
    &[0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5];

const BY_REPLICA: &[Number] = &[
    Number {
        name: "sluice_requests_running",
        kind: Kind::Gauge,
        help: "Sequences that run.",
        value: Value::Sum(|replica| replica.running.get()),
    },
    Number {
        name: "sluice_requests_waiting",
        kind: Kind::Gauge,
        help: "Sequences a replica holds that do not run.",
        value: Value::Sum(|replica| replica.waiting.get()),
    },
    Number {
        name: "sluice_kv_cache_usage_ratio",
        kind: Kind::Gauge,
        help: "KV blocks in use, of all blocks.",
        value: Value::Share(|replica| replica.blocks_used.get(), |replica| replica.blocks_total.get()),
    },
    Number {
        name: "sluice_steps_total",
        kind: Kind::Counter,
        help: "Steps collected.",
        value: Value::Sum(|replica| replica.step.count()),
    },
    Number {
        name: "sluice_device_busy_seconds_total",
        kind: Kind::Counter,
        help: "Time that the device computed steps; its rate is the share of time in which it was busy.",
        value: Value::Seconds(|replica| replica.device.get()),
    },
    Number {
        name: "sluice_device_roofline_seconds_total",
        kind: Kind::Counter,
        help: "Time in which the device's bandwidth and arithmetic allow the steps that it computed; its rate is the roofline share. 0 where they are not known.",
        value: Value::Seconds(|replica| replica.roof.get()),
    },
    Number {
        name: "sluice_preemptions_total",
        kind: Kind::Counter,
        help: "Sequences preempted.",
        value: Value::Sum(|replica| replica.preemptions.get()),
    },
    Number {
        name: "sluice_recomputed_tokens_total",
        kind: Kind::Counter,
        help: "Tokens computed again.",
        value: Value::Sum(|replica| replica.recomputed.get()),
    },
    Number {
        name: "sluice_replica_lost_total",
        kind: Kind::Counter,
        help: "Times a replica was lost.",
        value: Value::Sum(|replica| replica.lost.get()),
    },
];

const OVERALL: &[Number] = &[
    Number {
        name: "sluice_prompt_tokens_total",
        kind: Kind::Counter,
        help: "Prompt tokens of requests that ended and had given a token.",
        value: Value::Sum(|replica| replica.prompt_tokens.get()),
    },
    Number {
        name: "sluice_generation_tokens_total",
        kind: Kind::Counter,
        help: "Tokens generated.",
        value: Value::Sum(ReplicaCounts::generated),
    },
    Number {
        name: "sluice_prefix_cache_queried_tokens_total",
        kind: Kind::Counter,
        help: "Tokens the prefix cache was asked for.",
        value: Value::Sum(|replica| replica.prefix_queried.get()),
    },
    Number {
        name: "sluice_prefix_cache_hit_tokens_total",
        kind: Kind::Counter,
        help: "Tokens the prefix cache had.",
        value: Value::Sum(|replica| replica.prefix_hit.get()),
    },
];

const STEPS: Spread = Spread {
    name: "sluice_step_duration_seconds",
    help: "Wall time of a step.",
    unit: Unit::Time,
    of: |replica| &replica.step,
};

const LATENCIES: &[(Spread, &[f64])] = &[
    (
        Spread {
            name: "sluice_time_to_first_token_seconds",
            help: "From a request's arrival to its first token.",
            unit: Unit::Time,
            of: |replica| &replica.first_token,
        },
        LATENCY,
    ),
    (
        Spread {
            name: "sluice_inter_token_latency_seconds",
            help: "From one token of a request to the next.",
            unit: Unit::Time,
            of: |replica| &replica.inter_token,
        },
        STEP,
    ),
    (
        Spread {
            name: "sluice_request_duration_seconds",
            help: "From a request's arrival to its end.",
            unit: Unit::Time,
            of: |replica| &replica.request.duration,
        },
        LATENCY,
    ),
    (
        Spread {
            name: "sluice_request_queue_seconds",
            help: "From a request's arrival to its first step.",
            unit: Unit::Time,
            of: |replica| &replica.request.queued,
        },
        LATENCY,
    ),
];

/// `unplaced` counts the requests that never came to a replica.
pub(crate) fn families(replicas: &[Arc<ReplicaCounts>], unplaced: &Arc<ReplicaCounts>) -> Vec<Box<dyn Family>> {
    let one = |(id, counts): (usize, &Arc<ReplicaCounts>)| Group {
        labels: labels(&[("replica", &id.to_string())]),
        members: vec![Arc::clone(counts)],
    };
    let each: Vec<Group> = replicas.iter().enumerate().map(one).collect();
    let all = replicas.iter().chain([unplaced]).cloned().collect();
    let all = [Group { labels: String::new(), members: all }];
    let reasons = ["stop", "length", "cancelled", "failed"];
    let finished =
        by_reason("sluice_requests_finished_total", "Accepted requests that ended.", "reason", reasons, &all);

    let mut families: Vec<Box<dyn Family>> = vec![Box::new(finished), Box::new(STEPS.family(STEP, &each))];
    families.extend(BY_REPLICA.iter().map(|number| Box::new(number.family(&each)) as Box<dyn Family>));
    families.extend(OVERALL.iter().map(|number| Box::new(number.family(&all)) as Box<dyn Family>));
    let latencies = LATENCIES.iter().map(|(spread, bounds)| Box::new(spread.family(bounds, &all)) as Box<dyn Family>);
    families.extend(latencies);
    families
}
