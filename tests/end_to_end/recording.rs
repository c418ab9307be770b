//! Recordings: fetched from a running server, replayed without one.

use std::path::Path;
use std::process::Output;

use reqwest::StatusCode;

use crate::server::{Server, file, run, shipped};

/// What the embedded model is asked while it is recorded.
const QUESTIONS: [&str; 3] = ["What is Sluice?", "What is routing?", "How does a hot swap work?"];

struct Recorded {
    folder: tempfile::TempDir,
}

impl Recorded {
    /// A server whose batching changed hands in the middle, recorded in all three slots.
    async fn make() -> Self {
        let server = Server::start(&["--policy", "batching=utilization-band", "--replicas", "2"]);
        let recorded = Self { folder: tempfile::tempdir().unwrap() };
        for _ in 0..2 {
            for question in QUESTIONS {
                tokio::join!(server.ask(question, 24), server.ask(question, 16));
            }
            server.install(shipped("first-come"), r#"{"max_running": 3}"#).await;
        }
        for (slot, replica) in [("admission", None), ("routing", None), ("batching", Some("1")), ("batching", None)] {
            let path = recorded.path(&format!("{slot}.sluice"));
            let mut arguments = vec!["policy", "record", slot, "--output", &path, "--admin", &server.admin];
            arguments.extend(replica.iter().flat_map(|replica| ["--replica", *replica]));
            let output = run(&arguments);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        recorded
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn replay(&self, slot: &str, policy: &str, more: &[&str]) -> Output {
        let component = file(self.folder.path(), "policy.wasm", shipped(policy));
        run(&[&["policy", "replay", &self.path(&format!("{slot}.sluice")), &component], more].concat())
    }

    fn check(&self, slot: &str, policy: &str, more: &[&str], code: i32, parts: &[&str]) -> String {
        let output = self.replay(slot, policy, more);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{slot} through {policy}: {said}");
        for part in parts {
            assert!(said.contains(part), "`{part}` is missing: {said}");
        }
        said
    }
}

fn number(said: &str, name: &str) -> u64 {
    let line = said.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_else(|| panic!("no {name} in {said}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn what_was_recorded_replays_to_the_same_decisions_and_to_a_diff_through_another_policy() {
    let recorded = Recorded::make().await;
    let same = [
        "differences: 0",
        " 0 decisions took another amount",
        "its own decisions only",
        "configured as it was recorded",
    ];
    for (slot, policy) in [
        ("admission", "fair-share"),
        ("routing", "least-loaded"),
        ("batching", "utilization-band"),
        ("batching", "first-come"),
    ] {
        let said = recorded.check(slot, policy, &[], 0, &same);
        assert!(number(&said, "decisions: ") > 5, "{said}");
        assert_eq!(number(&said, "passed over: ") > 0, slot == "batching", "{said}");
        assert!(!said.contains("another version"), "{said}");
    }
    // The same component under another configuration is another revision, and is asked for everything.
    let config = file(recorded.folder.path(), "config.json", br#"{"max_running": 1}"#);
    let other = [
        "all decisions",
        "config.json",
        "recorded BatchingDecision { max_running: ",
        "replayed BatchingDecision { max_running: 1,",
    ];
    let said = recorded.check("batching", "first-come", &["--config", &config], 1, &other);
    assert!(number(&said, "differences: ") > 5, "{said}");
    assert_eq!(number(&said, "passed over: "), 0);
    let unlike = ["all decisions", "without a configuration: no two-choices is recorded", "recorded Ranked(["];
    recorded.check("routing", "two-choices", &[], 1, &unlike);
    recorded.check("admission", "first-come", &[], 1, &["is of admission", "a policy for batching"]);
}

#[tokio::test]
async fn files_that_cannot_be_replayed_and_those_of_other_versions() {
    let recorded = Recorded::make().await;
    let good = std::fs::read(recorded.path("routing.sluice")).unwrap();
    let write = |bytes: &[u8]| drop(file(recorded.folder.path(), "routing.sluice", bytes));
    let wasmtime = locked("wasmtime");
    let at =
        good.windows(wasmtime.len()).position(|part| part == wasmtime.as_bytes()).expect("the head names wasmtime");
    let mut other = good.clone();
    other[at] = b'9';
    write(&other);
    recorded.check("routing", "least-loaded", &[], 0, &["made with another version", &wasmtime, "differences: 0"]);
    for (bytes, parts) in [
        (&b"nothing"[..], ["routing.sluice", "not a recording"]),
        (&good[..12], ["the head of the recording", "ends in the middle"]),
        (&good[..good.len() - 3], ["entry ", "ends in the middle"]),
    ] {
        write(bytes);
        let said = recorded.check("routing", "least-loaded", &[], 1, &parts);
        assert!(!said.contains("panicked"), "{said}");
    }
}

#[tokio::test]
async fn what_cannot_be_recorded_says_why() {
    let server = Server::start(&[]);
    for (path, status, part) in [
        ("steering/recording", StatusCode::NOT_FOUND, "batching"),
        ("batching/recording?replica=1", StatusCode::NOT_FOUND, "0 to 0"),
        ("routing/recording?replica=0", StatusCode::BAD_REQUEST, "one seat"),
        ("routing/recording?replika=0", StatusCode::BAD_REQUEST, "replica"),
    ] {
        let response = server.http.get(format!("{}/admin/policies/{path}", server.admin)).send().await.unwrap();
        let (found, body) = (response.status(), response.text().await.unwrap());
        assert_eq!(found, status, "{path}: {body}");
        assert!(body.contains(part), "{path}: {body}");
    }
    let output = run(&["policy", "record", "batching", "--output", "/no/such/file", "--admin", &server.admin]);
    assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("/no/such/file"));
}

/// The version of a dependency that this was built with.
fn locked(name: &str) -> String {
    let lock = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.lock")).unwrap();
    let mut lines = lock.lines().skip_while(|line| *line != format!("name = \"{name}\"")).skip(1);
    lines.next().and_then(|line| line.strip_prefix("version = ")).unwrap().trim_matches('"').to_owned()
}
