//! What one replica did, in plain atomics: nothing here waits, allocates or looks anything up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_core::view::LastStep;
use sluice_core::{FinishReason, Finished, Nanos};

use crate::distribution::{Distribution, Unit};
use crate::own::{LATENCY, STEP};
use crate::vllm;

#[derive(Default)]
pub(crate) struct Count(AtomicU64);

/// Counted by the replica's own thread, but for requests that ended, which the dispatcher counts. Requests that never
/// came to a replica have one of these of their own.
pub(crate) struct ReplicaCounts {
    pub(crate) running: Count,
    pub(crate) waiting: Count,
    pub(crate) blocks_used: Count,
    pub(crate) blocks_total: Count,
    pub(crate) preemptions: Count,
    pub(crate) recomputed: Count,
    pub(crate) device: Count,
    pub(crate) roof: Count,
    pub(crate) lost: Count,
    pub(crate) prefix_queried: Count,
    pub(crate) prefix_hit: Count,
    /// Of requests that ended and had given a token.
    pub(crate) prompt_tokens: Count,
    /// By `FinishReason`'s number, less one.
    pub(crate) finished: [Count; 4],
    pub(crate) step: Arc<Distribution>,
    pub(crate) step_tokens: Arc<Distribution>,
    pub(crate) first_token: Arc<Distribution>,
    pub(crate) inter_token: Arc<Distribution>,
    pub(crate) request: RequestCounts,
}

/// Of requests that ended: what is known of them only then.
pub(crate) struct RequestCounts {
    pub(crate) duration: Arc<Distribution>,
    /// From its arrival to its first step.
    pub(crate) queued: Arc<Distribution>,
    /// From its first step to its first token, to its end, and from its first token to its end.
    pub(crate) prefill: Arc<Distribution>,
    pub(crate) inference: Arc<Distribution>,
    pub(crate) decode: Arc<Distribution>,
    /// The mean time of its tokens but the first.
    pub(crate) per_token: Arc<Distribution>,
    pub(crate) prompt: Arc<Distribution>,
    /// The part of the prompt that was not in the cache.
    pub(crate) computed: Arc<Distribution>,
    pub(crate) generated: Arc<Distribution>,
}

impl Count {
    pub(crate) fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl ReplicaCounts {
    pub(crate) fn new(max_model_len: u32) -> Self {
        Self {
            running: Count::default(),
            waiting: Count::default(),
            blocks_used: Count::default(),
            blocks_total: Count::default(),
            preemptions: Count::default(),
            recomputed: Count::default(),
            device: Count::default(),
            roof: Count::default(),
            lost: Count::default(),
            prefix_queried: Count::default(),
            prefix_hit: Count::default(),
            prompt_tokens: Count::default(),
            finished: Default::default(),
            step: times(&[STEP]),
            step_tokens: tokens(vllm::ITERATION),
            first_token: times(&[LATENCY, vllm::FIRST_TOKEN]),
            inter_token: times(&[STEP, vllm::INTER_TOKEN]),
            request: RequestCounts::new(&vllm::lengths(max_model_len)),
        }
    }

    pub(crate) fn step(&self, step: &LastStep, roof: Option<Nanos>) {
        self.step.observe(step.wall);
        self.step_tokens.observe(u64::from(step.prefill_tokens) + u64::from(step.decode_sequences));
        self.recomputed.add(u64::from(step.recomputed_tokens));
        self.device.add(step.device);
        self.roof.add(roof.unwrap_or(0));
    }

    pub(crate) fn lost(&self) {
        self.lost.add(1);
        self.running.set(0);
        self.waiting.set(0);
        self.blocks_used.set(0);
    }

    pub(crate) fn finished(&self, finished: &Finished) {
        self.reason(finished.reason).add(1);
        if finished.first_token.is_some() {
            self.prompt_tokens.add(u64::from(finished.prompt_tokens));
        }
        self.request.finished(finished);
    }

    pub(crate) fn reason(&self, reason: FinishReason) -> &Count {
        match reason {
            FinishReason::Stop => &self.finished[0],
            FinishReason::Length => &self.finished[1],
            FinishReason::Cancelled => &self.finished[2],
            FinishReason::Failed => &self.finished[3],
        }
    }

    /// Every one of them either opened a request or followed on another.
    pub(crate) fn generated(&self) -> u64 {
        self.first_token.count() + self.inter_token.count()
    }
}

impl RequestCounts {
    fn new(lengths: &[f64]) -> Self {
        let latency = || times(&[LATENCY, vllm::REQUEST]);
        Self {
            duration: latency(),
            queued: latency(),
            prefill: latency(),
            inference: latency(),
            decode: latency(),
            per_token: times(&[vllm::INTER_TOKEN]),
            prompt: tokens(lengths),
            computed: tokens(lengths),
            generated: tokens(lengths),
        }
    }

    fn finished(&self, finished: &Finished) {
        let Finished { arrival, scheduled, first_token, finished: end, .. } = *finished;
        self.duration.observe(end.saturating_sub(arrival));
        self.prompt.observe(u64::from(finished.prompt_tokens));
        self.generated.observe(u64::from(finished.generated_tokens));
        let Some(scheduled) = scheduled else { return };
        self.queued.observe(scheduled.saturating_sub(arrival));
        self.inference.observe(end.saturating_sub(scheduled));
        let Some(first_token) = first_token else { return };
        let decode = end.saturating_sub(first_token);
        self.prefill.observe(first_token.saturating_sub(scheduled));
        self.computed.observe(u64::from(finished.prompt_tokens.saturating_sub(finished.cached_tokens)));
        self.decode.observe(decode);
        if finished.generated_tokens > 1 {
            self.per_token.observe(decode / u64::from(finished.generated_tokens - 1));
        }
    }
}

fn times(bounds: &[&[f64]]) -> Arc<Distribution> {
    Arc::new(Distribution::new(Unit::Time, bounds))
}

fn tokens(bounds: &[f64]) -> Arc<Distribution> {
    Arc::new(Distribution::new(Unit::Tokens, &[bounds]))
}
