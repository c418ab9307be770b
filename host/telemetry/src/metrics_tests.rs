//! What a scrape says after events that are known.

use super::*;
use sluice_core::view::{EngineLimits, LastStep};
use sluice_core::{
    CallCost, DeviceReading, Digest, FaultKind, FinishReason, Finished, Handover, Installed, MILLISECOND, Nanos,
    NoDevices, PolicyFault, Rejection, RequestId, RevisionId, SECOND, TenantId,
};

const REPLICA: ReplicaId = ReplicaId(1);
const SEAT: Seat = Seat { slot: Slot::Batching, replica: Some(REPLICA) };

/// Stands still at ten seconds.
struct Still;

impl Clock for Still {
    fn now(&self) -> Nanos {
        10 * SECOND
    }
}

fn metrics() -> Metrics {
    metrics_with(None)
}

fn metrics_with(compat: Option<Compat>) -> Metrics {
    metrics_over(Arc::new(NoDevices), compat)
}

fn metrics_over(devices: Arc<dyn DeviceReadings>, compat: Option<Compat>) -> Metrics {
    let limits = EngineLimits { max_model_len: 100, block_tokens: 16, blocks_total: 50, ..EngineLimits::default() };
    let clock = Arc::new(Still);
    let options = MetricsOptions { replicas: 2, limits, model: "tiny", version: "0.1.0", compat, devices, clock };
    Metrics::new(&options).unwrap()
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
    let step = LastStep { wall: 3 * MILLISECOND, device: SECOND, recomputed_tokens: 4, ..LastStep::default() };
    let (done, calm, fault) = (finished(), installed("calm", 1), fault());
    let busy = Rejection { caller: false, reason: "full".to_owned(), retry_after: SECOND };
    let step = EngineEvent::Step { replica: REPLICA, step: &step, roof: Some(SECOND / 2) };
    let held = EngineEvent::Occupancy { replica: REPLICA, running: 3, waiting: 2, blocks_used: 75, blocks_total: 100 };
    let cost = CallCost { nanos: 2000, fuel: 0 };
    let cases: [(EngineEvent<'_>, &str, f64); 23] = [
        (step.clone(), r#"sluice_device_busy_seconds_total{replica="1"}"#, 1.0),
        (step.clone(), r#"sluice_device_roofline_seconds_total{replica="1"}"#, 0.5),
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
    assert_eq!(value(&metrics, r#"sluice_policy_metric{digest="010101010101",name="g0",policy="calm"}"#), Some(2.0));
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

#[test]
fn vllms_names_show_the_same_counts_and_are_not_there_unless_asked_for() {
    let step = LastStep { prefill_tokens: 7, decode_sequences: 2, ..LastStep::default() };
    let (done, queue) = (finished(), EngineEvent::Queue { requests: 7, tokens: 70 });
    let step = EngineEvent::Step { replica: REPLICA, step: &step, roof: None };
    let held = EngineEvent::Occupancy { replica: REPLICA, running: 3, waiting: 2, blocks_used: 75, blocks_total: 100 };
    let first = EngineEvent::FirstToken { replica: REPLICA, after: SECOND / 4 };
    let token = EngineEvent::Token { replica: REPLICA, after: SECOND / 4 };
    let prefix = EngineEvent::PrefixCache { replica: REPLICA, queried: 9, hit: 4 };
    let preempted = EngineEvent::Preempted { replica: REPLICA, id: RequestId(1), recompute_tokens: 4 };
    let done = EngineEvent::Finished(&done);
    let cases: [(&EngineEvent<'_>, &str, &str, f64); 27] = [
        (&held, "num_requests_running", "", 3.0),
        (&held, "num_requests_waiting", "", 2.0),
        (&held, "kv_cache_usage_perc", "", 0.75),
        (&held, "gpu_cache_usage_perc", "", 0.75),
        (&prefix, "prefix_cache_queries_total", "", 9.0),
        (&prefix, "prefix_cache_hits_total", "", 4.0),
        (&preempted, "num_preemptions_total", "", 1.0),
        (&first, "generation_tokens_total", "", 1.0),
        (&token, "generation_tokens_total", "", 1.0),
        (&first, "time_to_first_token_seconds_bucket", r#",le="0.25""#, 1.0),
        (&token, "inter_token_latency_seconds_bucket", r#",le="0.2""#, 0.0),
        (&token, "inter_token_latency_seconds_bucket", r#",le="0.3""#, 1.0),
        (&token, "time_per_output_token_seconds_sum", "", 0.25),
        (&step, "iteration_tokens_total_bucket", r#",le="8.0""#, 0.0),
        (&step, "iteration_tokens_total_bucket", r#",le="16.0""#, 1.0),
        (&done, "prompt_tokens_total", "", 10.0),
        (&done, "request_success_total", r#",finished_reason="length""#, 1.0),
        (&done, "request_success_total", r#",finished_reason="abort""#, 0.0),
        (&done, "e2e_request_latency_seconds_sum", "", 2.0),
        (&done, "request_queue_time_seconds_sum", "", 0.5),
        (&done, "request_prefill_time_seconds_sum", "", 0.5),
        (&done, "request_decode_time_seconds_sum", "", 1.0),
        (&done, "request_inference_time_seconds_sum", "", 1.5),
        (&done, "request_time_per_output_token_seconds_sum", "", 0.25),
        (&done, "request_prompt_tokens_bucket", r#",le="10.0""#, 1.0),
        (&done, "request_generation_tokens_bucket", r#",le="2.0""#, 0.0),
        (&done, "request_prefill_kv_computed_tokens_sum", "", 10.0),
    ];
    for (event, name, label, expected) in cases {
        let (vllm, own) = (metrics_with(Some(Compat::Vllm)), metrics());
        vllm.observe(event);
        own.observe(event);
        let series = format!(r#"vllm:{name}{{engine="1",model_name="tiny"{label}}}"#);
        assert_eq!(value(&vllm, &series), Some(expected), "{series}");
        assert!(!own.scrape().unwrap().contains("vllm:"));
    }

    let metrics = metrics_with(Some(Compat::Vllm));
    metrics.observe(&queue);
    let waiting =
        |engine| value(&metrics, &format!(r#"vllm:num_requests_waiting{{engine="{engine}",model_name="tiny"}}"#));
    assert_eq!((waiting(0), waiting(1)), (Some(7.0), Some(0.0)));
    let config = r#"vllm:cache_config_info{block_size="16",engine="0",num_gpu_blocks="50"}"#;
    assert_eq!(value(&metrics, config), Some(1.0));
}

#[test]
fn a_request_that_never_came_to_a_replica_is_counted_too() {
    let metrics = metrics_with(Some(Compat::Vllm));
    let finished = Finished {
        replica: ReplicaId(u32::MAX),
        reason: FinishReason::Cancelled,
        scheduled: None,
        first_token: None,
        ..finished()
    };
    metrics.observe(&EngineEvent::Finished(&finished));
    assert_eq!(value(&metrics, r#"sluice_requests_finished_total{reason="cancelled"}"#), Some(1.0));
    let success = r#"vllm:request_success_total{engine="0",model_name="tiny",finished_reason="abort"}"#;
    assert_eq!(value(&metrics, success), Some(1.0));
    assert_eq!(value(&metrics, "sluice_prompt_tokens_total"), Some(0.0));
}

/// The card of one replica.
struct OneCard(DeviceReading);

impl DeviceReadings for OneCard {
    fn latest(&self, replica: ReplicaId) -> Option<DeviceReading> {
        (replica == REPLICA).then_some(self.0)
    }
}

const CARD: DeviceReading = DeviceReading {
    taken: 9 * SECOND,
    nvml_gpu: Some(0.7),
    nvml_memory: Some(0.6),
    memory_used_bytes: Some(8_000_000_000),
    memory_total_bytes: Some(24_000_000_000),
    power_watts: Some(449.5),
    sm_clock_hz: Some(2_520_000_000),
    // Held down by the cap on its power, and by nothing else.
    throttle_reasons: Some(4),
    sm_activity: Some(0.875),
    dram_activity: Some(0.75),
};

#[test]
fn what_a_card_says_shows_in_a_scrape() {
    let cases = [
        ("gpu_utilization", "", 0.7),
        ("gpu_memory_usage", "", 8.0),
        ("sluice_gpu_memory_access_ratio", "", 0.6),
        ("sluice_gpu_memory_used_bytes", "", 8e9),
        ("sluice_gpu_memory_size_bytes", "", 24e9),
        ("sluice_gpu_power_watts", "", 449.5),
        ("sluice_gpu_sm_clock_hertz", "", 2.52e9),
        ("sluice_gpu_sm_activity_ratio", "", 0.875),
        ("sluice_gpu_dram_activity_ratio", "", 0.75),
        ("sluice_gpu_throttled", r#",reason="sw_power_cap""#, 1.0),
        ("sluice_gpu_throttled", r#",reason="hw_slowdown""#, 0.0),
    ];
    let metrics = metrics_over(Arc::new(OneCard(CARD)), None);
    for (name, label, expected) in cases {
        let of = |id| value(&metrics, &format!(r#"{name}{{gpu_id="{id}"{label}}}"#));
        assert_eq!((of(0), of(1)), (None, Some(expected)), "{name}");
    }
}

#[test]
fn without_a_card_that_answers_there_is_no_gpu_but_a_speed() {
    // By the clock of the tests the last one was read 3.5 s ago.
    let long_ago = DeviceReading { taken: 6 * SECOND + SECOND / 2, ..CARD };
    for reading in [DeviceReading { taken: CARD.taken, ..DeviceReading::default() }, long_ago] {
        let metrics = metrics_over(Arc::new(OneCard(reading)), None);
        let text = metrics.scrape().unwrap();
        assert!(!text.contains("gpu_utilization") && !text.contains("_gpu_") && !text.contains("gpu_memory"), "{text}");
        assert_eq!(value(&metrics, r#"token_generation_speed{gpu_id="1"}"#), Some(0.0));
    }
}

#[test]
fn the_text_is_what_prometheus_reads() {
    let metrics = metrics_with(Some(Compat::Vllm));
    metrics.observe(&EngineEvent::Installed { seat: SEAT, installed: &installed("calm", 1) });
    let text = metrics.scrape().unwrap();
    let mut named = std::collections::BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with("# HELP ")) {
        if let Some(family) = line.strip_prefix("# TYPE ") {
            assert!(named.insert(family.to_owned()), "{family} comes twice");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(name.chars().all(|c| c.is_ascii_alphanumeric() || "_:".contains(c)), "{line}");
    }
    assert!(named.contains("vllm:inter_token_latency_seconds histogram"));
}
