//! What a scrape says after events that are known.

use super::*;
use sluice_core::view::LastStep;
use sluice_core::{
    CallCost, Digest, FaultKind, FinishReason, Finished, Handover, Installed, MILLISECOND, PolicyFault, Rejection,
    RequestId, RevisionId, SECOND, TenantId,
};

const REPLICA: ReplicaId = ReplicaId(1);
const SEAT: Seat = Seat { slot: Slot::Batching, replica: Some(REPLICA) };

fn metrics() -> Metrics {
    Metrics::new(2, "tiny", "0.1.0").unwrap()
}

/// The value of a series, as it stands in a scrape.
fn value(metrics: &Metrics, series: &str) -> Option<f64> {
    let text = metrics.scrape().unwrap();
    let line = text.lines().find(|line| line.starts_with(series) && line[series.len()..].starts_with(' '))?;
    line[series.len()..].trim().parse().ok()
}

fn installed(name: &str, digest: u8) -> Installed {
    let revision = RevisionId {
        slot: Slot::Batching,
        name: name.to_owned(),
        version: "1.0".to_owned(),
        digest: Digest([digest; 32]),
        config: "{}".to_owned(),
    };
    Installed { revision, handover: Handover::Stateless, pause: MILLISECOND }
}

fn finished() -> Finished {
    Finished {
        id: RequestId(1),
        tenant: TenantId(1),
        replica: REPLICA,
        reason: FinishReason::Length,
        arrival: 0,
        scheduled: Some(SECOND / 2),
        first_token: Some(SECOND),
        finished: 2 * SECOND,
        prompt_tokens: 10,
        cached_tokens: 0,
        generated_tokens: 5,
        preemptions: 0,
    }
}

fn fault() -> PolicyFault {
    PolicyFault { policy: "calm".to_owned(), digest: Digest([1; 32]), kind: FaultKind::Deadline }
}

#[test]
fn every_event_shows_in_a_scrape() {
    let step = LastStep { wall: 3 * MILLISECOND, recomputed_tokens: 4, ..LastStep::default() };
    let (done, calm, fault) = (finished(), installed("calm", 1), fault());
    let busy = Rejection { caller: false, reason: "full".to_owned(), retry_after: SECOND };
    let step = EngineEvent::Step { replica: REPLICA, step: &step };
    let held = EngineEvent::Occupancy { replica: REPLICA, running: 3, waiting: 2, blocks_used: 75, blocks_total: 100 };
    let cost = CallCost { nanos: 2000, fuel: 0 };
    let cases: [(EngineEvent<'_>, &str, f64); 21] = [
        (held.clone(), r#"sluice_requests_running{replica="1"}"#, 3.0),
        (held.clone(), r#"sluice_requests_waiting{replica="1"}"#, 2.0),
        (held, r#"sluice_kv_cache_usage_ratio{replica="1"}"#, 0.75),
        (step.clone(), r#"sluice_steps_total{replica="1"}"#, 1.0),
        (step, r#"sluice_recomputed_tokens_total{replica="1"}"#, 4.0),
        (EngineEvent::FirstToken { replica: REPLICA, after: SECOND }, "sluice_time_to_first_token_seconds_sum", 1.0),
        (EngineEvent::FirstToken { replica: REPLICA, after: SECOND }, "sluice_generation_tokens_total", 1.0),
        (EngineEvent::Token { replica: REPLICA, after: SECOND }, "sluice_inter_token_latency_seconds_sum", 1.0),
        (EngineEvent::Token { replica: REPLICA, after: SECOND }, "sluice_generation_tokens_total", 1.0),
        (
            EngineEvent::PrefixCache { replica: REPLICA, queried: 9, hit: 4 },
            "sluice_prefix_cache_hit_tokens_total",
            4.0,
        ),
        (
            EngineEvent::Preempted { replica: REPLICA, id: RequestId(1), recompute_tokens: 4 },
            r#"sluice_preemptions_total{replica="1"}"#,
            1.0,
        ),
        (EngineEvent::Finished(&done), r#"sluice_requests_finished_total{reason="length"}"#, 1.0),
        (EngineEvent::Finished(&done), "sluice_request_queue_seconds_sum", 0.5),
        (EngineEvent::Finished(&done), "sluice_request_duration_seconds_sum", 2.0),
        (EngineEvent::Rejected { rejection: &busy }, r#"sluice_requests_rejected_total{reason="busy"}"#, 1.0),
        (EngineEvent::Queue { requests: 7, tokens: 70 }, "sluice_queue_tokens", 70.0),
        (
            EngineEvent::ReplicaLost { replica: REPLICA, requeued: 1, failed: 0 },
            r#"sluice_replica_lost_total{replica="1"}"#,
            1.0,
        ),
        (
            EngineEvent::Override { seat: SEAT, rule: "starvation" },
            r#"sluice_policy_overrides_total{rule="starvation",slot="batching"}"#,
            1.0,
        ),
        (EngineEvent::Installed { seat: SEAT, installed: &calm }, r#"sluice_policy_swaps_total{slot="batching"}"#, 1.0),
        (
            EngineEvent::Fallback { seat: SEAT, fault: &fault },
            r#"sluice_policy_fallbacks_total{digest="010101010101",fault="deadline",policy="calm",slot="batching"}"#,
            1.0,
        ),
        (
            EngineEvent::Quarantined { seat: SEAT, digest: Digest([1; 32]), returned: None, fault: &fault },
            r#"sluice_policy_quarantines_total{slot="batching"}"#,
            1.0,
        ),
    ];
    for (event, series, expected) in cases {
        let metrics = metrics();
        metrics.observe(&event);
        assert_eq!(value(&metrics, series), Some(expected), "{series}");
    }

    let metrics = metrics();
    metrics.observe(&EngineEvent::Installed { seat: SEAT, installed: &calm });
    metrics.observe(&EngineEvent::Decision { seat: SEAT, cost });
    let decisions = r#"sluice_policy_decision_seconds_count{digest="010101010101",policy="calm",slot="batching"}"#;
    assert_eq!(value(&metrics, decisions), Some(1.0));
}

#[test]
fn the_policy_in_force_is_named_and_the_one_before_is_not() {
    let metrics = metrics();
    let info = |name, digest| {
        let series =
            format!(r#"sluice_policy_info{{digest="{digest}",policy="{name}",slot="batching",version="1.0"}}"#);
        value(&metrics, &series)
    };
    metrics.observe(&EngineEvent::Installed { seat: SEAT, installed: &installed("calm", 1) });
    assert_eq!(info("calm", "010101010101"), Some(1.0));
    metrics.observe(&EngineEvent::Installed { seat: SEAT, installed: &installed("wild", 2) });
    assert_eq!((info("calm", "010101010101"), info("wild", "020202020202")), (None, Some(1.0)));
    let digest = Digest([2; 32]);
    metrics.observe(&EngineEvent::Quarantined { seat: SEAT, digest, returned: None, fault: &fault() });
    assert_eq!(info("wild", "020202020202"), None);
}

#[test]
fn policies_cannot_fill_the_registry() {
    let metrics = metrics();
    let taken = (0..1000).filter(|i| metrics.set_policy_gauge("calm", Digest([1; 32]), &format!("g{i}"), 1.0)).count();
    assert_eq!(taken, 256);
    assert!(metrics.set_policy_gauge("calm", Digest([1; 32]), "g0", 2.0));
    assert_eq!(value(&metrics, r#"sluice_policy_gauge{digest="010101010101",name="g0",policy="calm"}"#), Some(2.0));
}

#[test]
fn a_replica_that_is_not_counted_is_ignored() {
    let metrics = metrics();
    metrics.observe(&EngineEvent::ReplicaLost { replica: ReplicaId(9), requeued: 0, failed: 0 });
    assert_eq!(value(&metrics, r#"sluice_replica_lost_total{replica="9"}"#), None);
}

#[test]
fn an_answer_counts_while_it_lives() {
    let metrics = metrics();
    let answer = metrics.edge.answer();
    assert_eq!(value(&metrics, "sluice_http_answers_in_progress"), Some(1.0));
    drop(answer);
    assert_eq!(value(&metrics, "sluice_http_answers_in_progress"), Some(0.0));
}
