//! Clients that send or read next to nothing lose their connection in time, and others are served meanwhile.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::server::{Server, chat, content, join_all};

/// That send next to nothing, of each kind, at once.
const CLIENTS: usize = 20;
/// That read nothing. Each holds as many seats as it asked for answers until it is given up.
const READERS: usize = 2;
const ANSWERS: usize = 4;
/// For what is bounded by one second here.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every limit that a slow client can run into is a second.
fn impatient() -> Server {
    Server::start_with(
        &["--max-num-seqs", "16"],
        &[
            ("SLUICE__TIMEOUTS__HEADER", "1"),
            ("SLUICE__TIMEOUTS__BODY", "1"),
            ("SLUICE__TIMEOUTS__IDLE", "1"),
            ("SLUICE__TIMEOUTS__WRITE_STALL", "1"),
        ],
    )
}

fn address(server: &Server) -> &str {
    server.url.strip_prefix("http://").unwrap()
}

/// Sends a byte now and then until the server has had enough; what it said, and whether it ended in time.
async fn drip(server: &Server, first: &str, rest: &str) -> String {
    let mut stream = TcpStream::connect(address(server)).await.unwrap();
    stream.write_all(first.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let bytes = rest.as_bytes().to_vec();
    let dripping = tokio::spawn(async move {
        for byte in bytes.iter().cycle() {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
        }
        // Without a byte to send it stays open all the same.
        std::future::pending::<()>().await;
        drop(writer);
    });
    let mut said = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, reader.read_to_end(&mut said)).await;
    dripping.abort();
    assert!(ended.is_ok(), "the server still waits: {}", String::from_utf8_lossy(&said));
    String::from_utf8_lossy(&said).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_that_never_come_whole_are_given_up() {
    let server = impatient();
    let headers = (0..CLIENTS).map(|_| drip(&server, "POST /v1/completions HTTP/1.1\r\nHost: sluice\r\nX: ", "a"));
    let head = "POST /v1/completions HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n\
                Content-Length: 4000\r\n\r\n{\"prompt\": \"";
    let bodies = (0..CLIENTS).map(|_| drip(&server, head, "a"));
    let silent = (0..CLIENTS).map(|_| drip(&server, "GET /health HTTP/1.1\r\nHost: sluice\r\n\r\n", ""));
    let (headers, bodies, silent, answer) =
        tokio::join!(join_all(headers), join_all(bodies), join_all(silent), server.ask("What is Sluice?", 16));
    assert!(!content(&answer).is_empty(), "others are served meanwhile");
    assert!(headers.iter().all(|said| said.contains("408") && said.contains("header_timeout")), "{headers:?}");
    assert!(bodies.iter().all(|said| said.contains("408") && said.contains("body_timeout")), "{bodies:?}");
    assert!(silent.iter().all(|said| said.starts_with("HTTP/1.1 200")), "{silent:?}");
    for kind in ["header", "body", "idle"] {
        assert!(server.metric("sluice_timeouts_total", kind).await >= CLIENTS as f64, "{kind} time-outs are counted");
    }
    assert_few_connections(&server).await;
}

/// Asks for more than the buffers between take, and reads none of it.
async fn ask_and_never_read(server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(address(server).parse().unwrap()).await.unwrap();
    let mut body = chat("What is Sluice?", 1900);
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    body["n"] = json!(ANSWERS);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_do_not_read_lose_their_answer() {
    let server = impatient();
    let held = join_all((0..READERS).map(|_| ask_and_never_read(&server))).await;
    let deadline = Instant::now() + 2 * PATIENCE;
    while server.metric("sluice_requests_finished_total", "cancelled").await < (READERS * ANSWERS) as f64 {
        assert!(Instant::now() < deadline, "their answers go on");
        assert!(!content(&server.ask("What is Sluice?", 8).await).is_empty(), "others are served meanwhile");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_few_connections(&server).await;
    drop(held);
    server.assert_idle_and_empty().await;
}

/// The slow ones are gone: what is open belongs to the client that asks.
async fn assert_few_connections(server: &Server) {
    let deadline = Instant::now() + PATIENCE;
    while server.metric("sluice_http_connections", "").await > 4.0 {
        assert!(Instant::now() < deadline, "connections stay open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
