//! Several replicas in one process: every one works, and a swap reaches them all.

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
