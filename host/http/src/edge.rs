//! What all handlers share: the model's text side, the engine's handle, and the answers in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sluice_core::{Failure, FailureKind, Request, RequestId, SamplingParams, split_mix};
use sluice_engine::handle::PoolHandle;
use sluice_telemetry::Metrics;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::answer::{Answer, Asked, Progress};
use crate::body::{Bodies, Received, busy};
use crate::caller::Caller;
use crate::channel::channel;
use crate::config::EdgeConfig;
use crate::error::ApiError;
use crate::live::Live;
use crate::object::{Endpoint, Header};
use crate::prepare::{Prepared, prepare};
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
    live: Arc<Live>,
    wakes: Wakes,
    next_id: AtomicU64,
}

/// How long the last bytes of answers that were cut short may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

impl Edge {
    /// Within a runtime.
    pub fn new(config: EdgeConfig, parts: EdgeParts) -> Arc<Self> {
        let limits = config.limits;
        Arc::new(Self {
            config,
            bodies: Bodies::new(limits.body_bytes, limits.bodies_bytes, limits.body_time)
                .counted(parts.metrics.edge.clone()),
            parts,
            preparations: Arc::new(Semaphore::new(limits.preparations.clamp(1, Semaphore::MAX_PERMITS))),
            live: Arc::default(),
            wakes: Wakes::start(),
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

    pub(crate) fn is_draining(&self) -> bool {
        self.live.is_closing()
    }

    /// A large body waits until somebody is free, and is read and tokenised on a blocking thread.
    pub(crate) async fn prepare(
        self: &Arc<Self>,
        endpoint: Endpoint,
        body: Received,
        caller: &Caller,
    ) -> Result<Prepared, ApiError> {
        if body.is_small() {
            return prepare(self.parts.text.as_ref(), &self.config, endpoint, &body, &caller.salt);
        }
        let turn = timeout(self.config.limits.body_time, Arc::clone(&self.preparations).acquire_owned());
        let turn = turn.await.map_err(|_| busy())?;
        let (edge, salt) = (Arc::clone(self), caller.salt.clone());
        let work = move || {
            let prepared = prepare(edge.parts.text.as_ref(), &edge.config, endpoint, &body, &salt);
            // Held here, so that they count even if the client has left.
            drop((turn, body));
            prepared
        };
        let lost = |error| ApiError::failed(&format!("its prompt could not be prepared: {error}"));
        tokio::task::spawn_blocking(work).await.map_err(lost)?
    }

    /// Hands a request to the engine, and waits until it is decided whether it is answered.
    pub(crate) async fn offer(
        &self,
        endpoint: Endpoint,
        caller: &Caller,
        prepared: Prepared,
    ) -> Result<(Answer, Header), ApiError> {
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let header = Header {
            endpoint,
            id: format!("{}-{:016x}{:016x}", endpoint.id_prefix(), self.config.seed, id.0),
            created_unix: (self.parts.unix_time)(),
            model: self.config.model.name.clone(),
        };
        let mut answer = self.begin(id, caller, prepared)?;
        answer.begin().await?;
        Ok((answer, header))
    }

    fn begin(&self, id: RequestId, caller: &Caller, prepared: Prepared) -> Result<Answer, ApiError> {
        let Prepared { prompt, hashes, max_new_tokens, stop_tokens, sampling, parameters } = prepared;
        let decoder = self.parts.text.decoder(&parameters.stop)?;
        let (sender, receiver) = channel(self.config.limits.unread_tokens, self.wakes.handover());
        let live = self.live.enter(id, receiver.shared()).map_err(|_| ApiError::stopping())?;
        let pool = self.parts.pool.clone();
        let arrival = pool.now();
        let seed = parameters.seed.unwrap_or_else(|| split_mix(&mut (self.config.seed ^ id.0)));
        let request = Request {
            id,
            tenant: caller.tenant,
            tenant_weight: caller.weight,
            session: parameters.session,
            priority: parameters.priority,
            arrival,
            deadline: parameters.time_limit.map(|limit| arrival.saturating_add(limit)),
            ttft_target: parameters.ttft_target,
            tpot_target: parameters.tpot_target,
            prompt,
            hashes,
            max_new_tokens,
            stop_tokens,
            min_new_tokens: parameters.min_new_tokens,
            sampling: SamplingParams { seed, ..sampling },
            prompt_logprobs: None,
            attempt: 1,
            sink: Arc::new(sender),
        };
        let prompt_tokens = request.prompt_tokens();
        // Made before the offer: from here on, whatever happens, the request is followed to its end or cancelled.
        let answer = Answer {
            asked: Asked { id, pool: pool.clone(), arrival, prompt_tokens },
            receiver,
            decoder,
            progress: Progress::default(),
            _live: live,
            _counted: self.parts.metrics.edge.answer(),
        };
        pool.offer(request).map_err(|_| ApiError::stopped())?;
        Ok(answer)
    }
}
