//! What all handlers share: the model's text side, the engine's handle, and the answers in progress.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use sluice_core::{Failure, FailureKind};
use sluice_engine::handle::PoolHandle;
use sluice_telemetry::{Metrics, Timeout};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::body::{Bodies, Received, busy};
use crate::config::EdgeConfig;
use crate::error::ApiError;
use crate::live::Live;
use crate::request_id::RequestNames;
use crate::text::ModelText;
use crate::wakes::Wakes;

/// What an edge is made of.
pub struct EdgeParts {
    pub pool: PoolHandle,
    pub text: Arc<dyn ModelText>,
    pub metrics: Arc<Metrics>,
    /// Seconds since 1970.
    pub unix_time: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// Whether the engine could serve a request now.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
}

pub struct Edge {
    pub(crate) config: EdgeConfig,
    pub(crate) parts: EdgeParts,
    pub(crate) bodies: Bodies,
    /// Large requests that may still be prepared at once.
    pub(crate) preparations: Arc<Semaphore>,
    pub(crate) live: Arc<Live>,
    pub(crate) wakes: Wakes,
    pub(crate) names: Arc<RequestNames>,
    pub(crate) next_id: AtomicU64,
}

/// How long the last bytes of answers that were cut short may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

impl Edge {
    /// Within a runtime.
    pub fn new(config: EdgeConfig, parts: EdgeParts) -> Arc<Self> {
        let (limits, seed) = (config.limits, config.seed);
        Arc::new(Self {
            config,
            bodies: Bodies::new(limits.body_bytes, limits.bodies_bytes, limits.body_time)
                .counted(parts.metrics.edge.clone()),
            parts,
            preparations: Arc::new(Semaphore::new(limits.preparations.clamp(1, Semaphore::MAX_PERMITS))),
            live: Arc::default(),
            wakes: Wakes::start(),
            names: Arc::new(RequestNames::new("req", seed)),
            next_id: AtomicU64::new(1),
        })
    }

    /// Takes no more requests, waits for the answers in progress, and ends those that outlast the deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.live.close();
        if timeout(deadline, self.live.empty()).await.is_ok() {
            return;
        }
        tracing::warn!(answers = self.live.count(), "the drain deadline has passed: ending the answers that are left");
        self.cut(FLUSH).await;
    }

    /// Ends every answer now, and waits a moment for the clients to learn of it.
    pub async fn cut(&self, flush: Duration) {
        self.live.close();
        self.live.fail_all(&Failure::new(FailureKind::Stopping, "the server is shutting down"));
        // Whoever does not read is left behind.
        let _left_behind = timeout(flush, self.live.empty()).await;
    }

    /// Makes what this process names differ from what another one does.
    pub fn name_seed(&self) -> u64 {
        self.config.seed
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.live.is_closing()
    }

    /// The error for a request that got no answer in its time.
    pub(crate) fn late(&self, what: Timeout) -> ApiError {
        self.parts.metrics.edge.timed_out(what);
        ApiError::timed_out(what)
    }

    /// Does what a body's length makes slow. With a large one it waits until somebody is free, and works on a blocking
    /// thread.
    pub(crate) async fn work<T: Send + 'static>(
        self: &Arc<Self>,
        body: Received,
        work: impl FnOnce(&Self, &[u8]) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        if body.is_small() {
            return work(self, &body);
        }
        let turn = timeout(self.config.limits.body_time, Arc::clone(&self.preparations).acquire_owned());
        let turn = turn.await.map_err(|_| busy())?;
        let edge = Arc::clone(self);
        let work = move || {
            let done = work(&edge, &body);
            // Held here, so that they count even if the client has left.
            drop((turn, body));
            done
        };
        let lost = |error| ApiError::internal(format!("the request's body could not be read: {error}"));
        tokio::task::spawn_blocking(work).await.map_err(lost)?
    }
}
