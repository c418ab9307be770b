//! A client that goes away frees its blocks at once, streaming or not, at whatever stage.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;

use crate::server::{Server, chat};

#[tokio::test]
async fn dropped_connections_free_everything() {
    let server = Server::start(&["--max-num-seqs", "4"]);
    let mut clients = JoinSet::new();
    for client in 0..120_u64 {
        let mut body = chat("What is the flight recorder and what does it keep?", 400);
        body["stream"] = json!(client % 2 == 0);
        body["ignore_eos"] = json!(true);
        let sent = server.http.post(format!("{}/v1/chat/completions", server.url)).json(&body).send();
        clients.spawn(async move {
            // Some leave while they wait, some during the prompt, some in the middle of the answer.
            let _ = tokio::time::timeout(Duration::from_millis(5 + client * 7 % 300), async {
                if let Ok(response) = sent.await {
                    let _ = response.bytes().await;
                }
            })
            .await;
        });
    }
    clients.join_all().await;
    server.assert_idle_and_empty().await;
    assert!(server.metric("sluice_requests_finished_total", "cancelled").await > 0.0);
}
