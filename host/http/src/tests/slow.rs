//! Clients that are slow, silent or too talkative: each one ends within its limit, and costs others nothing.

use std::net::SocketAddr;
use std::time::Duration;

use sluice_core::FinishReason;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{sleep, timeout};

use super::admin;
use super::client::{Reply, chat, connect, get, post, rest, send};
use super::engine::{Server, config, end, say};
use crate::config::{AnswerLimits, EdgeLimits};
use crate::gate::Gate;

const BRIEF: Duration = Duration::from_millis(300);
const PATIENCE: Duration = Duration::from_secs(20);

fn limits() -> EdgeLimits {
    let patient = Duration::from_secs(60);
    EdgeLimits { header_time: patient, body_time: patient, idle_time: patient, write_time: patient, ..config().limits }
}

async fn served(address: SocketAddr) {
    let reply = timeout(PATIENCE, send(address, &get("/health"))).await.expect("others are served");
    assert_eq!(reply.status, 200);
}

/// How many were ended for this, once there are so many.
async fn until_counted(address: SocketAddr, kind: &str, count: u64) {
    let line = format!("sluice_timeouts_total{{kind=\"{kind}\"}} {count}\n");
    let counting = async {
        while !send(address, &get("/metrics")).await.body.contains(&line) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, counting).await.unwrap_or_else(|_| panic!("{line} is never counted"));
}

/// A byte at a time, until the other side has had enough.
async fn drip(stream: TcpStream, bytes: Vec<u8>) -> Vec<u8> {
    let (mut reader, mut writer) = stream.into_split();
    let writing = tokio::spawn(async move {
        for byte in bytes {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
        // Not closed by this side.
        writer
    });
    let mut answer = Vec::new();
    let _ended_anyhow = timeout(PATIENCE, reader.read_to_end(&mut answer)).await.expect("the server ends it");
    writing.abort();
    answer
}

/// Two that are slow take all there is; whoever comes after them is served all the same.
async fn check(limits: EdgeLimits, opening: &str, dripped: &str, kind: &str, code: Option<&str>) {
    let server = Server::behind(EdgeLimits { connections: 2, ..limits }, Gate::open(), None).await;
    let dripped = dripped.repeat(10_000).into_bytes();
    let first = tokio::spawn(drip(connect(server.address, opening).await, dripped.clone()));
    served(server.address).await;
    let second = tokio::spawn(drip(connect(server.address, opening).await, dripped));
    served(server.address).await;
    for slow in [first, second] {
        let answer = String::from_utf8(slow.await.unwrap()).unwrap();
        match code {
            None => assert!(!answer.contains("error"), "{answer}"),
            Some(code) => assert!(answer.contains("HTTP/1.1 408 ") && answer.contains(code), "{answer}"),
        }
    }
    until_counted(server.address, kind, 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_byte_by_byte() {
    let limits = EdgeLimits { header_time: BRIEF, ..limits() };
    check(limits, "", "GET /health HTTP/1.1\r\n", "header", Some("header_timeout")).await;
    check(limits, "GET /health HTTP/1.1\r\n", "a: b\r\n", "header", Some("header_timeout")).await;
    check(limits, "", "", "header", Some("header_timeout")).await;
    // The second request of a connection.
    let first = "GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    check(limits, first, "GET /health HTTP/1.1\r\n", "header", Some("header_timeout")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_byte_by_byte() {
    let limits = EdgeLimits { body_time: BRIEF, ..limits() };
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n";
    check(limits, &format!("{head}content-length: 9000\r\n\r\n"), " ", "body", Some("body_timeout")).await;
    check(limits, &format!("{head}transfer-encoding: chunked\r\n\r\n"), "1\r\n \r\n", "body", Some("body_timeout"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_asks_for_nothing_more() {
    let limits = EdgeLimits { idle_time: BRIEF, ..limits() };
    check(limits, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n", "", "idle", None).await;
}

/// A window that stays shut, in front of a stream that does not end.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reads_nothing_is_left_and_its_request_cancelled() {
    let limits = EdgeLimits { connections: 2, write_time: BRIEF, ..limits() };
    let mut server = Server::behind(limits, Gate::open(), None).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut reader = socket.connect(server.address).await.unwrap();
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    reader.write_all(chat(body).as_bytes()).await.unwrap();
    let request = server.offered().await;
    let writing = async {
        // More than the kernel takes: then the edge's own bound is reached.
        while say(&request, &"x".repeat(100)).is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, writing).await.expect("a bound on what is not read");
    served(server.address).await;
    assert_eq!(server.finished().await, FinishReason::Cancelled);
    until_counted(server.address, "write_stall", 1).await;
    let mut read = Vec::new();
    let reset = timeout(PATIENCE, reader.read_to_end(&mut read)).await.expect("the connection is gone");
    assert_eq!(reset.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// Much less at a time than the kernel would like to hold for it, but never nothing for as long as it may.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_slow_and_steady_gets_all_of_its_answer() {
    let limits = EdgeLimits { write_time: Duration::from_secs(1), unread_tokens: 100_000, ..limits() };
    let mut server = Server::behind(limits, Gate::open(), None).await;
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let mut reader = connect(server.address, &chat(body)).await;
    let request = server.offered().await;
    say(&request, &"x".repeat(20_000)).unwrap();
    end(&request, FinishReason::Stop, None);
    let (mut read, mut part) = (Vec::new(), vec![0; 20_000]);
    for _ in 0..80 {
        let bytes = reader.read(&mut part).await.expect("it is not ended");
        read.extend_from_slice(&part[..bytes]);
        sleep(Duration::from_millis(50)).await;
    }
    timeout(PATIENCE, reader.read_to_end(&mut read)).await.expect("the rest comes").unwrap();
    assert!(read.ends_with(b"data: [DONE]\n\n\r\n0\r\n\r\n"));
}

/// A byte behind the request, which HTTP leaves unread until it has answered, does not hide that its client is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_is_noticed_whatever_it_has_sent_behind_its_request() {
    let mut server = Server::behind(limits(), Gate::open(), None).await;
    for behind in ["", "\r\n", "G", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        for stream in ["true", "false"] {
            let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":{stream}}}"#);
            let client = connect(server.address, &(chat(&body) + behind)).await;
            let _request = server.offered().await;
            drop(client);
            assert_eq!(server.finished().await, FinishReason::Cancelled, "{behind:?}");
        }
    }
}

/// The watch of an answer looks at the time only when more of it can be written.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_read_ends_with_its_time() {
    let total = Duration::from_secs(3);
    let mut server = Server::hurried(AnswerLimits { total, ..AnswerLimits::default() }).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut reader = socket.connect(server.address).await.unwrap();
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    reader.write_all(chat(body).as_bytes()).await.unwrap();
    let request = server.offered().await;
    let writing = async {
        while say(&request, &"x".repeat(100)).is_ok() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, writing).await.expect("a bound on what is not read");
    until_counted(server.address, "total", 1).await;
    let mut read = Vec::new();
    let reset = timeout(PATIENCE, reader.read_to_end(&mut read)).await.expect("the connection is gone");
    assert_eq!(reset.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

/// A stream that the engine is slow with is not the client's fault.
#[tokio::test(flavor = "multi_thread")]
async fn no_time_out_of_a_connection_ends_a_request_in_progress() {
    let limits = EdgeLimits { header_time: BRIEF, body_time: BRIEF, idle_time: BRIEF, write_time: BRIEF, ..limits() };
    let mut server = Server::behind(limits, Gate::open(), None).await;
    let client = connect(server.address, &chat(r#"{"messages":[{"role":"user","content":"hi"}]}"#)).await;
    let request = server.offered().await;
    sleep(3 * BRIEF).await;
    say(&request, "a").unwrap();
    sleep(3 * BRIEF).await;
    end(&request, FinishReason::Stop, None);
    assert_eq!(rest(client).await.status, 200);
}

/// Sends a body after it has been refused, and only then looks at the answer.
async fn refused(address: SocketAddr, request: &str) -> Reply {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut client = connect(address, &format!("{head}\r\n\r\n")).await;
    sleep(Duration::from_millis(100)).await;
    for part in body.as_bytes().chunks(body.len() / 4) {
        client.write_all(part).await.unwrap();
        sleep(Duration::from_millis(20)).await;
    }
    rest(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_still_writes_sees_why_it_is_refused() {
    let server = Server::behind(limits(), Gate::open(), None).await;
    let body = "x".repeat(19_000);
    for (path, kind, status, code) in [
        ("/nowhere", "application/json", 404, "path_not_found"),
        ("/v1/completions", "text/plain", 415, "unsupported_media_type"),
        ("/v1/completions", "application/json", 413, "body_too_large"),
    ] {
        let reply = refused(server.address, &post(path, kind, &body)).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code));
    }
}

/// Components may be larger than all else that is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_still_writes_a_component_sees_why_it_is_refused() {
    let limits = EdgeLimits { component_bytes: 600_000, ..limits() };
    let (address, _phase) = admin::start(limits, Gate::open()).await;
    let reply = refused(address, &post("/admin/policies", "application/wasm", &"x".repeat(600_001))).await;
    assert_eq!((reply.status, reply.code().as_str()), (413, "body_too_large"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_is_bounded_in_every_direction() {
    let limits = EdgeLimits { uri_bytes: 100, headers: 10, header_bytes: 1_000, ..limits() };
    let server = Server::behind(limits, Gate::open(), None).await;
    let with = |more: &str| get("/health").replace("host: x\r\n", &format!("host: x\r\n{more}"));
    let many = |count: usize| (0..count).map(|n| format!("h{n}: x\r\n")).collect::<String>();
    let long = |bytes: usize| format!("h: {}\r\n", "x".repeat(bytes));
    for (request, expected) in [
        (get(&format!("/health?{}", "x".repeat(92))), (200, None)),
        (get(&format!("/health?{}", "x".repeat(93))), (414, Some("uri_too_long"))),
        (with(&many(8)), (200, None)),
        (with(&many(9)), (431, Some("headers_too_large"))),
        (with(&long(900)), (200, None)),
        (with(&long(1_000)), (431, Some("headers_too_large"))),
    ] {
        let reply = send(server.address, &request).await;
        let code = (reply.status != 200).then(|| reply.code());
        assert_eq!((reply.status, code.as_deref()), expected, "{request}");
    }
    served(server.address).await;
}

/// What the parser refuses, before anything of ours sees it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_read_is_told_so_in_the_envelope() {
    let server = Server::behind(limits(), Gate::open(), None).await;
    let with = |more: &str| get("/health").replace("host: x\r\n", &format!("host: x\r\n{more}"));
    let many = (0..1_000).map(|n| format!("h{n}: x\r\n")).collect::<String>();
    for (request, expected) in [
        (get(&format!("/{}", "x".repeat(66_000))), (414, "uri_too_long")),
        (with(&many), (431, "headers_too_large")),
        (with(&format!("h: {}\r\n", "x".repeat(200_000))), (431, "headers_too_large")),
        (with("content-length: many\r\n"), (400, "invalid_request")),
        ("no such thing\r\n\r\n".to_owned(), (400, "invalid_request")),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), (400, "invalid_request")),
    ] {
        let reply = send(server.address, &request).await;
        assert_eq!((reply.status, reply.code().as_str()), expected);
    }
    let both = "GET /health HTTP/1.1\r\nhost: x\r\n\r\nno such thing\r\n\r\n";
    let mut read = String::new();
    let mut client = connect(server.address, both).await;
    timeout(PATIENCE, client.read_to_string(&mut read)).await.expect("it ends").unwrap();
    assert!(read.starts_with("HTTP/1.1 200 ") && read.contains("HTTP/1.1 400 "), "{read}");
    assert_eq!(read.matches("invalid_request").count(), 2, "{read}");
    served(server.address).await;
}
