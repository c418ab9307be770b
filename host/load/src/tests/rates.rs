//! What is measured of a server whose times are known.

use super::fake::{Fake, HEAD, Step, Stream};
use super::run::{check, report, warned};

#[tokio::test(start_paused = true)]
async fn known_times_are_measured_to_the_microsecond() {
    let fake = Fake::new(|_, body| Stream::of(100, 20, 11).steps(body));
    let report =
        report(&fake, "--request-rate 10 --constant --num-requests 50 --goodput ttft:100 tpot:20 e2el:300").await;
    check(
        &report,
        &[
            ("latency.ttft_ms.mean", 100.0),
            ("latency.ttft_ms.max", 100.0),
            ("latency.tpot_ms.p50", 20.0),
            ("latency.gap_ms.count", 500.0),
            ("latency.gap_ms.min", 20.0),
            ("latency.gap_ms.max", 20.0),
            ("latency.e2el_ms.p99", 300.0),
            ("latency.send_lag_ms.max", 0.0),
            ("generator.lateness_ms.max", 0.0),
            ("generator.beat_ms.max", 0.0),
            ("totals.offered", 50.0),
            ("totals.completed", 50.0),
            ("totals.failed", 0.0),
            // From the first request to the end of the last answer: 49 × 100 ms and 300 ms.
            ("totals.duration_s", 5.2),
            ("totals.planned_rate", 10.0),
            ("totals.request_throughput", 50.0 / 5.2),
            ("totals.input_tokens", 400.0),
            ("totals.cached_tokens", 0.0),
            ("totals.output_tokens", 550.0),
            ("totals.output_throughput", 550.0 / 5.2),
            ("totals.tokens_per_chunk", 1.0),
            ("totals.peak_concurrency", 3.0),
            ("totals.mean_concurrency", 50.0 * 0.3 / 5.2),
            ("goodput.ratio", 1.0),
            ("goodput.per_second", 50.0 / 5.2),
        ],
    );
    assert_eq!(report["totals"]["output_counted_by"], "usage");
    assert_eq!(report["warnings"], serde_json::json!([]));
    assert_eq!(fake.connections(), 4, "one for what is asked before, and connections are used again");
}

#[tokio::test(start_paused = true)]
async fn two_tokens_in_a_chunk() {
    let stream = Stream { tokens_per_chunk: 2, ..Stream::of(50, 30, 6) };
    let fake = Fake::new(move |_, body| stream.steps(body));
    let report = report(&fake, "--max-concurrency 1 --num-requests 5").await;
    // 150 ms from the first chunk to the last, over the eleven tokens after the first.
    let tpot = 150.0 / 11.0;
    check(
        &report,
        &[
            ("latency.gap_ms.mean", 30.0),
            ("latency.gap_ms.count", 25.0),
            ("latency.tpot_ms.mean", tpot),
            ("totals.output_tokens", 60.0),
            ("totals.tokens_per_chunk", 2.0),
        ],
    );
    assert!(warned(&report, "a chunk carries 2.00 tokens"));
}

#[tokio::test(start_paused = true)]
async fn without_a_usage_chunks_are_counted() {
    let stream = Stream { usage: false, ..Stream::of(50, 30, 6) };
    let fake = Fake::new(move |_, body| stream.steps(body));
    let report = report(&fake, "--max-concurrency 1 --num-requests 5").await;
    check(&report, &[("latency.tpot_ms.mean", 30.0), ("totals.output_tokens", 30.0), ("totals.input_tokens", 40.0)]);
    assert_eq!(report["totals"]["output_counted_by"], "chunks");
    assert!(warned(&report, "without a usage"));
}

#[tokio::test(start_paused = true)]
async fn times_that_differ_give_their_quantiles() {
    // 10, 20, … 1010 ms: the n-th percentile of the first token is 10 + 10 n.
    let fake = Fake::new(|index, body| Stream::of(10 + 10 * index as u64, 5, 3).steps(body));
    let report = report(&fake, "--request-rate 0.5 --constant --num-requests 101 --goodput ttft:259").await;
    check(
        &report,
        &[
            ("latency.ttft_ms.mean", 510.0),
            ("latency.ttft_ms.p50", 510.0),
            ("latency.ttft_ms.p90", 910.0),
            ("latency.ttft_ms.p95", 960.0),
            ("latency.ttft_ms.p99", 1000.0),
            ("latency.ttft_ms.max", 1010.0),
            ("latency.e2el_ms.p50", 520.0),
            // 10 to 250.
            ("goodput.within", 25.0),
            ("goodput.ratio", 25.0 / 101.0),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_in_one_piece_has_no_first_token() {
    let fake = Fake::new(|_, _| {
        let usage = serde_json::json!({ "prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13 });
        let answer =
            serde_json::json!({ "choices": [{ "text": "five of them", "finish_reason": "stop" }], "usage": usage });
        vec![Step::Wait(70), super::fake::whole(200, &answer)]
    });
    let report =
        report(&fake, "--no-stream --max-concurrency 2 --num-requests 4 --goodput e2el:70 --extra-body {\"n\":2}")
            .await;
    check(
        &report,
        &[
            ("latency.e2el_ms.max", 70.0),
            ("totals.output_tokens", 20.0),
            ("totals.duration_s", 0.14),
            ("goodput.ratio", 1.0),
        ],
    );
    assert!(report["latency"]["ttft_ms"].is_null() && report["latency"]["tpot_ms"].is_null());
    let body = &fake.heard()[0].body;
    assert_eq!((&body["stream"], &body["n"]), (&serde_json::json!(false), &serde_json::json!(2)));
}

/// Each byte as a piece of its own, with the lines ended in each way and comments between.
#[tokio::test(start_paused = true)]
async fn however_the_stream_is_cut() {
    let fake = Fake::new(|index, _| {
        let end = ["\n", "\r\n", "\r"][index % 3];
        let first = r#"data: {"choices":[{"text":"é€"}]}"#;
        let last = "data: {\"choices\":[{\"text\":\"x\",@data: \"finish_reason\":\"stop\"}]}".replace('@', end);
        let text = format!(": ping{end}{end}{first}{end}{end}event: x{end}{last}{end}{end}data: [DONE]{end}{end}");
        let bytes = text.chars().map(|character| super::fake::piece(&character.to_string()));
        let head = [Step::Send(HEAD.to_owned())];
        head.into_iter().chain(bytes).chain([Step::Send(super::fake::END.to_owned())]).collect()
    });
    let report = report(&fake, "--max-concurrency 1 --num-requests 6").await;
    check(&report, &[("totals.completed", 6.0), ("totals.output_tokens", 12.0)]);
}
