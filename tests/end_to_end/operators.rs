//! What an operator sets up: keys, TLS, the audit log, the folder of policies, and the configuration that says so.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::json;

use crate::server::{Server, file, run, shipped, sluice};

/// Of `sluice key new`: the secret, and the entry for the keys file.
fn new_key(name: &str, scopes: &[&str]) -> (String, String) {
    let scopes = scopes.iter().flat_map(|scope| ["--scope", scope]);
    let output = run(&["key", "new", name].into_iter().chain(scopes).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let entry = String::from_utf8(output.stdout).unwrap();
    let secret = String::from_utf8(output.stderr).unwrap().trim().rsplit(' ').next().unwrap().to_owned();
    assert!(secret.len() > 64 && !entry.contains(&secret), "the entry does not hold the secret: {entry}");
    (secret, entry)
}

async fn status(server: &Server, url: &str, key: Option<&str>) -> StatusCode {
    let request = server.http.get(url);
    let request = if let Some(key) = key { request.bearer_auth(key) } else { request };
    request.send().await.unwrap().status()
}

/// Runs a policy command with a key in its environment; what it says.
fn policy(server: &Server, key: &str, arguments: &[&str]) -> Result<String, String> {
    let command = [&["policy"], arguments, &["--admin", &server.admin]].concat();
    let output = sluice().args(command).env("SLUICE_ADMIN_KEY", key).output().unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(said(&output.stdout)) } else { Err(said(&output.stderr)) }
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !condition().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn replace(path: &Path, bytes: &[u8]) {
    let fresh = path.with_extension("fresh");
    fs::write(&fresh, bytes).unwrap();
    fs::rename(fresh, path).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_let_in_whom_they_name_and_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (alice, first) = new_key("alice", &[]);
    let (operator, second) = new_key("operator", &["deploy", "metrics"]);
    let keys = file(folder.path(), "keys.toml", format!("{first}\n{second}").as_bytes());
    let audit = folder.path().join("audit.jsonl");
    let server = Server::start(&["--api-key-file", &keys, "--audit-log", audit.to_str().unwrap()]);

    let (models, metrics) = (format!("{}/v1/models", server.url), format!("{}/metrics", server.url));
    let policies = format!("{}/admin/policies", server.admin);
    for (url, key, expected) in [
        (&models, None, 401),
        (&models, Some("sk-wrong"), 401),
        (&models, Some(alice.as_str()), 200),
        (&models, Some(&operator), 403),
        (&metrics, Some(&alice), 403),
        (&metrics, Some(&operator), 200),
        (&policies, None, 401),
        (&policies, Some(&alice), 403),
        (&policies, Some(&operator), 200),
    ] {
        assert_eq!(status(&server, url, key).await.as_u16(), expected, "{url} with {key:?}");
    }

    let component = file(folder.path(), "two-choices.wasm", shipped("two-choices"));
    assert!(policy(&server, &alice, &["deploy", &component]).unwrap_err().contains("deploy"));
    policy(&server, &operator, &["deploy", &component]).unwrap();
    assert!(policy(&server, &operator, &["history"]).unwrap().contains("operator deploy routing done"));

    let (bob, third) = new_key("bob", &[]);
    replace(Path::new(&keys), format!("{second}\n{third}").as_bytes());
    eventually("the new key is known", async || status(&server, &models, Some(&bob)).await == 200).await;
    assert_eq!(status(&server, &models, Some(&alice)).await, 401);
    replace(Path::new(&keys), b"nonsense");
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!(status(&server, &models, Some(&bob)).await, 200, "a broken file leaves the keys as they were");

    drop(server);
    let verified = run(&["audit", "verify", audit.to_str().unwrap()]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    let text = fs::read_to_string(&audit).unwrap();
    assert!(text.contains("\"by\":\"operator\"") && !text.contains(&operator), "names, and no secrets");
    fs::write(&audit, text.replace("\"by\":\"operator\"", "\"by\":\"somebody\"")).unwrap();
    let broken = run(&["audit", "verify", audit.to_str().unwrap()]);
    assert!(!broken.status.success());
    assert!(String::from_utf8_lossy(&broken.stderr).contains("is broken in line"));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_listeners_speak_tls() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()]).unwrap();
    let certificate = file(folder.path(), "cert.pem", made.cert.pem().as_bytes());
    let key = file(folder.path(), "key.pem", made.signing_key.serialize_pem().as_bytes());
    let server = Server::start(&["--ssl-certfile", &certificate, "--ssl-keyfile", &key]);
    assert!(server.url.starts_with("https://") && server.admin.starts_with("https://"), "{}", server.url);

    let ours = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let trusting = reqwest::Client::builder().tls_certs_only([ours]).build().unwrap();
    let ready = trusting.get(format!("{}/ready", server.url)).send().await.unwrap();
    assert_eq!(ready.status(), 200);
    let wary = server.http.get(format!("{}/ready", server.url)).send().await;
    assert!(wary.is_err(), "a certificate that nobody vouches for is not taken");
    let plain = server.http.get(format!("{}/ready", server.url.replace("https", "http"))).send().await;
    assert!(
        !plain.is_ok_and(|response| response.status().is_success()),
        "plain text is not answered as if it were TLS"
    );

    let list = run(&["policy", "list", "--admin", &server.admin, "--ssl-ca-certs", &certificate]);
    assert!(list.status.success(), "{}", String::from_utf8_lossy(&list.stderr));
    assert!(!run(&["policy", "list", "--admin", &server.admin]).status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_policies_is_deployed_and_followed() {
    let folder = tempfile::tempdir().unwrap();
    file(folder.path(), "routing.wasm", shipped("two-choices"));
    let server = Server::start(&["--policy-dir", folder.path().to_str().unwrap()]);
    let active = async || {
        let response = server.http.get(format!("{}/admin/policies", server.admin)).send().await.unwrap();
        let slots: serde_json::Value = response.json().await.unwrap();
        let name = |slot: usize| slots["slots"][slot]["committed"]["name"].as_str().unwrap().to_owned();
        (name(1), name(2))
    };
    assert_eq!(active().await, ("two-choices".to_owned(), "first-come".to_owned()));

    replace(&folder.path().join("batching.json"), br#"{"min": 2}"#);
    replace(&folder.path().join("batching.wasm"), shipped("utilization-band"));
    eventually("the new batching policy is deployed", async || active().await.1 == "utilization-band").await;
    replace(&folder.path().join("routing.wasm"), b"no component");
    eventually("the refusal is told", async || server.log().contains("not deployed from the folder")).await;
    assert_eq!(active().await, ("two-choices".to_owned(), "utilization-band".to_owned()));
    assert_eq!(server.post("/v1/completions", &json!({"prompt": "a", "max_tokens": 3})).await.status(), 200);
}

#[test]
fn the_configuration_is_shown_with_its_origins() {
    let folder = tempfile::tempdir().unwrap();
    let config = file(folder.path(), "sluice.toml", b"[engine]\nreplicas = 2\nblock_size = 8\n");
    let arguments = ["config", "show", "--origin", "--config", &config, "--port", "9"];
    let output = sluice().args(arguments).env("SLUICE__ENGINE__REPLICAS", "3").output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for (line, origin) in [
        ("port = 9", "command line"),
        ("replicas = 3", "SLUICE__ENGINE__REPLICAS"),
        ("block_size = 8", "sluice.toml"),
        ("max_queued_requests = 1024", "default"),
    ] {
        assert!(shown.lines().any(|found| found.starts_with(line) && found.ends_with(origin)), "{line}: {shown}");
    }
    let wrong = run(&["config", "show", "--replicas", "0"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("engine.replicas: must be at least 1"));
}

#[test]
fn an_admin_listener_that_others_reach_needs_keys() {
    let mut open = sluice();
    open.args(["serve", "--port", "0", "--admin-port", "0"]).env("SLUICE__SERVER__ADMIN_HOST", "0.0.0.0");
    let refused = open.output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("SLUICE_ADMIN_KEY"));
}

/// A model of a billion numbers takes longer to draw than the signal takes to come.
#[test]
fn a_server_that_still_loads_goes_at_once_when_it_is_told_to() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"{"architectures": ["Qwen2ForCausalLM"], "hidden_size": 2048, "intermediate_size": 8192,
        "num_attention_heads": 16, "num_key_value_heads": 4, "num_hidden_layers": 24, "vocab_size": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "max_position_embeddings": 512, "tie_word_embeddings": true}"#;
    file(folder.path(), "config.json", config.as_bytes());
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("model/embedded").join(name);
        fs::copy(from, folder.path().join(name)).unwrap();
    }
    let model = folder.path().to_str().unwrap();
    let mut child = sluice()
        .args(["serve", "--port", "0", "--admin-port", "0", "--load-format", "dummy", "--model", model])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None, "it is loading");
    assert!(Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.stdout.is_empty(), "it never served: {}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn shells_learn_the_command_line() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("max-num-seqs"), "{shell}");
    }
}
