//! How a server goes: no new requests, the ones in progress end, and those that take too long are told.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::FinishReason;

use super::client::{chat, connect, get, rest, send};
use super::engine::{Server, end, say};
use crate::serve::Phase;

const BODY: &str = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;

#[tokio::test(flavor = "multi_thread")]
async fn answers_in_progress_end_and_new_ones_are_refused() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(BODY)).await;
    let request = server.offered().await;
    say(&request, "a").unwrap();
    let edge = Arc::clone(&server.edge);
    let drained = tokio::spawn(async move { edge.drain(Duration::from_secs(60)).await });
    while !server.edge.is_draining() {
        tokio::task::yield_now().await;
    }
    for request in [get("/ready"), chat(BODY)] {
        let reply = send(server.address, &request).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "shutting_down"));
        assert!(reply.header("retry-after").is_some());
    }
    assert_eq!(send(server.address, &get("/health")).await.status, 200);
    assert!(!drained.is_finished());
    end(&request, FinishReason::Stop, None);
    assert!(rest(client).await.body.ends_with("data: [DONE]\n\n"));
    drained.await.unwrap();
    server.phase.send(Phase::Closing).unwrap();
    // The listener goes when the phase has been seen.
    while tokio::net::TcpStream::connect(server.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_still_waits_at_the_deadline_is_sent_elsewhere() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(BODY)).await;
    let _waiting = server.offered().await;
    server.edge.drain(Duration::from_millis(50)).await;
    let reply = rest(client).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "shutting_down"));
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deadline_ends_what_is_left_with_an_error_event() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(BODY)).await;
    let request = server.offered().await;
    say(&request, "a").unwrap();
    server.edge.drain(Duration::from_millis(50)).await;
    let reply = rest(client).await;
    assert!(reply.body.contains("the server is shutting down"), "{}", reply.body);
    assert!(reply.body.ends_with("data: [DONE]\n\n"));
    assert!(say(&request, "b").is_err());
}
