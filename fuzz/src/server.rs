//! The OpenAI router before an engine that answers at once: with any tokens, as many as were asked for.

use std::sync::Arc;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, StatusCode};
use sluice_core::view::EngineLimits;
use sluice_core::{
    Clock, EndOfStream, FinishReason, Logprob, Nanos, NoDevices, PromptVariants, SampledToken, ScoredToken,
    SinkClosed, TokenEvent, split_mix,
};
use sluice_engine::handle::{PoolCommand, PoolHandle};
use sluice_http::{
    AnswerLimits, Edge, EdgeConfig, EdgeLimits, EdgeParts, Gate, ModelCard, ModelText, SamplingDefaults, openai_router,
};
use sluice_telemetry::{Metrics, MetricsOptions};
use tokio::runtime::Runtime;
use tower::ServiceExt as _;

use crate::model::Embedded;

pub struct Server {
    runtime: Runtime,
    router: Router,
}

struct Still;

const MODEL: &str = "fuzz";
const MODEL_LEN: u32 = 128;
/// Of what may be answered: some answers of as many tokens, each with its alternatives.
const ANSWER_BYTES: usize = 16 << 20;

impl Clock for Still {
    fn now(&self) -> Nanos {
        0
    }
}

impl Server {
    /// # Panics
    /// If the machine gives no thread.
    pub fn start() -> Self {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
        let router = runtime.block_on(async { router() });
        Self { runtime, router }
    }

    /// The status, and the whole answer.
    ///
    /// # Panics
    /// If an answer has no end.
    pub fn post(&self, path: &str, body: &[u8]) -> (StatusCode, Vec<u8>) {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body.to_vec()));
        let request = request.expect("the targets' paths are good");
        self.runtime.block_on(async {
            let Ok(response) = self.router.clone().oneshot(request).await;
            let status = response.status();
            let bytes =
                to_bytes(response.into_body(), ANSWER_BYTES).await.expect("an answer ends, and within its bound");
            (status, bytes.to_vec())
        })
    }
}

fn router() -> Router {
    let metrics = Metrics::new(&MetricsOptions {
        replicas: 1,
        limits: EngineLimits::default(),
        model: MODEL,
        version: "0",
        compat: None,
        devices: Arc::new(NoDevices),
        clock: Arc::new(Still),
    });
    let text = Embedded::new();
    let vocabulary = text.vocabulary();
    let engine = move |command: PoolCommand| {
        if let PoolCommand::Offer(requests) = command {
            for request in &requests {
                // Whoever stops listening has heard enough.
                let _closed = answer(request, vocabulary);
            }
        }
        Ok(())
    };
    let parts = EdgeParts {
        pool: PoolHandle::new(Arc::new(engine), Arc::new(|| 0)),
        text: Arc::new(text),
        metrics: Arc::new(metrics.expect("the metrics have good names")),
        unix_time: Arc::new(|| 0),
        ready: Arc::new(|| true),
    };
    openai_router(Edge::new(config(), parts), Gate::open())
}

fn config() -> EdgeConfig {
    EdgeConfig {
        model: ModelCard {
            name: MODEL.to_owned(),
            max_model_len: MODEL_LEN,
            cache_salt: Vec::new(),
            variants: PromptVariants::new([48]),
            block_tokens: 16,
            created_unix: 0,
        },
        defaults: SamplingDefaults { max_new_tokens: 16, ..SamplingDefaults::default() },
        limits: EdgeLimits::default(),
        answers: AnswerLimits { choices: 8, ..AnswerLimits::default() },
        seed: 0,
    }
}

fn answer(request: &sluice_core::Request, vocabulary: u32) -> Result<(), SinkClosed> {
    let mut random = request.sampling.seed;
    let mut token = || (split_mix(&mut random) % u64::from(vocabulary)) as u32;
    let mut top = |count: Option<u8>| -> Vec<Logprob> {
        (0..count.unwrap_or(0)).map(|_| Logprob { token: token(), logprob: -1.5 }).collect()
    };
    if let Some(count) = request.prompt_logprobs {
        let scored = |token: &u32| ScoredToken { token: *token, logprob: -0.1, top: top(Some(count)) };
        request.sink.send(TokenEvent::Prompt(request.prompt[1..].iter().map(scored).collect()))?;
    }
    let count = request.sampling.logprobs;
    for _ in 0..request.max_new_tokens {
        let token = top(Some(1))[0].token;
        let logprob = count.map(|_| -0.1);
        request.sink.send(TokenEvent::Token(SampledToken { token, logprob, top: top(count) }))?;
    }
    request.sink.send(TokenEvent::End(EndOfStream { reason: FinishReason::Length, failure: None, cached_tokens: 0 }))
}
