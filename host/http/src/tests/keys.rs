//! Both listeners with keys: who gets in where, by which name, and what happens when the file changes.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use sluice_core::FinishReason;
use tempfile::TempDir;
use tokio::time::timeout;

use super::admin;
use super::client::{Reply, chat, connect, get, rest, send};
use super::engine::{Server, config, end, say};
use crate::config::EdgeLimits;
use crate::gate::{Gate, Need};
use crate::key::{Scope, hash_secret};
use crate::keys::Keys;

fn entry(name: &str, secret: &str, scope: &str, weight: u32) -> String {
    let digest = hash_secret(secret);
    format!("[[key]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nscopes = [\"{scope}\"]\nweight = {weight}\n")
}

/// One key a scope: its secret is the scope's name and an `s`.
fn keys_in(folder: &TempDir) -> Keys {
    let text: String = ["inference", "metrics", "deploy"]
        .iter()
        .map(|scope| entry(&format!("{scope}-key"), &format!("{scope}s"), scope, 1))
        .collect();
    load(folder, &text)
}

fn load(folder: &TempDir, text: &str) -> Keys {
    let file = folder.path().join("keys.toml");
    fs::write(&file, text).unwrap();
    Keys::load(Vec::new(), Some(file)).unwrap()
}

fn with_key(request: &str, secret: &str) -> String {
    request.replacen("host: x\r\n", &format!("host: x\r\nauthorization: Bearer {secret}\r\n"), 1)
}

fn asked(method: &str, path: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{{}}")
}

fn refusal(reply: &Reply) -> Option<(u16, String)> {
    matches!(reply.status, 401 | 403).then(|| (reply.status, reply.code()))
}

/// Every method of a path, with no key, with a bad one, and with one of each scope.
async fn check_path(address: SocketAddr, path: &str, need: Need) {
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let request = asked(method, path);
        for without in [request.clone(), with_key(&request, "nobody"), with_key(&request, "")] {
            let reply = send(address, &without).await;
            assert_eq!(refusal(&reply), Some((401, "invalid_api_key".to_owned())), "{without}");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
        }
        for scope in [Scope::Inference, Scope::Metrics, Scope::Deploy] {
            let request = with_key(&request, &format!("{scope}s"));
            let reply = send(address, &request).await;
            let enough = need == Need::AnyKey || need == Need::Scope(scope);
            let expected = (!enough).then(|| (403, "insufficient_scope".to_owned()));
            assert_eq!(refusal(&reply), expected, "{request}");
        }
    }
}

fn filled(path: &str) -> String {
    path.replace("{*id}", "org/tiny").replace("{slot}", "routing")
}

/// A router is made of its table and of nothing else, so that no path is missing here.
#[tokio::test(flavor = "multi_thread")]
async fn every_path_asks_for_a_key_and_its_scope() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new(keys_in(&folder), Vec::new()).unwrap();
    let server = Server::behind(config().limits, gate.clone(), None).await;
    let (admin, _phase) = admin::start(EdgeLimits::default(), gate).await;
    for route in crate::openai::routes() {
        check_path(server.address, &filled(route.path), route.need).await;
    }
    for route in crate::admin::routes() {
        assert_eq!(route.need, Need::Scope(Scope::Deploy), "{}", route.path);
        check_path(admin, &filled(route.path), route.need).await;
    }
    for path in ["/", "/v1", "/v1/chat/completions/", "//health", "/health/", "/admin/policies", "*"] {
        check_path(server.address, path, Need::AnyKey).await;
        let reply = send(server.address, &with_key(&get(path), "inferences")).await;
        assert_eq!((reply.status, reply.code().as_str()), (404, "path_not_found"), "{path}");
    }
    check_path(admin, "/v1/models", Need::AnyKey).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_paths_that_are_public_need_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new(keys_in(&folder), vec!["/health".to_owned()]).unwrap();
    let server = Server::behind(config().limits, gate, None).await;
    assert_eq!(send(server.address, &get("/health")).await.status, 200);
    assert_eq!(send(server.address, &get("/ready")).await.status, 401);
    assert_eq!(send(server.address, &get("/health/")).await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_its_keys_name() {
    let folder = tempfile::tempdir().unwrap();
    let text = [("a", "old", 3), ("a", "new", 3), ("b", "other", 1)].map(|(n, s, w)| entry(n, s, "inference", w));
    let gate = Gate::new(load(&folder, &text.concat()), Vec::new()).unwrap();
    let mut server = Server::behind(config().limits, gate, None).await;
    let body = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(40));
    let mut seen = Vec::new();
    for secret in ["old", "new", "other"] {
        let client = connect(server.address, &with_key(&chat(&body), secret)).await;
        let request = server.offered().await;
        seen.push((request.tenant, request.hashes.hashes()[0], request.tenant_weight));
        drop(client);
        assert_eq!(server.finished().await, FinishReason::Cancelled);
    }
    assert_eq!(seen[0], seen[1], "two secrets of one name");
    assert!(seen[0].0 != seen[2].0 && seen[0].1 != seen[2].1);
    assert_eq!((seen[0].2, seen[2].2), (3.0, 1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_policies_is_done_by_the_keys_name() {
    let folder = tempfile::tempdir().unwrap();
    let gate = Gate::new(keys_in(&folder), Vec::new()).unwrap();
    let (admin, _phase) = admin::start(EdgeLimits::default(), gate).await;
    let component = super::client::post("/admin/policies", "application/wasm", "x");
    assert_eq!(send(admin, &with_key(&component, "deploys")).await.status, 422);
    let history = send(admin, &with_key(&get("/admin/history"), "deploys")).await.json();
    assert_eq!(history["entries"][0]["by"], "deploy-key");
}

/// Until a request with this secret gets this status.
async fn until(address: SocketAddr, secret: &str, status: u16) {
    let asking = async {
        while send(address, &with_key(&get("/v1/models"), secret)).await.status != status {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(30), asking).await.expect("the new keys are in use in time");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_file_is_in_use_without_a_restart_and_answers_in_progress_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let keys = load(&folder, &entry("a", "old", "inference", 1));
    let gate = Gate::new(keys.clone(), Vec::new()).unwrap();
    let mut server = Server::behind(config().limits, gate, None).await;
    tokio::spawn(keys.follow(server.phase.subscribe()));
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let client = connect(server.address, &with_key(&chat(body), "old")).await;
    let request = server.offered().await;
    say(&request, "a").unwrap();

    replace(folder.path(), &entry("a", "new", "inference", 1));
    until(server.address, "new", 200).await;
    assert_eq!(send(server.address, &with_key(&get("/v1/models"), "old")).await.status, 401);
    say(&request, "b").unwrap();
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await;
    assert!(reply.body.ends_with("data: [DONE]\n\n") && reply.body.contains(r#""content":"b""#), "{}", reply.body);
}

/// At once, as whoever replaces a file should.
fn replace(folder: &Path, text: &str) {
    let (new, file) = (folder.join("new.toml"), folder.join("keys.toml"));
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}
