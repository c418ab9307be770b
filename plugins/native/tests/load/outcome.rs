//! What came of a load: times to the first and between further tokens, and what was refused, preempted and lost.

use std::sync::Mutex;

use sluice_core::{EngineEvent, FinishReason, Finished, Nanos, Observer, SECOND};

#[derive(Clone, Default)]
pub(crate) struct Outcome {
    pub(crate) finished: Vec<Finished>,
    pub(crate) rejected: u32,
    pub(crate) preempted: u32,
    pub(crate) most_queued: u32,
    /// Between two tokens of one answer, in milliseconds.
    pub(crate) gaps: Vec<f64>,
    pub(crate) fallbacks: u32,
}

/// Keeps an outcome while it comes about.
#[derive(Default)]
pub(crate) struct Watch(pub(crate) Mutex<Outcome>);

impl Observer for Watch {
    fn observe(&self, event: &EngineEvent<'_>) {
        let mut outcome = self.0.lock().unwrap();
        match event {
            EngineEvent::Finished(finished) => outcome.finished.push((*finished).clone()),
            EngineEvent::Rejected { .. } => outcome.rejected += 1,
            EngineEvent::Preempted { .. } => outcome.preempted += 1,
            EngineEvent::Queue { requests, .. } => outcome.most_queued = outcome.most_queued.max(*requests),
            EngineEvent::Token { after, .. } => outcome.gaps.push(millis(*after)),
            EngineEvent::Fallback { .. } => outcome.fallbacks += 1,
            _ => {}
        }
    }
}

impl Outcome {
    pub(crate) fn offered(&self) -> usize {
        self.finished.len() + self.rejected as usize
    }

    /// The share of what was offered.
    pub(crate) fn refused(&self) -> f64 {
        f64::from(self.rejected) / self.offered() as f64
    }

    pub(crate) fn completed(&self) -> impl Iterator<Item = &Finished> {
        self.finished.iter().filter(|it| matches!(it.reason, FinishReason::Stop | FinishReason::Length))
    }

    /// Requests that were let in and not answered.
    pub(crate) fn failed(&self) -> usize {
        self.finished.len() - self.completed().count()
    }

    /// Milliseconds from arrival to the first token, at these quantiles.
    pub(crate) fn ttft<const N: usize>(&self, at: [f64; N]) -> [f64; N] {
        quantiles(self.completed().filter_map(ttft).collect(), at)
    }

    pub(crate) fn tpot<const N: usize>(&self, at: [f64; N]) -> [f64; N] {
        quantiles(self.completed().filter_map(tpot).collect(), at)
    }

    pub(crate) fn gap<const N: usize>(&self, at: [f64; N]) -> [f64; N] {
        quantiles(self.gaps.clone(), at)
    }

    /// Seconds in the central queue and on the replica before the first step.
    pub(crate) fn waits(&self) -> Vec<f64> {
        let waited = |it: &Finished| it.scheduled.map(|at| (at - it.arrival) as f64 / SECOND as f64);
        self.finished.iter().filter_map(waited).collect()
    }

    /// Requests answered within both targets, in milliseconds, as a share of those offered: a refusal is a miss.
    pub(crate) fn goodput(&self, ttft_target: f64, tpot_target: f64) -> f64 {
        let good = self.completed().filter(|it| {
            ttft(it).is_some_and(|ttft| ttft <= ttft_target) && tpot(it).is_none_or(|tpot| tpot <= tpot_target)
        });
        good.count() as f64 / self.offered() as f64
    }

    /// Generated tokens a second, from the first arrival to the last token.
    pub(crate) fn throughput(&self) -> f64 {
        let tokens: u64 = self.finished.iter().map(|it| u64::from(it.generated_tokens)).sum();
        let begin = self.finished.iter().map(|it| it.arrival).min().unwrap_or(0);
        let end = self.finished.iter().map(|it| it.finished).max().unwrap_or(0);
        tokens as f64 * SECOND as f64 / (end - begin).max(1) as f64
    }
}

fn ttft(it: &Finished) -> Option<f64> {
    it.first_token.map(|at| millis(at - it.arrival))
}

/// Of an answer of two tokens or more.
fn tpot(it: &Finished) -> Option<f64> {
    let further = it.generated_tokens.checked_sub(1).filter(|count| *count > 0)?;
    it.first_token.map(|at| millis(it.finished - at) / f64::from(further))
}

pub(crate) fn quantiles<const N: usize>(mut values: Vec<f64>, at: [f64; N]) -> [f64; N] {
    values.sort_by(f64::total_cmp);
    at.map(|share| values.get(((values.len().max(1) - 1) as f64 * share) as usize).copied().unwrap_or(f64::NAN))
}

fn millis(nanos: Nanos) -> f64 {
    nanos as f64 / 1e6
}
