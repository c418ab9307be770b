//! How a server goes: no new requests, the ones in progress end, and those that take too long are told.

use std::sync::Arc;
use std::time::Duration;

use sluice_core::FinishReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpSocket;

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

/// More than the kernel takes while the client is not reading.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_made_is_written_to_its_end() {
    const CHARACTERS: usize = 2_000_000;
    let mut server = Server::start().await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 * 1024).unwrap();
    let mut client = socket.connect(server.address).await.unwrap();
    client.write_all(chat(&BODY.replace("true", "false")).as_bytes()).await.unwrap();
    let request = server.offered().await;
    let mut left = CHARACTERS;
    while left > 0 {
        match say(&request, "\u{1}") {
            Ok(()) => left -= 1,
            // Not read yet.
            Err(_) => tokio::task::yield_now().await,
        }
    }
    end(&request, FinishReason::Stop, None);
    let mut start = [0; 12];
    client.read_exact(&mut start).await.unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    let (edge, phase) = (Arc::clone(&server.edge), server.phase.clone());
    let gone = tokio::spawn(async move {
        edge.drain(Duration::from_secs(60)).await;
        phase.send(Phase::Gone).unwrap();
    });
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!gone.is_finished(), "the answer is not written yet");
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let written = answer.windows(6).filter(|part| part == br"\u0001").count();
    assert_eq!(written, CHARACTERS);
    gone.await.unwrap();
}
