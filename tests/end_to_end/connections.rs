//! Ten thousand connections dropped wherever it hurts: no block stays taken, and memory does not grow.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sluice_core::split_mix;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::server::{Server, chat};

const CONNECTIONS: u64 = 10_000;
/// At once.
const CLIENTS: u64 = 100;
/// What the second half may add to what the first one left. An allocator keeps some of what it was given back.
const GROWTH: u64 = 16 << 20;

/// How far a client comes before it leaves.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Connected,
    /// Somewhere in the request line or the headers.
    Headers,
    Body,
    /// The whole request is sent, and nobody waits for the answer.
    Asked,
    /// It waits for so many milliseconds, while the request is queued or answered, and reads nothing.
    Waiting(u64),
    /// It reads so many bytes of the answer.
    Reading(usize),
    /// It takes its answer like others.
    Whole,
}

impl Stage {
    fn drawn(random: &mut u64) -> Self {
        match split_mix(random) % 7 {
            0 => Self::Connected,
            1 => Self::Headers,
            2 => Self::Body,
            3 => Self::Asked,
            4 => Self::Waiting(split_mix(random) % 40),
            5 => Self::Reading(1 + (split_mix(random) % 4000) as usize),
            _ => Self::Whole,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_dropped_connections_leave_nothing_behind() {
    let server = Arc::new(Server::start(&["--max-num-seqs", "16"]));
    drop_connections(&server, 0..CONNECTIONS / 2).await;
    server.assert_idle_and_empty().await;
    let before = server.resident();
    drop_connections(&server, CONNECTIONS / 2..CONNECTIONS).await;
    server.assert_idle_and_empty().await;
    let after = server.resident();
    assert!(after < before + GROWTH, "memory grew from {before} to {after} bytes");
    let cancelled = server.metric("sluice_requests_finished_total", "cancelled").await;
    assert!(cancelled > 100.0, "{cancelled} requests were cancelled by clients that left");
    assert_eq!(server.metric("sluice_requests_finished_total", "failed").await, 0.0);
    assert_eq!(server.ask("What is Sluice?", 8).await["choices"][0]["finish_reason"], "length");
    eprintln!("{cancelled} requests cancelled; resident {} MiB, then {} MiB", before >> 20, after >> 20);
}

async fn drop_connections(server: &Arc<Server>, connections: std::ops::Range<u64>) {
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (server, connections) = (Arc::clone(server), connections.clone());
        clients.spawn(async move {
            for connection in connections.skip(client as usize).step_by(CLIENTS as usize) {
                let mut random = connection;
                let stage = Stage::drawn(&mut random);
                // The server may close first where it has already refused; what counts is what is left behind.
                let _left = leave_at(&server, stage, random).await;
            }
        });
    }
    clients.join_all().await;
}

async fn leave_at(server: &Server, stage: Stage, mut random: u64) -> io::Result<()> {
    let mut stream = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await?;
    let (head, body) = request(split_mix(&mut random));
    let part = |bytes: &[u8], random: &mut u64| (split_mix(random) % bytes.len() as u64) as usize;
    match stage {
        Stage::Connected => return Ok(()),
        Stage::Headers => return stream.write_all(&head.as_bytes()[..part(head.as_bytes(), &mut random)]).await,
        Stage::Body => {
            stream.write_all(head.as_bytes()).await?;
            return stream.write_all(&body.as_bytes()[..part(body.as_bytes(), &mut random)]).await;
        }
        Stage::Asked | Stage::Waiting(_) | Stage::Reading(_) | Stage::Whole => {}
    }
    stream.write_all(format!("{head}{body}").as_bytes()).await?;
    match stage {
        Stage::Waiting(milliseconds) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
        Stage::Reading(bytes) => drop(stream.read_exact(&mut vec![0; bytes]).await?),
        Stage::Whole => drop(stream.read_to_end(&mut Vec::new()).await?),
        _ => {}
    }
    Ok(())
}

/// A request's head and body: half of them stream, and all that are answered are closed then.
fn request(random: u64) -> (String, String) {
    let question = ["What is Sluice?", "What is a policy?", "What is the prefix cache?"][(random % 3) as usize];
    let mut body = chat(question, 4 + (random / 3 % 60) as u32);
    body["stream"] = json!((random / 1024).is_multiple_of(2));
    body["ignore_eos"] = json!(true);
    let body = body.to_string();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: sluice\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (head, body)
}
