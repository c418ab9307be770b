//! Deploying, rolling back, inspecting: what an operator sees, while tokens stream.

use reqwest::StatusCode;
use serde_json::Value;

use crate::server::{Server, content, shipped};

/// Every shipped policy can take its slot, and the server answers as before.
#[tokio::test]
async fn every_shipped_policy_takes_its_slot_while_tokens_stream() {
    let server = Server::start(&[]);
    let before = server.ask("What is routing?", 40).await;
    for policy in sluice_bundle::SHIPPED {
        let (streamed, deployed) =
            tokio::join!(server.stream("What is routing?", 40), server.install(policy.component, "{}"));
        assert_eq!(streamed.text, content(&before), "under {}", policy.name);
        assert_eq!(deployed["revision"]["name"], policy.name);
        assert_eq!(deployed["mixed"], false);
        assert!(server.active(policy.slot).await.starts_with(policy.name));
    }
    server.assert_idle_and_empty().await;
}

#[tokio::test]
async fn a_new_limit_takes_effect_and_rollback_takes_it_back() {
    let server = Server::start(&[]);
    let first = server.active("batching").await;
    server.install(shipped("first-come"), r#"{"max_running": 1}"#).await;
    assert!(server.active("batching").await.starts_with("first-come"));
    let (status, body) = server.rollback("batching").await;
    assert_eq!(status, StatusCode::OK, "{body}");
    assert_eq!(server.active("batching").await, first);
    let (status, body) = server.rollback("no-such-slot").await;
    assert_eq!((status, body["error"]["code"].as_str()), (StatusCode::NOT_FOUND, Some("slot_not_found")));
}

#[tokio::test]
async fn state_is_handed_from_one_fair_share_to_the_next() {
    let server = Server::start(&[]);
    server.install(shipped("fair-share"), "{}").await;
    server.ask("What is Sluice?", 20).await;
    let again = server.install(shipped("fair-share"), "{}").await;
    let outcome = &again["seats"][0][1];
    assert_eq!(outcome["handover"], "imported", "{again}");
    let other = server.install(shipped("bounded-queue"), "{}").await;
    assert_ne!(other["seats"][0][1]["handover"], "imported", "another policy's state is not taken");
}

#[tokio::test]
async fn history_tells_who_did_what_and_what_came_of_it() {
    let server = Server::start(&[]);
    server.install(shipped("two-choices"), "{}").await;
    let (status, _) = server.deploy(b"not a component", &[]).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    server.rollback("routing").await;
    let history = server.history().await;
    let lines: Vec<String> = history.iter().map(Value::to_string).collect();
    for part in ["two-choices", "not a WebAssembly component", "roll"] {
        assert!(lines.iter().any(|line| line.contains(part)), "{part} is missing:\n{}", lines.join("\n"));
    }
}
