//! The same over a real network and the real clock, where only what cannot be otherwise is checked.

use std::pin::pin;
use std::sync::Arc;

use tokio::net::TcpListener;

use super::fake::{Fake, Stream};
use super::run::parse;
use crate::bench::bench;
use crate::caller::Caller;
use crate::plan::Plan;
use crate::tls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_streams_over_tcp() {
    let fake = Fake::new(|_, body| Stream::of(20, 5, 20).steps(body));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = fake.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(server.clone().serve(stream));
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.json");
    let arguments = format!(
        "--base-url http://{address}/v1 --endpoint completions --max-concurrency 64 --num-requests 256 --no-progress \
         --output {} --goodput ttft:20 tpot:4.9",
        file.display()
    );
    let arguments = parse(&arguments).unwrap();
    let plan = Plan::of(&arguments, None).unwrap();
    let connector = tls::connector(None).unwrap();
    let caller = Arc::new(Caller::new(connector, plan.urls.clone(), plan.headers.clone()));
    let finished = bench(&arguments, plan, &caller, pin!(std::future::pending())).await.unwrap();
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    assert_eq!(report["totals"]["completed"], 256, "{}", finished.text);
    assert_eq!(report["totals"]["output_tokens"], 256 * 20);
    let at_least = |path: [&str; 2], least: f64| {
        let found = report["latency"][path[0]][path[1]].as_f64().unwrap();
        assert!(found >= least, "{path:?} {found}");
    };
    at_least(["ttft_ms", "min"], 20.0);
    at_least(["e2el_ms", "min"], 20.0 + 19.0 * 5.0);
    assert_eq!(report["goodput"]["within"], 0, "no token comes faster than it is sent");
}
