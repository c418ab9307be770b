//! Puts the parts together and runs them: the engine's threads, both listeners, the policies to start with.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use sluice_control::{Audit, Control, ControlLimits, ControlParts, Deployment, DirectoryWatch};
use sluice_core::view::EngineLimits;
use sluice_core::{Clock, Nanos, ReplicaId, Revision, Slot};
use sluice_engine::pool::PoolConfig;
use sluice_engine::recorder::HostVersions;
use sluice_engine::replica::ReplicaConfig;
use sluice_http::{Edge, EdgeConfig, EdgeParts, ModelCard, Phase};
use sluice_runtime::{INTERFACE_VERSION, Runtime, WASMTIME_VERSION};
use sluice_telemetry::{CardSampler, Metrics, MetricsOptions};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::config::{PoliciesConfig, ServeConfig};
use crate::engine::{Engine, EngineParts};
use crate::first_policies;
use crate::listeners::Listeners;
use crate::model::{Computed, ServedModel};
use crate::observers::{Observers, PolicyVoice};
use crate::patient::PatientLoader;
use crate::upkeep;

pub struct Server {
    /// Where the API listens.
    pub url: String,
    pub admin_url: String,
    /// What was deployed at the start, in the order of `Slot::ALL`.
    pub policies: Vec<Deployment>,
    pub control: Arc<Control>,
    edge: Arc<Edge>,
    engine: Engine,
    /// Reads the cards as long as it is kept.
    cards: CardSampler,
    phase: watch::Sender<Phase>,
    /// Connections, and what is read again while they last.
    tasks: JoinSet<()>,
}

/// How long connections may take to close once all answers have ended.
const CLOSE: Duration = Duration::from_secs(2);

impl Server {
    /// Returns when requests are served.
    pub async fn start(
        config: &ServeConfig,
        model: ServedModel,
        clock: &Arc<dyn Clock>,
        on: Listeners,
    ) -> Result<Self> {
        let replicas = model.computed.engine.replicas as usize;
        let cards =
            CardSampler::start(model.computed.cards.clone(), Arc::clone(clock)).context("the cards cannot be read")?;
        let metrics = Metrics::new(&MetricsOptions {
            replicas,
            limits: engine_limits(&model.computed),
            model: &model.name,
            version: env!("CARGO_PKG_VERSION"),
            compat: config.metrics_compat,
            devices: cards.readings(),
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
            audit: config.audit_file.as_deref().map(Audit::open).transpose()?,
        }));
        let engine = start_engine(config, &model, &cards, &metrics, &control, clock)?;
        control.connect(engine.seats());
        let (policies, folder) = deploy_first(config.policies.clone(), Arc::clone(&control)).await?;

        let edge = edge(config, model, &engine, &metrics);
        let (url, admin_url) = (on.url()?, on.admin_url()?);
        let (phase, phases) = watch::channel(Phase::Serving);
        let mut tasks = on.serve(Arc::clone(&edge), Arc::clone(&control), &metrics.edge, &phases);
        tasks.spawn(upkeep::flush_audit(Arc::clone(&control), phases.clone()));
        if let Some(folder) = folder {
            tasks.spawn(upkeep::watch_policies(folder, Arc::clone(&control), phases));
        }
        Ok(Self { url, admin_url, policies, control, edge, engine, cards, phase, tasks })
    }

    /// No new requests from now on; returns when the answers in progress have ended, by themselves or by the deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.edge.drain(deadline).await;
    }

    /// Ends what is left, closes all connections, stops the engine and writes down the last of what it did.
    pub async fn stop(mut self) {
        self.edge.cut(Duration::from_millis(200)).await;
        // Without a listener nobody waits for the phase.
        let _nobody = self.phase.send(Phase::Closing);
        let closed = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            let _nobody = self.phase.send(Phase::Gone);
        }
        let (engine, cards, control) = (self.engine, self.cards, self.control);
        // Their threads are joined, which may take as long as a step.
        let _joined = tokio::task::spawn_blocking(move || {
            drop(engine);
            drop(cards);
            drop(control.flush_audit());
        })
        .await;
    }
}

fn start_engine(
    config: &ServeConfig,
    model: &ServedModel,
    cards: &CardSampler,
    metrics: &Arc<Metrics>,
    control: &Arc<Control>,
    clock: &Arc<dyn Clock>,
) -> Result<Engine> {
    let queue_timeout = nanos(config.server.queue_timeout);
    let (model, config) = (&model.computed, &model.computed.engine);
    anyhow::ensure!(
        config.max_queued_tokens >= u64::from(model.max_model_len),
        "engine.max_queued_tokens: {} would turn a prompt of {} tokens away for ever: raise it, or lower max_model_len",
        config.max_queued_tokens,
        model.max_model_len
    );
    let limits = engine_limits(model);
    let starvation = nanos(config.starvation);
    let pool = PoolConfig {
        max_queued_requests: config.max_queued_requests,
        max_queued_tokens: config.max_queued_tokens,
        starvation,
        queue_timeout,
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
        devices: cards.readings(),
    };
    Ok(Engine::start(parts, clock)?)
}

fn engine_limits(model: &Computed) -> EngineLimits {
    let config = &model.engine;
    EngineLimits {
        max_sequences: config.max_sequences,
        max_batched_tokens: config.max_batched_tokens,
        block_tokens: config.block_tokens,
        blocks_total: model.blocks,
        kv_bytes_per_token: model.kv_bytes_per_token,
        max_model_len: model.max_model_len,
    }
}

async fn deploy_first(
    policies: PoliciesConfig,
    control: Arc<Control>,
) -> Result<(Vec<Deployment>, Option<DirectoryWatch>)> {
    tokio::task::spawn_blocking(move || first_policies::deploy(&policies, &control)).await?
}

fn edge(config: &ServeConfig, model: ServedModel, engine: &Engine, metrics: &Arc<Metrics>) -> Arc<Edge> {
    let started = unix_milliseconds();
    let edge = EdgeConfig {
        model: ModelCard {
            cache_salt: model.cache_salt(),
            variants: model.computed.variants,
            name: model.name,
            max_model_len: model.computed.max_model_len,
            block_tokens: model.computed.engine.block_tokens,
            created_unix: started / 1000,
        },
        defaults: model.defaults,
        limits: config.server.connections,
        answers: config.server.answers,
        seed: started,
    };
    let parts = EdgeParts {
        pool: engine.handle(),
        text: model.text,
        metrics: Arc::clone(metrics),
        unix_time: Arc::new(|| unix_milliseconds() / 1000),
        ready: engine.readiness(),
    };
    Edge::new(edge, parts)
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
