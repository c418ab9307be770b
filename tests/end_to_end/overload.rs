//! Ten times what can be served: what was let in is answered, the queue keeps its bound, and nobody waits too long.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::server::{Server, chat, read_stream};

const SEATS: usize = 4;
const QUEUE: usize = 16;
/// Of clients that ask again as soon as they were answered or turned away.
const CLIENTS: usize = 10 * (SEATS + QUEUE);
/// Whoever waits longer is ended by the server: a failure here. An edge of the histogram's buckets.
const LONGEST_WAIT: &str = "10";
const LOAD: Duration = Duration::from_secs(8);

/// What one client saw.
#[derive(Default)]
struct Seen {
    answered: usize,
    turned_away: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_let_in_at_ten_times_the_capacity_is_answered() {
    let (seats, queue) = (SEATS.to_string(), QUEUE.to_string());
    let limits = ["--max-num-seqs", &seats, "--max-queued-requests", &queue];
    let server = Arc::new(Server::start_with(&limits, &[("SLUICE__TIMEOUTS__QUEUE", LONGEST_WAIT)]));
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(keep_asking(Arc::clone(&server), client, Arc::clone(&done)));
    }
    let highest = watch_the_queue(&server).await;
    done.store(true, Ordering::Relaxed);
    let seen = clients.join_all().await;
    server.assert_idle_and_empty().await;

    let answered: usize = seen.iter().map(|seen| seen.answered).sum();
    let turned_away: usize = seen.iter().map(|seen| seen.turned_away).sum();
    assert!(answered > CLIENTS / 10 && turned_away > answered, "{answered} answered, {turned_away} turned away");
    assert!(highest > 0.0 && highest <= QUEUE as f64, "{highest} waited where {QUEUE} may");
    let total = server.metric("sluice_requests_finished_total", "").await;
    assert_eq!(total, answered as f64, "every request that was let in was answered");
    for (name, label) in [("sluice_requests_finished_total", "failed"), ("sluice_timeouts_total", "")] {
        assert_eq!(server.metric(name, label).await, 0.0, "{name} {label}");
    }
    let waited = quantile(&server, "sluice_request_queue_seconds", 0.99).await;
    assert!(waited <= LONGEST_WAIT.parse().unwrap(), "the p99 of the wait is up to {waited} s");
    eprintln!(
        "{answered} answered, {turned_away} turned away, at most {highest} waiting, p99 of the wait ≤ {waited} s"
    );
}

/// Either a whole answer, or an error that says when to come again.
async fn keep_asking(server: Arc<Server>, client: usize, done: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    let mut body = chat("What is the queue?", 32);
    body["stream"] = json!(client.is_multiple_of(2));
    body["ignore_eos"] = json!(true);
    while !done.load(Ordering::Relaxed) {
        let response = server.post("/v1/chat/completions", &body).await;
        match response.status() {
            StatusCode::OK if client.is_multiple_of(2) => {
                let streamed = read_stream(response).await;
                assert_eq!((streamed.error, streamed.finish_reason.as_deref()), (None, Some("length")));
                seen.answered += 1;
            }
            StatusCode::OK => {
                let answer: Value = response.json().await.unwrap();
                assert_eq!(answer["usage"]["completion_tokens"], 32, "{answer}");
                seen.answered += 1;
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                let after: u32 = response.headers()[RETRY_AFTER].to_str().unwrap().parse().unwrap();
                assert!((1..=120).contains(&after), "Retry-After: {after}");
                seen.turned_away += 1;
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            other => panic!("{other}: {}", response.text().await.unwrap()),
        }
    }
    seen
}

/// The most that were seen to wait while the load lasts.
async fn watch_the_queue(server: &Server) -> f64 {
    let mut highest: f64 = 0.0;
    let watched = tokio::time::Instant::now() + LOAD;
    while tokio::time::Instant::now() < watched {
        highest = highest.max(server.metric("sluice_queue_requests", "").await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    highest
}

/// The upper edge of the bucket that holds the quantile.
async fn quantile(server: &Server, name: &str, share: f64) -> f64 {
    let text = server.get("/metrics").await.text().await.unwrap();
    let mut buckets: Vec<(f64, f64)> = Vec::new();
    for line in text.lines() {
        let Some((labels, count)) = line.strip_prefix(&format!("{name}_bucket")).and_then(|rest| rest.split_once("} "))
        else {
            continue;
        };
        let edge = labels.split("le=\"").nth(1).unwrap().split('"').next().unwrap();
        let edge = if edge == "+Inf" { f64::INFINITY } else { edge.parse().unwrap() };
        let count: f64 = count.parse().unwrap();
        match buckets.iter_mut().find(|(known, _)| *known == edge) {
            Some((_, sum)) => *sum += count,
            None => buckets.push((edge, count)),
        }
    }
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last().unwrap().1;
    buckets.iter().find(|(_, count)| *count >= share * total).unwrap().0
}
