//! An engine whose every answer the test gives by hand, behind the routers on a real socket.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sluice_core::view::EngineLimits;
use sluice_core::{
    Clock, EndOfStream, Failure, FailureKind, FinishReason, Nanos, NoDevices, PromptVariants, Request, SampledToken,
    SinkClosed, TokenEvent,
};
use sluice_engine::handle::{PoolCommand, PoolHandle};
use sluice_engine::order::Stopped;
use sluice_telemetry::{Metrics, MetricsOptions};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::config::{AnswerLimits, EdgeConfig, EdgeLimits, ModelCard, SamplingDefaults};
use crate::edge::{Edge, EdgeParts};
use crate::gate::Gate;
use crate::openai::openai_router;
use crate::serve::{Connections, Phase, serve};
use crate::tests::characters::Characters;
use crate::tls::Tls;

/// A clock that no test looks at.
struct Still;

impl Clock for Still {
    fn now(&self) -> Nanos {
        0
    }
}

pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) edge: Arc<Edge>,
    pub(super) phase: watch::Sender<Phase>,
    commands: mpsc::UnboundedReceiver<PoolCommand>,
    /// What came together with what was seen last.
    together: VecDeque<Request>,
}

const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn config() -> EdgeConfig {
    EdgeConfig {
        model: ModelCard {
            name: "org/tiny".to_owned(),
            max_model_len: 100,
            cache_salt: Vec::new(),
            variants: PromptVariants::new([48]),
            block_tokens: 16,
            created_unix: 5,
        },
        defaults: SamplingDefaults::default(),
        limits: EdgeLimits { body_bytes: 10_000, body_time: Duration::from_millis(500), ..EdgeLimits::default() },
        answers: AnswerLimits::default(),
        seed: 0xabc,
    }
}

impl Server {
    pub(super) async fn start() -> Self {
        Self::behind(config().limits, Gate::open(), None).await
    }

    pub(super) async fn hurried(answers: AnswerLimits) -> Self {
        Self::of(EdgeConfig { answers, ..config() }, Gate::open(), None).await
    }

    pub(super) async fn behind(limits: EdgeLimits, gate: Gate, tls: Option<Tls>) -> Self {
        Self::of(EdgeConfig { limits, ..config() }, gate, tls).await
    }

    async fn of(config: EdgeConfig, gate: Gate, tls: Option<Tls>) -> Self {
        let (sender, commands) = mpsc::unbounded_channel();
        let pool = PoolHandle::new(Arc::new(move |command| sender.send(command).map_err(|_| Stopped)), Arc::new(|| 0));
        let (address, edge, phase) = listen(config, pool, gate, tls).await;
        Self { address, edge, phase, commands, together: VecDeque::new() }
    }

    /// The engine is gone: whatever is offered comes back.
    pub(super) fn stop_engine(&mut self) {
        self.commands.close();
    }

    pub(super) async fn offered(&mut self) -> Request {
        if let Some(request) = self.together.pop_front() {
            return request;
        }
        match self.command().await {
            PoolCommand::Offer(requests) => self.together.extend(requests),
            PoolCommand::Finish(id, reason) => panic!("{id:?} finished with {reason:?} instead of an offer"),
        }
        self.together.pop_front().expect("something is asked for")
    }

    pub(super) async fn finished(&mut self) -> FinishReason {
        match self.command().await {
            PoolCommand::Finish(_, reason) => reason,
            PoolCommand::Offer(requests) => panic!("{requests:?} offered instead of a finish"),
        }
    }

    /// What one request asks for: all of it comes at once.
    pub(super) async fn offered_all(&mut self, count: usize) -> Vec<Request> {
        let mut requests = vec![self.offered().await];
        requests.extend(self.together.drain(..));
        assert_eq!(requests.len(), count);
        requests
    }

    /// True if the edge asked nothing more of the engine.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.together.is_empty() && self.commands.try_recv().is_err()
    }

    async fn command(&mut self) -> PoolCommand {
        timeout(PATIENCE, self.commands.recv()).await.expect("the edge asks in time").expect("the edge is there")
    }
}

pub(super) async fn start(config: EdgeConfig, pool: PoolHandle) -> (SocketAddr, Arc<Edge>, watch::Sender<Phase>) {
    listen(config, pool, Gate::open(), None).await
}

pub(super) fn metrics() -> Arc<Metrics> {
    let metrics = Metrics::new(&MetricsOptions {
        replicas: 1,
        limits: EngineLimits::default(),
        model: "org/tiny",
        version: "0",
        compat: None,
        devices: Arc::new(NoDevices),
        clock: Arc::new(Still),
    });
    Arc::new(metrics.unwrap())
}

async fn listen(
    config: EdgeConfig,
    pool: PoolHandle,
    gate: Gate,
    tls: Option<Tls>,
) -> (SocketAddr, Arc<Edge>, watch::Sender<Phase>) {
    let metrics = metrics();
    let limits = config.limits;
    let parts = EdgeParts {
        pool,
        text: Arc::new(Characters),
        metrics: Arc::clone(&metrics),
        unix_time: Arc::new(|| 7),
        ready: Arc::new(|| true),
    };
    let edge = Edge::new(config, parts);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (phase, phases) = watch::channel(Phase::Serving);
    let router = openai_router(Arc::clone(&edge), gate);
    let taken = Connections { limits, tls, metrics: Some(metrics.edge.clone()) };
    tokio::spawn(serve(listener, router, taken, phases));
    (address, edge, phase)
}

pub(super) fn say(request: &Request, text: &str) -> Result<(), SinkClosed> {
    text.chars().try_for_each(|c| request.sink.send(TokenEvent::Token(SampledToken::plain(u32::from(c)))))
}

pub(super) fn end(request: &Request, reason: FinishReason, error: Option<&str>) {
    let failure = error.map(|error| Failure::new(FailureKind::Internal, error));
    let end = EndOfStream { reason, failure, cached_tokens: 1 };
    request.sink.send(TokenEvent::End(end)).unwrap();
}
