//! SIGTERM drains: streams finish, new requests are turned away, the process ends with 0.

use std::time::{Duration, Instant};

use reqwest::Response;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::server::{Server, chat, join_all, read_stream};

#[tokio::test]
async fn streams_finish_and_the_exit_status_is_zero() {
    let mut server = Server::start(&[]);
    let mut body = chat("What is Sluice?", 300);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let response = server.post("/v1/chat/completions", &body).await;
    server.signal("TERM");
    let streamed = read_stream(response).await;
    assert_eq!(streamed.error, None);
    assert_eq!(streamed.finish_reason.as_deref(), Some("length"));
    assert!(server.wait().success(), "{}", server.log());
}

/// Far more than can be made within a second: all of them together are 30,000 tokens.
const RUNNING: usize = 16;
/// One after the other, a minute's work and more.
const QUEUED: usize = 100;

/// As long as the model's context allows.
fn long() -> Value {
    let mut body = chat("What is Sluice?", 1900);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    body
}

/// Asks for so many, and comes back when the server has them all.
async fn ask(server: &Server, requests: usize) -> JoinSet<reqwest::Result<Response>> {
    let before = server.metric("sluice_http_answers_in_progress", "").await;
    let mut asked = JoinSet::new();
    for _ in 0..requests {
        asked.spawn(server.http.post(format!("{}/v1/chat/completions", server.url)).json(&long()).send());
    }
    while server.metric("sluice_http_answers_in_progress", "").await < before + requests as f64 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    asked
}

#[tokio::test]
async fn past_the_deadline_the_rest_gets_an_error_event() {
    let seats = RUNNING.to_string();
    let mut server = Server::start(&["--drain-timeout", "1", "--max-num-seqs", &seats]);
    let body = long();
    let running = join_all((0..RUNNING).map(|_| server.post("/v1/chat/completions", &body))).await;
    let queued = ask(&server, 8).await;
    server.signal("TERM");
    for response in running {
        let streamed = read_stream(response).await;
        assert_eq!(streamed.finish_reason, None);
        let [.., told, done] = streamed.events.as_slice() else { panic!("{streamed:?}") };
        assert!(told.contains("error") && told.contains("shutting down"), "{told}");
        assert_eq!(done, "[DONE]");
    }
    for response in queued.join_all().await {
        let response = response.expect("no connection is reset");
        assert!(response.status().is_server_error());
        assert!(response.text().await.unwrap().contains("shutting down"));
    }
    assert!(server.wait().success(), "{}", server.log());
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let mut server = Server::start(&["--drain-timeout", "3600", "--max-num-seqs", "1"]);
    let _asked = ask(&server, QUEUED).await;
    server.signal("TERM");
    while server.get("/ready").await.status().is_success() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let left = server.metric("sluice_http_answers_in_progress", "").await;
    assert!(left > QUEUED as f64 / 2.0, "{left} are left");
    let told = Instant::now();
    server.signal("TERM");
    assert!(server.wait().success(), "{}", server.log());
    assert!(told.elapsed() < Duration::from_secs(10), "it took {:?}", told.elapsed());
}
