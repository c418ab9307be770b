//! Puts the parts together and runs them: the engine's threads, both listeners, the policies to start with.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sluice_control::{Control, ControlLimits, ControlParts, DeployRequest, Deployment};
use sluice_core::view::EngineLimits;
use sluice_core::{Clock, DeploymentClass, Nanos, ReplicaId, Revision, Slot};
use sluice_engine::pool::PoolConfig;
use sluice_engine::recorder::HostVersions;
use sluice_engine::replica::ReplicaConfig;
use sluice_http::{
    Edge, EdgeConfig, EdgeLimits, EdgeParts, Gate, ModelCard, Phase, admin_router, openai_router, serve,
};
use sluice_runtime::{INTERFACE_VERSION, Runtime, WASMTIME_VERSION};
use sluice_telemetry::{Metrics, MetricsOptions};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{EngineConfig, FirstPolicy, PolicySource, ServeConfig, ServerConfig};
use crate::engine::{Engine, EngineParts};
use crate::model::ServedModel;
use crate::observers::{Observers, PolicyVoice};
use crate::patient::PatientLoader;

/// Both listeners, bound before anything slow begins: a port that is taken shows at once.
pub struct Listeners {
    api: TcpListener,
    admin: TcpListener,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({reason}): choose another port with {flag}")]
pub struct ServerError {
    address: SocketAddr,
    flag: &'static str,
    reason: std::io::Error,
}

pub struct Server {
    pub address: SocketAddr,
    pub admin_address: SocketAddr,
    /// What was deployed at the start, in the order of `Slot::ALL`.
    pub policies: Vec<Deployment>,
    pub control: Arc<Control>,
    edge: Arc<Edge>,
    engine: Engine,
    phase: watch::Sender<Phase>,
    listeners: JoinSet<()>,
}

/// Connections that wait to be accepted: a burst beyond it is refused, and each comes again only after a second.
const BACKLOG: u32 = 4096;

/// How long connections may take to close once all answers have ended.
const CLOSE: Duration = Duration::from_secs(2);

impl Listeners {
    /// Within a runtime.
    pub fn bind(config: &ServerConfig) -> Result<Self, ServerError> {
        Ok(Self { api: bind(config.address, "--port")?, admin: bind(config.admin_address, "--admin-port")? })
    }
}

impl Server {
    /// Returns when requests are served.
    pub async fn start(
        config: &ServeConfig,
        model: ServedModel,
        clock: &Arc<dyn Clock>,
        on: Listeners,
    ) -> Result<Self> {
        let replicas = config.engine.replicas as usize;
        let metrics = Metrics::new(&MetricsOptions {
            replicas,
            limits: engine_limits(&config.engine, &model),
            model: &model.name,
            version: env!("CARGO_PKG_VERSION"),
            compat: config.metrics_compat,
            clock: Arc::clone(clock),
        });
        let metrics = Arc::new(metrics?);
        let runtime = Runtime::new(Arc::new(PolicyVoice(Arc::clone(&metrics))))?;
        let loader = Arc::new(PatientLoader(Arc::new(runtime)));
        let control = Arc::new(Control::new(ControlParts {
            loader,
            clock: Arc::new(unix_milliseconds),
            limits: ControlLimits::default(),
            versions: versions(),
            audit: None,
        }));
        let engine = start_engine(&config.engine, &model, &metrics, &control, clock)?;
        control.connect(engine.seats());
        let policies = deploy_first(config.policies.first.clone(), Arc::clone(&control)).await?;

        let limits = EdgeLimits {
            connections: config.server.max_connections,
            body_bytes: config.server.max_body_bytes,
            ..EdgeLimits::default()
        };
        let (address, admin_address) = (on.api.local_addr()?, on.admin.local_addr()?);
        let edge = edge(limits, &config.engine, model, &engine, &metrics);
        let (phase, phases) = watch::channel(Phase::Serving);
        let connections = |metrics| Connections { limits, tls: None, metrics };
        let mut listeners = JoinSet::new();
        let api = openai_router(Arc::clone(&edge), Gate::open());
        listeners.spawn(serve(on.api, api, connections(Some(metrics.edge.clone())), phases.clone()));
        let admin = admin_router(Arc::clone(&control), limits, Gate::open());
        listeners.spawn(serve(on.admin, admin, connections(None), phases));
        Ok(Self { address, admin_address, policies, control, edge, engine, phase, listeners })
    }

    /// No new requests from now on; returns when the answers in progress have ended, by themselves or by the deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.edge.drain(deadline).await;
    }

    /// Ends what is left, closes all connections and stops the engine.
    pub async fn stop(mut self) {
        self.edge.cut(Duration::from_millis(200)).await;
        // Without a listener nobody waits for the phase.
        let _nobody = self.phase.send(Phase::Closing);
        let closed = async { while self.listeners.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            let _nobody = self.phase.send(Phase::Gone);
        }
        let engine = self.engine;
        // Its threads are joined, which may take as long as a step.
        let _joined = tokio::task::spawn_blocking(move || drop(engine)).await;
    }
}

fn bind(address: SocketAddr, flag: &'static str) -> Result<TcpListener, ServerError> {
    let listen = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    listen().map_err(|reason| ServerError { address, flag, reason })
}

fn start_engine(
    config: &EngineConfig,
    model: &ServedModel,
    metrics: &Arc<Metrics>,
    control: &Arc<Control>,
    clock: &Arc<dyn Clock>,
) -> Result<Engine> {
    anyhow::ensure!(
        config.max_queued_tokens >= u64::from(model.max_model_len),
        "engine.max_queued_tokens: {} would turn a prompt of {} tokens away for ever: raise it, or lower max_model_len",
        config.max_queued_tokens,
        model.max_model_len
    );
    let limits = engine_limits(config, model);
    let starvation = nanos(config.starvation);
    let pool = PoolConfig {
        max_queued_requests: config.max_queued_requests,
        max_queued_tokens: config.max_queued_tokens,
        starvation,
        max_model_len: model.max_model_len,
        ..PoolConfig::default()
    };
    let replica = |id| ReplicaConfig { starvation, ..ReplicaConfig::new(ReplicaId(id), limits) };
    let committed = Arc::clone(control);
    let parts = EngineParts {
        pool,
        replicas: (0..config.replicas).map(replica).collect(),
        executor: Arc::clone(&model.executor),
        committed: Arc::new(move || match committed.committed(Slot::Batching) {
            Some(Revision::Batching(source)) => Some(source),
            _ => None,
        }),
        observer: Arc::new(Observers { metrics: Arc::clone(metrics), control: Arc::clone(control) }),
    };
    Ok(Engine::start(parts, clock)?)
}

fn engine_limits(config: &EngineConfig, model: &ServedModel) -> EngineLimits {
    EngineLimits {
        max_sequences: config.max_sequences,
        max_batched_tokens: config.max_batched_tokens,
        block_tokens: config.block_tokens,
        blocks_total: model.blocks,
        kv_bytes_per_token: model.kv_bytes_per_token,
        max_model_len: model.max_model_len,
    }
}

/// The shipped and the given policies go the way of every other: probed, then installed.
async fn deploy_first(policies: [FirstPolicy; 3], control: Arc<Control>) -> Result<Vec<Deployment>> {
    let deploy = move || -> Result<Vec<Deployment>> {
        Slot::ALL.into_iter().zip(&policies).map(|(slot, first)| deploy_one(slot, first, &control)).collect()
    };
    tokio::task::spawn_blocking(deploy).await?
}

fn deploy_one(slot: Slot, first: &FirstPolicy, control: &Control) -> Result<Deployment> {
    let read;
    let (component, name) = match &first.source {
        PolicySource::Shipped(policy) => (policy.component, policy.name.to_owned()),
        PolicySource::File(path) => {
            let name = path.display().to_string();
            read = fs::read(path).with_context(|| name.clone())?;
            (read.as_slice(), name)
        }
    };
    let class = DeploymentClass::Standard;
    let request = DeployRequest { component, config: first.config.as_deref(), class, slot: Some(slot), by: "startup" };
    control.deploy(&request).with_context(|| format!("the {slot} policy {name}"))
}

fn edge(
    limits: EdgeLimits,
    engine_config: &EngineConfig,
    model: ServedModel,
    engine: &Engine,
    metrics: &Arc<Metrics>,
) -> Arc<Edge> {
    let started = unix_milliseconds();
    let config = EdgeConfig {
        model: ModelCard {
            cache_salt: model.cache_salt(),
            variants: model.variants,
            name: model.name,
            max_model_len: model.max_model_len,
            block_tokens: engine_config.block_tokens,
            created_unix: started / 1000,
        },
        defaults: model.defaults,
        limits,
        seed: started,
    };
    let parts = EdgeParts {
        pool: engine.handle(),
        text: model.text,
        metrics: Arc::clone(metrics),
        unix_time: Arc::new(|| unix_milliseconds() / 1000),
        ready: engine.readiness(),
    };
    Edge::new(config, parts)
}

/// What this program is, at the head of a recording.
pub(crate) fn versions() -> HostVersions {
    HostVersions {
        host: env!("CARGO_PKG_VERSION").to_owned(),
        wasmtime: WASMTIME_VERSION.to_owned(),
        interface: INTERFACE_VERSION.to_owned(),
    }
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// 0 on a machine whose clock stands before 1970.
fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
