//! When requests go out: at a rate, from a trace, one for another, under a cap, and until it is enough.

use std::time::Duration;

use serde_json::json;

use super::fake::{Fake, Stream};
use super::run::{check, report, stopped_report, warned};

/// A fifth of a second for each answer.
fn steady() -> Fake {
    Fake::new(|_, body| Stream::of(100, 50, 3).steps(body))
}

fn times(fake: &Fake) -> Vec<f64> {
    fake.heard().iter().map(|heard| heard.at).collect()
}

#[tokio::test(start_paused = true)]
async fn a_closed_loop_keeps_its_concurrency() {
    let fake = steady();
    let report = report(&fake, "--max-concurrency 4 --num-requests 40").await;
    check(
        &report,
        &[
            ("totals.duration_s", 2.0),
            ("totals.request_throughput", 20.0),
            ("totals.peak_concurrency", 4.0),
            ("totals.mean_concurrency", 4.0),
            ("latency.e2el_ms.max", 200.0),
            ("latency.send_lag_ms.max", 0.0),
        ],
    );
    assert!(report["totals"]["planned_rate"].is_null());
    let began = times(&fake)[0];
    let expected: Vec<f64> = (0..40).map(|index| began + f64::from(index / 4) * 200.0).collect();
    assert_eq!(times(&fake), expected);
}

#[tokio::test(start_paused = true)]
async fn latency_counts_from_the_plan_where_a_cap_holds_requests_back() {
    // One at a time, 200 ms each, planned every 100 ms: the n-th waits n × 100 ms.
    let report = report(&steady(), "--request-rate 10 --constant --max-concurrency 1 --num-requests 11").await;
    check(
        &report,
        &[
            ("latency.e2el_ms.min", 200.0),
            ("latency.e2el_ms.mean", 700.0),
            ("latency.e2el_ms.max", 1200.0),
            ("latency.ttft_ms.max", 1100.0),
            ("latency.send_lag_ms.max", 1000.0),
            ("latency.held_ms.max", 1000.0),
            ("generator.lateness_ms.max", 0.0),
            ("totals.peak_concurrency", 1.0),
            ("totals.duration_s", 2.2),
        ],
    );
    assert!(warned(&report, "held 10 requests back, 1000 ms at most"));
}

#[tokio::test(start_paused = true)]
async fn an_open_loop_does_not_wait_for_a_server_that_stands_still() {
    // The first answer takes ten seconds, and the requests after it come all the same.
    let fake = Fake::new(|index, body| Stream::of(if index == 0 { 10_000 } else { 10 }, 0, 1).steps(body));
    let report = report(&fake, "--request-rate 10 --constant --num-requests 50").await;
    let expected: Vec<f64> = (0..50).map(|index| f64::from(index) * 100.0).collect();
    let began = times(&fake)[0];
    assert_eq!(times(&fake).iter().map(|at| (at - began).round()).collect::<Vec<_>>(), expected);
    check(&report, &[("latency.ttft_ms.max", 10_000.0), ("latency.ttft_ms.p50", 10.0)]);
}

#[tokio::test(start_paused = true)]
async fn all_at_once() {
    let report = report(&steady(), "--num-requests 100").await;
    check(&report, &[("totals.duration_s", 0.2), ("totals.peak_concurrency", 100.0)]);
    assert!(report["totals"]["planned_rate"].is_null());
}

#[tokio::test(start_paused = true)]
async fn a_trace_is_sent_as_it_was_recorded_or_faster() {
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace.csv");
    let rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0000000,374,44\n\
                2023-11-16 18:15:50.5000000,396,109\n2023-11-16 18:15:51.5000000,8,3\n2023-11-16 18:16:46.0000000,1,1\n";
    std::fs::write(&trace, rows).unwrap();
    /// Its milliseconds, and the tokens of its prompt and of its answer.
    type Sent = (f64, usize, u64);
    // The last is the planned rate: of a trace's gaps, or over the duration where that cut the trace off.
    let cases: [(&str, &[Sent], f64); 5] = [
        ("", &[(0.0, 374, 44), (4500.0, 396, 109), (5500.0, 8, 3), (60_000.0, 1, 1)], 3.0 / 60.0),
        ("--duration 100", &[(0.0, 374, 44), (4500.0, 396, 109), (5500.0, 8, 3), (60_000.0, 1, 1)], 3.0 / 60.0),
        ("--time-scale 10 --duration 2", &[(0.0, 374, 44), (450.0, 396, 109), (550.0, 8, 3)], 3.0 / 2.0),
        ("--start 4.5 --num-requests 2", &[(0.0, 396, 109), (1000.0, 8, 3)], 1.0),
        (
            "--length-scale 0.5 --max-input-len 100 --max-output-len 50 --num-requests 3",
            &[(0.0, 100, 22), (4500.0, 100, 50), (5500.0, 4, 2)],
            2.0 / 5.5,
        ),
    ];
    for (arguments, expected, rate) in cases {
        let fake = Fake::new(|_, body| Stream::of(10, 0, 1).steps(body));
        let began = tokio::time::Instant::now();
        let report = report(&fake, &format!("--trace {} {arguments}", trace.display())).await;
        let seen: Vec<_> = (fake.heard().iter())
            .map(|heard| {
                let tokens = heard.body["prompt"].as_array().unwrap().len();
                (heard.at.round(), tokens, heard.body["max_tokens"].as_u64().unwrap())
            })
            .collect();
        assert_eq!(seen, expected, "{arguments}");
        assert!(began.elapsed() < Duration::from_secs(61));
        check(&report, &[("totals.completed", expected.len() as f64), ("totals.planned_rate", rate)]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_ends_after_its_time() {
    let open = report(&steady(), "--request-rate 10 --constant --duration 2").await;
    check(&open, &[("totals.offered", 20.0), ("totals.completed", 20.0), ("totals.duration_s", 2.1)]);
    let after = report(&steady(), "--request-rate 10 --constant --duration 2.5 --warmup-seconds 0.5").await;
    check(&after, &[("totals.offered", 20.0), ("totals.planned_rate", 10.0)]);
    let closed = report(&steady(), "--max-concurrency 2 --duration 0.9").await;
    check(&closed, &[("totals.offered", 10.0), ("totals.completed", 10.0), ("totals.duration_s", 1.0)]);
}

#[tokio::test(start_paused = true)]
async fn ended_early_it_still_reports() {
    let stop = tokio::time::sleep(Duration::from_millis(1050));
    let report = stopped_report(&steady(), "--request-rate 10 --constant --num-requests 1000", stop).await;
    // Sent at 0 to 1000 ms; those of 900 and 1000 are in flight.
    check(
        &report,
        &[
            ("totals.offered", 11.0),
            ("totals.completed", 9.0),
            ("totals.cut_short", 2.0),
            ("totals.failed", 0.0),
            ("totals.planned_rate", 10.0),
            ("totals.duration_s", 1.05),
            // Nine of 200 ms, one of 150 and one of 50.
            ("totals.mean_concurrency", 2.0 / 1.05),
            ("totals.peak_concurrency", 2.0),
        ],
    );
    assert_eq!((&report["errors"], &report["requests"][10]["error"]), (&json!({}), &json!("cut_short")));
    assert!(warned(&report, "ended before its plan"));
    let stop = tokio::time::sleep(Duration::from_millis(1050));
    let report = stopped_report(&steady(), "--max-concurrency 3 --num-requests 1000", stop).await;
    check(
        &report,
        &[
            ("totals.completed", 15.0),
            ("totals.cut_short", 3.0),
            ("totals.offered", 18.0),
            ("totals.mean_concurrency", 3.0),
        ],
    );
}

/// Else a server that answers nothing would have the best goodput for whoever does not wait.
#[tokio::test(start_paused = true)]
async fn what_is_cut_short_past_its_target_is_a_miss() {
    let fake = || Fake::new(|index, body| Stream::of(if index < 5 { 100 } else { 10_000 }, 50, 3).steps(body));
    let cases = [
        // Of those of 500 to 1000 ms, which have no token, the last three are no older than this.
        ("--goodput ttft:250", 5.0, 8.0),
        ("--goodput e2el:450", 5.0, 6.0),
        ("--goodput tpot:50", 5.0, 5.0),
        // The cap holds those after the first seven back, and they grow old all the same.
        ("--goodput ttft:250 --max-concurrency 2", 5.0, 8.0),
    ];
    for (arguments, within, offered) in cases {
        let stop = tokio::time::sleep(Duration::from_millis(1050));
        let report = stopped_report(&fake(), &format!("--request-rate 10 --constant {arguments}"), stop).await;
        check(
            &report,
            &[
                ("goodput.within", within),
                ("goodput.offered", offered),
                ("goodput.undecided", 11.0 - offered),
                ("goodput.ratio", within / offered),
                ("totals.offered", 11.0),
                ("totals.peak_concurrency", if arguments.contains("max") { 2.0 } else { 6.0 }),
            ],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn warm_up_is_in_no_figure() {
    // The first five requests are slow, whichever they are.
    let slow = || Fake::new(|index, body| Stream::of(if index < 5 { 900 } else { 10 }, 10, 2).steps(body));
    let fake = slow();
    let before = report(&fake, "--num-warmups 5 --request-rate 10 --constant --num-requests 10").await;
    check(&before, &[("latency.ttft_ms.max", 10.0), ("totals.offered", 10.0), ("totals.left_out", 0.0)]);
    assert_eq!(fake.heard().len(), 15);
    let fake = slow();
    let within = report(&fake, "--warmup-seconds 0.5 --request-rate 10 --constant --num-requests 10").await;
    check(
        &within,
        &[
            ("latency.ttft_ms.max", 10.0),
            ("totals.offered", 5.0),
            ("totals.left_out", 5.0),
            // Until the slow ones are over nothing is measured, and they do not lengthen what is: 500 to 920 ms.
            ("totals.duration_s", 0.42),
            // What the server had to do then, it did for the slow ones too: five that are in flight from the beginning,
            // one of them to 910 ms, and five of 20 ms.
            ("totals.peak_concurrency", 6.0),
            ("totals.mean_concurrency", (0.41 + 4.0 * 0.42 + 5.0 * 0.02) / 0.42),
            ("totals.output_tokens", 10.0),
            ("totals.output_throughput", 12.0 / 0.42),
            ("totals.input_throughput", 6.0 * 8.0 / 0.42),
        ],
    );
    assert_eq!(fake.heard().len(), 10);
}
