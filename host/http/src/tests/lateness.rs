//! Answers that take too long: each way has its code, is counted, and frees what the engine held.

use std::time::Duration;

use sluice_core::{EndOfStream, Failure, FailureKind, FinishReason, SECOND, TokenEvent};

use super::client::{chat, connect, get, rest, send};
use super::engine::{Server, end, say};
use crate::config::AnswerLimits;

const SOON: Duration = Duration::from_millis(100);
const BODY: &str = r#"{"messages":[{"role":"user","content":"hi"}]}"#;
const STREAM: &str = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;

async fn counted(server: &Server, kind: &str) -> bool {
    let metrics = send(server.address, &get("/metrics")).await.body;
    metrics.contains(&format!(r#"sluice_timeouts_total{{kind="{kind}"}} 2"#))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_begin_is_a_status() {
    let mut server = Server::hurried(AnswerLimits { first_token: SOON, ..AnswerLimits::default() }).await;
    for body in [BODY, STREAM] {
        let client = connect(server.address, &chat(body)).await;
        let _request = server.offered().await;
        let reply = rest(client).await;
        assert_eq!((reply.status, reply.code().as_str()), (504, "first_token_timeout"));
        assert_eq!(server.finished().await, FinishReason::Cancelled);
    }
    assert!(counted(&server, "first_token").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_and_preparing_a_request_take_of_its_time() {
    let mut server = Server::hurried(AnswerLimits { first_token: SOON, ..AnswerLimits::default() }).await;
    let edge = std::sync::Arc::clone(&server.edge);
    let all = u32::try_from(edge.preparations.available_permits()).unwrap();
    let _nobody_is_free = edge.preparations.acquire_many(all).await.unwrap();
    let broken_off = chat(BODY).replace("content-length: ", "content-length: 1");
    let large = chat(&BODY.replace("hi", &"x".repeat(5_000)));
    for request in [broken_off, large] {
        let reply = rest(connect(server.address, &request).await).await;
        assert_eq!((reply.status, reply.code().as_str()), (504, "first_token_timeout"));
    }
    assert!(counted(&server, "first_token").await);
    assert!(server.is_quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_waited_in_the_queue_for_too_long_is_told_when_to_come_back() {
    let mut server = Server::start().await;
    for body in [BODY, STREAM] {
        let client = connect(server.address, &chat(body)).await;
        let request = server.offered().await;
        let failure = Failure::new(FailureKind::QueueTimeout, "it waited for 30 s");
        let failure = Some(Failure { retry_after: Some(9 * SECOND), ..failure });
        let end = EndOfStream { reason: FinishReason::Failed, failure, cached_tokens: 0 };
        request.sink.send(TokenEvent::End(end)).unwrap();
        let reply = rest(client).await;
        let seen = (reply.status, reply.code(), reply.header("retry-after"));
        assert_eq!(seen, (503, "queue_timeout".to_owned(), Some("9")));
    }
    assert!(counted(&server, "queue").await);
    assert!(server.is_quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_stalls_or_goes_on_for_too_long_ends() {
    let stalls = AnswerLimits { stall: SOON, ..AnswerLimits::default() };
    let lasts = AnswerLimits { total: SOON, ..AnswerLimits::default() };
    for (limits, kind) in [(stalls, "stall"), (lasts, "total")] {
        let mut server = Server::hurried(limits).await;
        for body in [BODY, STREAM] {
            let client = connect(server.address, &chat(body)).await;
            let request = server.offered().await;
            say(&request, "a").unwrap();
            let reply = rest(client).await;
            let code = format!("{kind}_timeout");
            if body == BODY {
                assert_eq!((reply.status, reply.code()), (504, code));
            } else {
                assert_eq!(reply.status, 200);
                assert_eq!(reply.events().last().unwrap()["error"]["code"], code);
            }
            assert_eq!(server.finished().await, FinishReason::Cancelled);
        }
        assert!(counted(&server, kind).await, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_says_that_it_is_there() {
    use tokio::io::AsyncReadExt;

    let limits = AnswerLimits { sign_of_life: Duration::from_millis(20), ..AnswerLimits::default() };
    let mut server = Server::hurried(limits).await;
    let mut client = connect(server.address, &chat(STREAM)).await;
    let request = server.offered().await;
    say(&request, "a").unwrap();
    let mut seen = Vec::new();
    while String::from_utf8_lossy(&seen).matches(": keep-alive\n\n").count() < 2 {
        assert!(client.read_buf(&mut seen).await.unwrap() > 0);
    }
    // Not before the first token, with which the status is decided.
    let seen = String::from_utf8(seen).unwrap();
    assert!(seen.find("data: ").unwrap() < seen.find(": keep-alive").unwrap());
    end(&request, FinishReason::Stop, None);
    let mut left = String::new();
    client.read_to_string(&mut left).await.unwrap();
    assert!(left.contains("data: [DONE]\n\n"));
}
