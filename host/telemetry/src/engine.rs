//! The engine's own numbers: requests, tokens, steps and blocks, with every handle resolved before the first token.

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Result};
use sluice_core::view::LastStep;
use sluice_core::{FinishReason, Finished, Nanos, Rejection, ReplicaId};

use crate::make::{LATENCY, Maker, STEP, seconds};

pub(crate) struct EngineMetrics {
    replicas: Vec<ReplicaMetrics>,
    queue_requests: IntGauge,
    queue_tokens: IntGauge,
    first_token: Histogram,
    inter_token: Histogram,
    duration: Histogram,
    queued: Histogram,
    prompt_tokens: IntCounter,
    generation_tokens: IntCounter,
    prefix_queried: IntCounter,
    prefix_hit: IntCounter,
    /// By `FinishReason`'s number, less one.
    finished: [IntCounter; 4],
    rejected_caller: IntCounter,
    rejected_busy: IntCounter,
}

struct ReplicaMetrics {
    running: IntGauge,
    waiting: IntGauge,
    kv_usage: Gauge,
    steps: IntCounter,
    step: Histogram,
    preemptions: IntCounter,
    recomputed: IntCounter,
    lost: IntCounter,
}

impl EngineMetrics {
    pub(crate) fn new(make: &Maker<'_>, replicas: usize) -> Result<Self> {
        let reasons = make.counters("sluice_requests_finished_total", "Accepted requests that ended.", &["reason"])?;
        let rejected = make.counters("sluice_requests_rejected_total", "Requests not let in.", &["reason"])?;
        Ok(Self {
            replicas: replica_metrics(make, replicas)?,
            queue_requests: make.gauge("sluice_queue_requests", "Requests in the central queue.")?,
            queue_tokens: make.gauge("sluice_queue_tokens", "Prompt tokens in the central queue.")?,
            first_token: make.histogram(
                "sluice_time_to_first_token_seconds",
                "From a request's arrival to its first token.",
                LATENCY,
            )?,
            inter_token: make.histogram(
                "sluice_inter_token_latency_seconds",
                "From one token of a request to the next.",
                STEP,
            )?,
            duration: make.histogram(
                "sluice_request_duration_seconds",
                "From a request's arrival to its end.",
                LATENCY,
            )?,
            queued: make.histogram(
                "sluice_request_queue_seconds",
                "From a request's arrival to its first step.",
                LATENCY,
            )?,
            prompt_tokens: make.counter("sluice_prompt_tokens_total", "Prompt tokens of requests that ended.")?,
            generation_tokens: make.counter("sluice_generation_tokens_total", "Tokens generated.")?,
            prefix_queried: make
                .counter("sluice_prefix_cache_queried_tokens_total", "Tokens the prefix cache was asked for.")?,
            prefix_hit: make.counter("sluice_prefix_cache_hit_tokens_total", "Tokens the prefix cache had.")?,
            finished: ["stop", "length", "cancelled", "failed"].map(|reason| reasons.with_label_values(&[reason])),
            rejected_caller: rejected.with_label_values(&["caller"]),
            rejected_busy: rejected.with_label_values(&["busy"]),
        })
    }

    pub(crate) fn step(&self, replica: ReplicaId, step: &LastStep) {
        let Some(metrics) = self.replica(replica) else { return };
        metrics.steps.inc();
        metrics.step.observe(seconds(step.wall));
        metrics.recomputed.inc_by(u64::from(step.recomputed_tokens));
    }

    pub(crate) fn occupancy(&self, replica: ReplicaId, (running, waiting): (u32, u32), (used, total): (u32, u32)) {
        let Some(metrics) = self.replica(replica) else { return };
        metrics.running.set(i64::from(running));
        metrics.waiting.set(i64::from(waiting));
        metrics.kv_usage.set(f64::from(used) / f64::from(total.max(1)));
    }

    pub(crate) fn first_token(&self, after: Nanos) {
        self.first_token.observe(seconds(after));
        self.generation_tokens.inc();
    }

    pub(crate) fn token(&self, after: Nanos) {
        self.inter_token.observe(seconds(after));
        self.generation_tokens.inc();
    }

    pub(crate) fn prefix(&self, queried: u32, hit: u32) {
        self.prefix_queried.inc_by(u64::from(queried));
        self.prefix_hit.inc_by(u64::from(hit));
    }

    pub(crate) fn preempted(&self, replica: ReplicaId) {
        self.replica(replica).inspect(|metrics| metrics.preemptions.inc());
    }

    pub(crate) fn lost(&self, replica: ReplicaId) {
        let Some(metrics) = self.replica(replica) else { return };
        metrics.lost.inc();
        metrics.running.set(0);
        metrics.waiting.set(0);
        metrics.kv_usage.set(0.0);
    }

    pub(crate) fn finished(&self, finished: &Finished) {
        let reason = match finished.reason {
            FinishReason::Stop => 0,
            FinishReason::Length => 1,
            FinishReason::Cancelled => 2,
            FinishReason::Failed => 3,
        };
        self.finished[reason].inc();
        self.duration.observe(seconds(finished.finished.saturating_sub(finished.arrival)));
        if let Some(scheduled) = finished.scheduled {
            self.queued.observe(seconds(scheduled.saturating_sub(finished.arrival)));
        }
        self.prompt_tokens.inc_by(u64::from(finished.prompt_tokens));
    }

    pub(crate) fn rejected(&self, rejection: &Rejection) {
        let counter = if rejection.caller { &self.rejected_caller } else { &self.rejected_busy };
        counter.inc();
    }

    pub(crate) fn queue(&self, requests: u32, tokens: u64) {
        self.queue_requests.set(i64::from(requests));
        self.queue_tokens.set(i64::try_from(tokens).unwrap_or(i64::MAX));
    }

    fn replica(&self, replica: ReplicaId) -> Option<&ReplicaMetrics> {
        self.replicas.get(replica.0 as usize)
    }
}

fn replica_metrics(make: &Maker<'_>, replicas: usize) -> Result<Vec<ReplicaMetrics>> {
    let by = &["replica"];
    let running = make.gauges("sluice_requests_running", "Sequences that run.", by)?;
    let waiting = make.gauges("sluice_requests_waiting", "Sequences a replica holds that do not run.", by)?;
    let kv_usage = make.ratios("sluice_kv_cache_usage_ratio", "KV blocks in use, of all blocks.", by)?;
    let steps = make.counters("sluice_steps_total", "Steps collected.", by)?;
    let step = make.histograms("sluice_step_duration_seconds", "Wall time of a step.", by, STEP)?;
    let preemptions = make.counters("sluice_preemptions_total", "Sequences preempted.", by)?;
    let recomputed = make.counters("sluice_recomputed_tokens_total", "Tokens computed again.", by)?;
    let lost = make.counters("sluice_replica_lost_total", "Times a replica was lost.", by)?;
    let of = |replica: usize| {
        let replica = replica.to_string();
        let label = &[replica.as_str()];
        ReplicaMetrics {
            running: running.with_label_values(label),
            waiting: waiting.with_label_values(label),
            kv_usage: kv_usage.with_label_values(label),
            steps: steps.with_label_values(label),
            step: step.with_label_values(label),
            preemptions: preemptions.with_label_values(label),
            recomputed: recomputed.with_label_values(label),
            lost: lost.with_label_values(label),
        }
    };
    Ok((0..replicas).map(of).collect())
}
