//! SIGTERM drains: streams finish, new requests are turned away, the process ends with 0.

use std::time::Duration;

use serde_json::json;

use crate::server::{Server, chat, read_stream};

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

#[tokio::test]
async fn past_the_deadline_the_rest_gets_an_error_event() {
    let mut server = Server::start(&["--drain-timeout", "1", "--max-num-seqs", "1"]);
    let mut body = chat("What is Sluice?", 1900);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let response = server.post("/v1/chat/completions", &body).await;
    let others: Vec<_> = (0..6)
        .map(|_| tokio::spawn(server.http.post(format!("{}/v1/chat/completions", server.url)).json(&body).send()))
        .collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.signal("TERM");
    let streamed = read_stream(response).await;
    let told = streamed.error.is_some() || streamed.finish_reason.is_some();
    assert!(told, "{:?}", streamed.events.last());
    for other in others {
        if let Ok(response) = other.await.unwrap() {
            let text = response.text().await.unwrap();
            assert!(text.contains("error") || text.contains("finish_reason"), "{text}");
        }
    }
    assert!(server.wait().success(), "{}", server.log());
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let mut server = Server::start(&["--drain-timeout", "3600"]);
    let mut body = chat("What is Sluice?", 1900);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    let _held = server.post("/v1/chat/completions", &body).await;
    server.signal("TERM");
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.signal("TERM");
    server.wait();
}
