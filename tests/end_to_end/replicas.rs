//! Several replicas in one process: every one works, and a swap reaches them all.

use std::time::{Duration, Instant};

use serde_json::Value;
use sluice_tests::{BATCHING, Guest};

use crate::server::{Server, content, join_all, shipped};

#[tokio::test]
async fn requests_spread_over_replicas_and_answers_do_not_depend_on_which() {
    let server = Server::start(&["--replicas", "3"]);
    let alone = server.ask("What is a replica?", 40).await;
    let answers = join_all((0..24).map(|_| server.ask("What is a replica?", 40))).await;
    assert!(answers.iter().all(|answer| content(answer) == content(&alone)));
    for replica in 0..3 {
        assert!(
            server.metric("sluice_steps_total", &format!("replica=\"{replica}\"")).await > 0.0,
            "replica {replica}"
        );
    }
    let deployed = server.install(shipped("first-come"), "{}").await;
    assert_eq!(deployed["seats"].as_array().map(Vec::len), Some(3), "{deployed}");
    let report = server.slot("batching").await;
    assert_eq!((report["committed_seats"].as_u64(), report["mixed"].as_bool()), (Some(3), Some(false)));
    server.assert_idle_and_empty().await;
}

/// What struck out on one replica is in force and warm nowhere, whatever is committed then.
#[tokio::test]
async fn two_policies_strike_out_one_after_the_other_and_leave_every_replica() {
    let server = Server::start(&["--replicas", "2", "--max-num-seqs", "8"]);
    let question = "What is a policy?";
    let right = server.ask(question, 12).await;
    let first = server.install(BATCHING.component, &Guest::config("trap-export-state")).await;
    let second = server.install(&with_a_section(BATCHING.component), &Guest::config("trap-observe")).await;
    assert_eq!((&first["mixed"], &second["mixed"]), (&Value::Bool(false), &Value::Bool(false)));
    let digest = |deployed: &Value| deployed["revision"]["digest"].as_str().unwrap().to_owned();
    let [first, second] = [digest(&first), digest(&second)];
    assert_ne!(first, second);

    let report = after_quarantine(&server, question, content(&right), &second).await;
    assert_ne!(report["committed"]["digest"], second.as_str(), "{report}");
    let report = after_quarantine(&server, question, content(&right), &first).await;
    assert!(report["committed"].is_null(), "{report}");
    for seat in report["seats"].as_array().unwrap() {
        assert!(seat["active"].is_null() && seat["previous"].is_null(), "{report}");
    }
    server.assert_idle_and_empty().await;
}

/// Asks until the digest has struck out, and every replica has let go of it. Every answer is right meanwhile.
async fn after_quarantine(server: &Server, question: &str, right: &str, digest: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(50);
    loop {
        for answer in join_all((0..4).map(|_| server.stream(question, 12))).await {
            assert_eq!((answer.error, answer.text.as_str()), (None, right));
        }
        let report = server.slot("batching").await;
        let struck = report["quarantined"].as_array().unwrap().iter().any(|struck| struck == digest);
        let seats = report["seats"].as_array().unwrap();
        let holds = |seat: &Value, role: &str| seat[role].as_str().is_some_and(|id| id.ends_with(&digest[..12]));
        let held = seats.iter().any(|seat| holds(seat, "active") || holds(seat, "previous"));
        if struck && !held && report["mixed"] == false {
            return report;
        }
        assert!(Instant::now() < deadline, "{report}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The same component with one custom section more: it does the same under another digest.
fn with_a_section(component: &[u8]) -> Vec<u8> {
    const NAME: &[u8] = b"again";
    let name = u8::try_from(NAME.len()).unwrap();
    [component, &[0, name + 1, name], NAME].concat()
}
