//! Whether a decision can be carried out at all. Says why not; changes nothing.
//!
//! Legitimate limits are no faults: a small batch, a hold, a limit above the engine's own (which caps it).

use std::collections::HashSet;

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView, phase};
use sluice_core::{BatchingDecision, NextFlow, Route, Verdict};

/// Longest reason that a rejection may give a client.
pub const MAX_REASON_BYTES: usize = 512;

pub fn verdict(_view: &ArrivalView, verdict: &Verdict) -> Result<(), String> {
    match verdict {
        Verdict::Degrade { max_new_tokens: 0 } => Err("degrades a request to no tokens at all: reject it".into()),
        Verdict::Reject(rejection) if rejection.reason.len() > MAX_REASON_BYTES => {
            Err(format!("gives a reason of {} bytes; {MAX_REASON_BYTES} are shown", rejection.reason.len()))
        }
        Verdict::Accept { .. } | Verdict::Reject(_) | Verdict::Degrade { .. } => Ok(()),
    }
}

pub fn next_flow(view: &FlowView, next: &NextFlow) -> Result<(), String> {
    match next {
        NextFlow::Serve { tenant } if !view.flows.tenant.contains(tenant) => {
            Err(format!("serves tenant {tenant}, of whom nothing waits"))
        }
        NextFlow::Serve { .. } | NextFlow::HoldUntil(_) => Ok(()),
    }
}

pub fn route(view: &RoutingView, route: &Route) -> Result<(), String> {
    let Route::Ranked(choices) = route else { return Ok(()) };
    if choices.is_empty() {
        return Err("ranks no replica".into());
    }
    let mut seen = HashSet::with_capacity(choices.len());
    for choice in choices {
        if !view.replicas.id.contains(&choice.replica) {
            return Err(format!("ranks replica {}, which does not exist", choice.replica));
        }
        if !seen.insert(choice.replica) {
            return Err(format!("ranks replica {} twice", choice.replica));
        }
        if !choice.cost.is_finite() {
            return Err(format!("gives replica {} the cost {}", choice.replica, choice.cost));
        }
    }
    Ok(())
}

pub fn batching(view: &BatchingView, decision: &BatchingDecision) -> Result<(), String> {
    if decision.order.is_empty() && decision.chunks.is_empty() && decision.victims.is_empty() {
        return Ok(());
    }
    let sequences = &view.sequences;
    let held: std::collections::HashMap<u64, u8> =
        sequences.id.iter().copied().zip(sequences.phase.iter().copied()).collect();
    let known = |what: &str, id: u64| {
        held.get(&id).copied().ok_or_else(|| format!("{what} sequence {id}, which does not exist"))
    };
    distinct("orders", decision.order.iter().copied())?;
    distinct("chunks", decision.chunks.iter().map(|chunk| chunk.id))?;
    distinct("preempts", decision.victims.iter().copied())?;
    for &id in &decision.order {
        known("orders", id)?;
    }
    for chunk in &decision.chunks {
        known("chunks", chunk.id)?;
    }
    for &id in &decision.victims {
        if !matches!(known("preempts", id)?, phase::PREFILL | phase::DECODE) {
            return Err(format!("preempts sequence {id}, which does not run"));
        }
    }
    Ok(())
}

fn distinct(what: &str, ids: impl ExactSizeIterator<Item = u64>) -> Result<(), String> {
    let mut seen = HashSet::with_capacity(ids.len());
    for id in ids {
        if !seen.insert(id) {
            return Err(format!("{what} sequence {id} twice"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sluice_core::view::{FlowTable, ReplicaTable, SequenceTable};
    use sluice_core::{Choice, Chunk, Rejection};

    use super::*;

    fn check(outcome: Result<(), String>, expected: &str) {
        match outcome {
            Ok(()) => assert_eq!(expected, ""),
            Err(message) => assert!(!expected.is_empty() && message.contains(expected), "{message}"),
        }
    }

    #[test]
    fn batching_decisions() {
        let view = BatchingView {
            sequences: SequenceTable {
                id: vec![1, 2],
                phase: vec![phase::WAITING, phase::DECODE],
                ..Default::default()
            },
            ..Default::default()
        };
        let plain = BatchingDecision { max_running: 0, token_budget: u32::MAX, ..Default::default() };
        check(batching(&view, &plain), "");
        check(batching(&view, &BatchingDecision { order: vec![1], victims: vec![2], ..plain.clone() }), "");
        check(batching(&view, &BatchingDecision { order: vec![3], ..plain.clone() }), "orders sequence 3");
        check(batching(&view, &BatchingDecision { order: vec![1, 1], ..plain.clone() }), "1 twice");
        check(batching(&view, &BatchingDecision { victims: vec![1], ..plain.clone() }), "does not run");
        check(batching(&view, &BatchingDecision { victims: vec![9], ..plain.clone() }), "preempts sequence 9");
        let chunks = vec![Chunk { id: 7, tokens: 1 }];
        check(batching(&view, &BatchingDecision { chunks, ..plain }), "chunks sequence 7");
    }

    #[test]
    fn routes() {
        let view =
            RoutingView { replicas: ReplicaTable { id: vec![0, 1], ..Default::default() }, ..Default::default() };
        let ranked = |choices: &[(u32, f64)]| {
            Route::Ranked(choices.iter().map(|&(replica, cost)| Choice { replica, cost }).collect())
        };
        check(route(&view, &ranked(&[(1, 0.0), (0, 2.0)])), "");
        check(route(&view, &Route::HoldUntil(u64::MAX)), "");
        check(route(&view, &ranked(&[])), "no replica");
        check(route(&view, &ranked(&[(2, 0.0)])), "replica 2");
        check(route(&view, &ranked(&[(1, 0.0), (1, 1.0)])), "twice");
        check(route(&view, &ranked(&[(1, f64::NAN)])), "NaN");
    }

    #[test]
    fn verdicts_and_flows() {
        let arrival = ArrivalView::default();
        check(verdict(&arrival, &Verdict::Accept { priority: i32::MIN }), "");
        check(verdict(&arrival, &Verdict::Degrade { max_new_tokens: 0 }), "no tokens");
        let reason = "x".repeat(MAX_REASON_BYTES + 1);
        let rejection = Rejection { caller: true, reason, retry_after: 0 };
        check(verdict(&arrival, &Verdict::Reject(rejection)), "513 bytes");

        let flows = FlowView { flows: FlowTable { tenant: vec![4], ..Default::default() }, ..Default::default() };
        check(next_flow(&flows, &NextFlow::Serve { tenant: 4 }), "");
        check(next_flow(&flows, &NextFlow::Serve { tenant: 5 }), "tenant 5");
    }
}
