//! Two thousand swaps over two replicas under 32 streaming clients: nothing fails, nothing leaks, no answer changes.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::task::JoinSet;

use crate::server::{Server, content, shipped};

const SWAPS: usize = 2000;
const CLIENTS: usize = 32;
const QUESTIONS: [&str; 8] = [
    "What is Sluice?",
    "What is admission?",
    "What is routing?",
    "What is batching?",
    "How does a hot swap work?",
    "What is the prefix cache?",
    "What happens when memory runs out?",
    "How do I roll back a policy?",
];
const TOKENS: u32 = 48;

/// What is deployed in turn: each slot changes hands over and over.
fn revisions() -> Vec<(&'static [u8], &'static str)> {
    vec![
        (shipped("first-come"), r#"{"max_running": 24}"#),
        (shipped("least-loaded"), "{}"),
        (shipped("fair-share"), "{}"),
        (shipped("utilization-band"), r#"{"signal": "engine-busy"}"#),
        (shipped("two-choices"), "{}"),
        (shipped("bounded-queue"), "{}"),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_swaps_under_load() {
    let server = Arc::new(Server::start(&["--replicas", "2", "--max-num-seqs", "32"]));
    let mut quiet = HashMap::new();
    for question in QUESTIONS {
        quiet.insert(question, content(&server.ask(question, TOKENS).await).to_owned());
    }
    let done = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (server, done, quiet) = (Arc::clone(&server), Arc::clone(&done), quiet.clone());
        clients.spawn(async move {
            let mut answers = 0;
            while !done.load(Ordering::Relaxed) {
                let question = QUESTIONS[(client + answers) % QUESTIONS.len()];
                let streamed = server.stream(question, TOKENS).await;
                assert_eq!(streamed.error, None);
                assert_eq!(streamed.text, quiet[question], "a swap changed an answer");
                answers += 1;
            }
            answers
        });
    }

    let revisions = revisions();
    let (mut pauses, mut memory) = (Vec::with_capacity(SWAPS * 2), Vec::new());
    for swap in 0..SWAPS {
        let (component, config) = revisions[swap % revisions.len()];
        let deployed = server.install(component, config).await;
        assert_eq!(deployed["mixed"], false, "{deployed}");
        pauses.extend(deployed["seats"].as_array().unwrap().iter().map(pause));
        if swap % 100 == 99 {
            memory.push(server.resident());
        }
    }
    done.store(true, Ordering::Relaxed);
    let answers: usize = clients.join_all().await.into_iter().sum();
    server.assert_idle_and_empty().await;

    assert!(answers > CLIENTS, "the clients were served while policies changed: {answers} answers");
    assert_eq!(server.metric("sluice_requests_finished_total", "failed").await, 0.0);
    assert_eq!(server.metric("sluice_policy_fallbacks_total", "").await, 0.0);
    let (settled, last) = (memory[memory.len() / 2], memory[memory.len() - 1]);
    assert!(last < settled + (32 << 20), "memory grows: {memory:?}");
    pauses.sort_unstable();
    let quantile = |share: f64| pauses[((pauses.len() - 1) as f64 * share) as usize] as f64 / 1000.0;
    eprintln!(
        "{SWAPS} swaps, {} seats, {answers} answers: pause p50 {:.0} µs, p99 {:.0} µs, max {:.0} µs; resident {} MiB",
        pauses.len(),
        quantile(0.5),
        quantile(0.99),
        quantile(1.0),
        last >> 20,
    );
    // What is promised is 5 ms, and what is measured a tenth of that. Machines that run tests may be busy with other
    // things, so only what no busy machine explains fails: a swap that holds up a step for as long as it compiles.
    assert!(quantile(0.99) < 50_000.0, "the pause at p99 is {:.0} µs", quantile(0.99));
}

fn pause(seat: &Value) -> u64 {
    seat[1]["pause_ns"].as_u64().unwrap_or_else(|| panic!("not committed: {seat}"))
}
