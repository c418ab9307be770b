//! Bad components, bad models, bad flags: an error that names the thing and the remedy, while everything else goes on.

use std::path::Path;

use reqwest::StatusCode;

use crate::server::{Server, content, file, run, shipped};

async fn check(server: &Server, component: &[u8], query: &[(&str, &str)], parts: &[&str]) {
    let before = server.active("batching").await;
    let (streamed, (status, body)) =
        tokio::join!(server.stream("What is Sluice?", 24), server.deploy(component, query));
    assert!(status.is_client_error(), "{status} {body}");
    let message = body["error"]["message"].as_str().unwrap();
    for part in parts {
        assert!(message.contains(part), "`{part}` is missing: {message}");
    }
    assert_eq!(streamed.error, None, "the streams go on");
    assert_eq!(server.active("batching").await, before, "the running policy goes on");
}

#[tokio::test]
async fn components_that_cannot_be_deployed() {
    let server = Server::start(&[]);
    let good = shipped("first-come");
    check(&server, b"hello", &[], &["not a WebAssembly component"]).await;
    check(&server, b"\0asm\x01\0\0\0", &[], &["component", "core module"]).await;
    check(&server, &good[..good.len() / 2], &[], &["component"]).await;
    check(&server, good, &[("slot", "routing")], &["batching", "routing"]).await;
    check(&server, good, &[("config", r#"{"max_runing": 3}"#)], &["max_runing", "max_running"]).await;
    check(&server, good, &[("config", r#"{"max_running": "many"}"#)], &["max_running"]).await;
    check(&server, good, &[("config", "nonsense")], &["JSON"]).await;
    check(&server, good, &[("class", "heroic")], &["heroic", "standard"]).await;
    let (status, body) = server.deploy(&vec![0; 33 << 20], &[]).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE, "{body}");
}

fn fails(arguments: &[&str], parts: &[&str]) {
    let output = run(arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{arguments:?} succeeded");
    assert!(!said.contains("panicked"), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is missing in what {arguments:?} said: {said}");
    }
}

fn embedded_copy(folder: &Path, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> String {
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/embedded");
    for name in
        ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"]
    {
        if let Some(bytes) = change(name, std::fs::read(embedded.join(name)).unwrap()) {
            file(folder, name, &bytes);
        }
    }
    folder.to_str().unwrap().to_owned()
}

fn model_fails(change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>, parts: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let model = embedded_copy(folder.path(), change);
    fails(&["serve", "--model", &model, "--port", "0", "--admin-port", "0"], parts);
}

#[test]
fn models_that_cannot_be_served() {
    let without = |missing: &'static str| move |name: &str, bytes| (name != missing).then_some(bytes);
    let replacing = |file: &'static str, from: &'static str, to: &'static str| {
        move |name: &str, bytes: Vec<u8>| {
            Some(if name == file { String::from_utf8(bytes).unwrap().replace(from, to).into_bytes() } else { bytes })
        }
    };
    fails(&["serve", "--model", "/no/such/folder"], &["/no/such/folder"]);
    model_fails(without("model.safetensors"), &["model.safetensors"]);
    model_fails(without("config.json"), &["config.json"]);
    model_fails(without("tokenizer.json"), &["tokenizer.json"]);
    model_fails(
        replacing("config.json", "Qwen3ForCausalLM", "LlamaForCausalLM"),
        &["LlamaForCausalLM", "Qwen3ForCausalLM"],
    );
    model_fails(replacing("config.json", "\"hidden_size\": 256", "\"hidden_size\": 512"), &["shape"]);
    model_fails(
        |name, bytes| Some(if name == "model.safetensors" { bytes[..bytes.len() / 2].to_vec() } else { bytes }),
        &["model.safetensors"],
    );
    model_fails(
        |name, bytes| Some(if name == "model.safetensors" { vec![255; 64] } else { bytes }),
        &["model.safetensors"],
    );
}

#[test]
fn flags_and_configuration_files() {
    fails(&["serve", "--no-such-flag"], &["--no-such-flag"]);
    fails(&["serve", "--policy", "batching=no-such-policy"], &["no-such-policy", "first-come"]);
    fails(&["serve", "--max-num-seqs", "0"], &["max_num_seqs"]);
    fails(&["serve", "--port", "0", "--admin-port", "0", "--max-queued-tokens", "9"], &["max_queued_tokens", "2048"]);
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "sluice.toml", b"[engine]\nmax_num_seq = 4\n");
    fails(&["serve", "--config", &config], &["max_num_seq", "max_num_seqs"]);
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = Server::start(&[]);
    let port = server.url.rsplit(':').next().unwrap().to_owned();
    fails(&["serve", "--port", &port, "--admin-port", "0"], &[&port]);
    assert!(!content(&server.ask("hello", 5).await).is_empty());
}
