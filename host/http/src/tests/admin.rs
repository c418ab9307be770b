//! The admin listener, with an engine that has stopped and a loader that takes nothing.

use std::net::SocketAddr;
use std::sync::Arc;

use sluice_control::{Control, ControlLimits, ControlParts};
use sluice_core::{DeploymentClass, LoadError, LoadedPolicy, PolicyLoader};
use sluice_engine::order::{Seats, Stopped};
use sluice_engine::recorder::HostVersions;
use sluice_telemetry::EdgeMetrics;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::client::{connect, get, post, rest, send};
use super::engine::metrics;
use crate::admin::{AdminParts, admin_router};
use crate::config::EdgeLimits;
use crate::gate::Gate;
use crate::serve::{Connections, Phase, serve};

struct NoLoader;

impl PolicyLoader for NoLoader {
    fn load(&self, _: &[u8], _: DeploymentClass) -> Result<Arc<dyn LoadedPolicy>, LoadError> {
        Err(LoadError::Compile("nothing does".to_owned()))
    }
}

pub(super) async fn start(limits: EdgeLimits, gate: Gate) -> (SocketAddr, watch::Sender<Phase>) {
    counted(limits, gate, &metrics().edge).await
}

async fn counted(limits: EdgeLimits, gate: Gate, metrics: &EdgeMetrics) -> (SocketAddr, watch::Sender<Phase>) {
    let control = Control::new(ControlParts {
        loader: Arc::new(NoLoader),
        clock: Arc::new(|| 7),
        limits: ControlLimits::default(),
        versions: HostVersions::default(),
        audit: None,
    });
    control.connect(Seats {
        admission: Arc::new(|_| Err(Stopped)),
        routing: Arc::new(|_| Err(Stopped)),
        batching: vec![Arc::new(|_| Err(Stopped))],
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (phase, phases) = watch::channel(Phase::Serving);
    let metrics = metrics.of_time_outs();
    let parts = AdminParts { control: Arc::new(control), limits, metrics: metrics.clone(), seed: 0xabc };
    let router = admin_router(parts, gate);
    tokio::spawn(serve(listener, router, Connections { limits, tls: None, metrics: Some(metrics) }, phases));
    (address, phase)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_and_its_errors() {
    let limits = EdgeLimits { component_bytes: 100, ..EdgeLimits::default() };
    let (address, _phase) = start(limits, Gate::open()).await;
    const WASM: &str = "application/wasm";
    let deploy = |query: &str| post(&format!("/admin/policies{query}"), WASM, "x");
    let page = deploy("").replace("host: x", "host: x\r\norigin: http://elsewhere");
    let cases = [
        (deploy(""), 422, "invalid_component"),
        (deploy("?config=%5B%5D"), 400, "invalid_configuration"),
        (deploy("?class=heavy"), 400, "invalid_value"),
        (deploy("?slot=steering"), 404, "slot_not_found"),
        (deploy("?konfig=1"), 400, "invalid_query"),
        (post("/admin/policies", "application/json", "{}"), 415, "unsupported_media_type"),
        (post("/admin/policies", WASM, &"x".repeat(101)), 413, "body_too_large"),
        (page, 403, "cross_origin"),
        (post("/admin/policies/steering/rollback", WASM, ""), 404, "slot_not_found"),
        (post("/admin/policies/routing/rollback", WASM, ""), 409, "no_previous_revision"),
        (get("/admin/policies/routing/rollback"), 405, "method_not_allowed"),
        (get("/admin/policies/steering/recording"), 404, "slot_not_found"),
        (get("/admin/policies/batching/recording?replica=1"), 404, "replica_not_found"),
        (get("/admin/policies/routing/recording?replica=0"), 400, "invalid_value"),
        (get("/admin/policies/batching/recording?replica=first"), 400, "invalid_query"),
        (get("/admin/policies/batching/recording"), 503, "engine_stopped"),
        (get("/admin"), 404, "path_not_found"),
    ];
    for (request, status, code) in cases {
        let reply = send(address, &request).await;
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{request}");
    }
    let status = send(address, &get("/admin/policies")).await.json();
    assert_eq!(status["slots"][2]["seats"][0]["seat"], "batching/0");
    let history = send(address, &get("/admin/history")).await.json();
    assert_eq!(history["entries"][0]["outcome"], "refused");
    assert_eq!(send(address, &get("/admin/health")).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_late_is_counted_and_whatever_is_asked_has_a_name() {
    let metrics = metrics();
    let brief = std::time::Duration::from_millis(200);
    let limits = EdgeLimits { header_time: brief, body_time: brief, ..EdgeLimits::default() };
    let (address, _phase) = counted(limits, Gate::open(), &metrics.edge).await;
    let unfinished = post("/admin/policies", "application/wasm", "x").replace("content-length: 1", "content-length: 2");
    for (request, code) in [("GET /admin/health", "header_timeout"), (&unfinished, "body_timeout")] {
        let reply = rest(connect(address, request).await).await;
        assert_eq!((reply.status, reply.code().as_str()), (408, code));
    }
    let scraped = metrics.scrape().unwrap();
    for line in [
        r#"sluice_timeouts_total{kind="header"} 1"#,
        r#"sluice_timeouts_total{kind="body"} 1"#,
        "sluice_http_connections 0",
    ] {
        assert!(scraped.contains(line), "{line} is not in {scraped}");
    }
    for path in ["/admin/health", "/admin/nothing"] {
        let reply = send(address, &get(path)).await;
        assert!(reply.header("x-request-id").is_some_and(|name| name.starts_with("adm-0000000000000abc")), "{path}");
        let named = get(path).replace("host: x", "host: x\r\nx-request-id: mine");
        assert_eq!(send(address, &named).await.header("x-request-id"), Some("mine"));
    }
}
