//! What all handlers share: the model's text side, the engine's handle, and the answers in progress.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sluice_core::{Digest, Request, RequestId, SamplingParams, TenantId};
use sluice_engine::handle::PoolHandle;
use sluice_telemetry::Metrics;

use crate::answer::{Answer, Asked, Progress};
use crate::channel::channel;
use crate::config::EdgeConfig;
use crate::error::ApiError;
use crate::live::Live;
use crate::object::{Endpoint, Header};
use crate::parameters::first_word;
use crate::prepare::{Ask, Prepared, prepare};
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
    live: Arc<Live>,
    wakes: Wakes,
    next_id: AtomicU64,
}

/// Who asks: accounted as one tenant, with a cache of its own.
struct Caller {
    tenant: TenantId,
    salt: Vec<u8>,
}

/// A longer body is rendered and tokenised on a blocking thread. Up to here it takes well under a millisecond.
const INLINE_BYTES: usize = 4096;

/// How long the last bytes of answers that were cut short may take to leave.
const FLUSH: Duration = Duration::from_secs(1);

impl Edge {
    /// Within a runtime.
    pub fn new(config: EdgeConfig, parts: EdgeParts) -> Arc<Self> {
        Arc::new(Self { config, parts, live: Arc::default(), wakes: Wakes::start(), next_id: AtomicU64::new(1) })
    }

    /// Takes no more requests, waits for the answers in progress, and ends those that outlast the deadline.
    pub async fn drain(&self, deadline: Duration) {
        self.live.close();
        if tokio::time::timeout(deadline, self.live.empty()).await.is_ok() {
            return;
        }
        tracing::warn!(answers = self.live.count(), "the drain deadline has passed: ending the answers that are left");
        self.cut(FLUSH).await;
    }

    /// Ends every answer now, and waits a moment for the clients to learn of it.
    pub async fn cut(&self, flush: Duration) {
        self.live.close();
        self.live.fail_all("the server is shutting down");
        // Whoever does not read is left behind.
        let _left_behind = tokio::time::timeout(flush, self.live.empty()).await;
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.live.is_closing()
    }

    /// Hands a request to the engine, and waits until it is decided whether it is answered.
    pub(crate) async fn offer(
        self: &Arc<Self>,
        endpoint: Endpoint,
        ask: Ask,
        headers: &HeaderMap,
        bytes: usize,
    ) -> Result<(Answer, Header), ApiError> {
        if self.is_draining() {
            return Err(ApiError::stopping());
        }
        let caller = Caller::of(headers);
        let prepared = self.prepare(ask, caller.salt, bytes).await?;
        let id = RequestId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let header = Header {
            endpoint,
            id: format!("{}-{:016x}{:016x}", endpoint.id_prefix(), self.config.seed, id.0),
            created_unix: (self.parts.unix_time)(),
            model: self.config.model.name.clone(),
        };
        let mut answer = self.begin(id, caller.tenant, prepared)?;
        answer.begin().await?;
        Ok((answer, header))
    }

    async fn prepare(self: &Arc<Self>, ask: Ask, salt: Vec<u8>, bytes: usize) -> Result<Prepared, ApiError> {
        if bytes <= INLINE_BYTES {
            return prepare(self.parts.text.as_ref(), &self.config, ask, &salt);
        }
        let edge = Arc::clone(self);
        let work = move || prepare(edge.parts.text.as_ref(), &edge.config, ask, &salt);
        let lost = |error| ApiError::failed(&format!("its prompt could not be prepared: {error}"));
        tokio::task::spawn_blocking(work).await.map_err(lost)?
    }

    fn begin(&self, id: RequestId, tenant: TenantId, prepared: Prepared) -> Result<Answer, ApiError> {
        let Prepared { prompt, hashes, max_new_tokens, stop_tokens, sampling, parameters } = prepared;
        let decoder = self.parts.text.decoder(&parameters.stop)?;
        let (sender, receiver) = channel(self.config.limits.unread_tokens, self.wakes.handover());
        let live = self.live.enter(id, receiver.shared()).map_err(|_| ApiError::stopping())?;
        let pool = self.parts.pool.clone();
        let arrival = pool.now();
        let seed = parameters.seed.unwrap_or_else(|| scramble(self.config.seed ^ id.0));
        let request = Request {
            id,
            tenant,
            tenant_weight: 1.0,
            session: parameters.session,
            priority: parameters.priority,
            arrival,
            deadline: None,
            ttft_target: None,
            tpot_target: None,
            prompt,
            hashes,
            max_new_tokens,
            stop_tokens,
            min_new_tokens: parameters.min_new_tokens,
            sampling: SamplingParams { seed, ..sampling },
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

impl Caller {
    fn of(headers: &HeaderMap) -> Self {
        match headers.get(AUTHORIZATION) {
            None => Self { tenant: TenantId(0), salt: Vec::new() },
            Some(key) => {
                let digest = Digest::of(key.as_bytes());
                Self { tenant: TenantId(first_word(&digest)), salt: digest.0.to_vec() }
            }
        }
    }
}

/// SplitMix64's output function: neighbouring numbers give seeds that have nothing in common.
fn scramble(mut word: u64) -> u64 {
    word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
