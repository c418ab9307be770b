//! Every way in which a request can fail, told apart and counted.

use serde_json::{Value, json};

use super::fake::{END, Fake, HEAD, Step, Stream, event, piece, whole};
use super::run::{check, report, run, warned};

fn broken(index: usize, body: &Value) -> Vec<Step> {
    let good = Stream::of(10, 10, 3);
    let head = || Step::Send(HEAD.to_owned());
    let end = || Step::Send(END.to_owned());
    match index % 10 {
        1 => vec![whole(503, &json!({ "error": { "message": "full", "type": "busy", "code": "queue_full" } }))],
        2 => [good.begun(), vec![Step::Close]].concat(),
        3 => [good.begun(), vec![end()]].concat(),
        4 => [good.begun(), vec![event(&json!({ "error": { "message": "lost", "code": "replica_lost" } })), end()]]
            .concat(),
        5 => vec![head(), piece("data: {\"choices\": [}\n\n"), end()],
        6 => {
            let usage = json!({ "prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4 });
            let last = json!({ "choices": [{ "text": "", "finish_reason": "stop" }], "usage": usage });
            [good.begun(), vec![event(&last), end()]].concat()
        }
        7 => vec![Step::Close],
        8 => vec![Step::Hang],
        9 => [good.begun(), vec![Step::Hang]].concat(),
        _ => good.steps(body),
    }
}

#[tokio::test(start_paused = true)]
async fn each_kind_is_counted_by_its_name() {
    let fake = Fake::new(broken);
    let report = report(&fake, "--request-rate 10 --constant --num-requests 100 --timeout 2 --goodput ttft:1000").await;
    let kinds: Vec<(&str, u64)> = (report["errors"].as_object().unwrap().iter())
        .map(|(kind, error)| (kind.as_str(), error["count"].as_u64().unwrap()))
        .collect();
    let expected = [
        ("broken_stream", 10),
        ("http_503:queue_full", 10),
        ("malformed", 10),
        ("no_answer", 10),
        ("stream_error:replica_lost", 10),
        ("timeout", 20),
        ("truncated", 10),
        ("wrong_usage", 10),
    ];
    assert_eq!(kinds, expected);
    check(
        &report,
        &[
            ("totals.offered", 100.0),
            ("totals.completed", 10.0),
            ("totals.failed", 90.0),
            // Only what succeeded counts, over all that was sent.
            ("goodput.ratio", 0.1),
            ("latency.e2el_ms.count", 10.0),
            ("latency.e2el_ms.max", 30.0),
            ("totals.output_tokens", 30.0),
        ],
    );
    assert!(warned(&report, "90 requests failed"));
    let row = |index: usize| &report["requests"][index];
    check(row(9), &[("ttft_ms", 10.0), ("e2el_ms", 2000.0), ("chunks", 3.0)]);
    assert_eq!(row(9)["error"], "timeout");
    assert_eq!(row(1)["error_message"], "status 503: full");
    assert_eq!(fake.heard().len(), 100, "nothing is tried again");
}

#[tokio::test(start_paused = true)]
async fn refused_connections() {
    // The first connection is the one that is asked for the model.
    let fake = Fake::new(|_, _| vec![Step::Close]).refusing(|number| number > 0);
    let report = report(&fake, "--max-concurrency 1 --num-requests 3 --model m").await;
    assert_eq!(report["totals"]["completed"], 0);
    let failed = report["errors"]["connect"]["count"].as_u64().unwrap();
    assert!(failed >= 2, "{}", report["errors"]);
}

/// The connector runs within a request's task. Its first connection asks for the model.
#[tokio::test(start_paused = true)]
async fn a_task_that_panics_is_a_failure() {
    let fake = Fake::new(|_, body| Stream::of(300, 10, 3).steps(body)).refusing(|number| {
        assert!(number != 2, "a bug");
        false
    });
    let report = report(&fake, "--request-rate 10 --constant --num-requests 3 --goodput e2el:1000").await;
    check(
        &report,
        &[
            ("totals.offered", 3.0),
            ("totals.completed", 2.0),
            ("totals.failed", 1.0),
            ("errors.generator.count", 1.0),
            ("goodput.ratio", 2.0 / 3.0),
        ],
    );
}

#[tokio::test(start_paused = true)]
async fn a_server_that_cannot_be_used_is_told_before_the_load() {
    let never = || std::future::pending();
    let dead = Fake::new(|_, _| Vec::new()).refusing(|_| true);
    let error = run(&dead, "--max-concurrency 1", never()).await.unwrap_err().to_string();
    assert!(error.contains("/v1/models failed (no connection"), "{error}");
    let error = run(&dead, "--max-concurrency 1 --model m", never()).await.unwrap_err().to_string();
    assert!(error.starts_with("no warm-up request succeeded") && error.contains("no connection"), "{error}");

    let refusing = Fake::new(|_, _| vec![whole(401, &json!({ "error": { "message": "which key?" } }))]);
    let error = run(&refusing, "--max-concurrency 1", never()).await.unwrap_err();
    assert!(error.to_string().ends_with("status 401: which key?") && !error.is_usage(), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_contradicts_itself_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.csv");
    std::fs::write(&empty, "TIMESTAMP,ContextTokens,GeneratedTokens\n").unwrap();
    let fake = Fake::new(|_, _| Vec::new());
    let cases = [
        ("--duration 5".to_owned(), "--duration: how many at a time?"),
        ("--no-stream --goodput tpot:5".to_owned(), "--goodput: with --no-stream"),
        ("--endpoint chat --prompt-form tokens".to_owned(), "--prompt-form: token ids are for"),
        ("--extra-body []".to_owned(), "--extra-body: a JSON object is wanted"),
        ("--extra-body {".to_owned(), "--extra-body: EOF"),
        ("--extra-body {\"n\":2}".to_owned(), "--extra-body: with an n of 2 a stream mixes 2 answers"),
        ("--header x".to_owned(), "--header: NAME:VALUE"),
        ("--base-url nowhere".to_owned(), "--base-url: `nowhere`"),
        ("--trace /no/such.csv".to_owned(), "--trace /no/such.csv: "),
        ("--prompts /no/such.txt".to_owned(), "--prompts /no/such.txt: "),
        (format!("--trace {}", empty.display()), "there is no request to send"),
    ];
    for (arguments, expected) in cases {
        let error = run(&fake, &arguments, std::future::pending()).await.unwrap_err();
        assert!(error.is_usage() && error.to_string().starts_with(expected), "{arguments}: {error}");
    }
    assert_eq!(fake.connections(), 0);
}
