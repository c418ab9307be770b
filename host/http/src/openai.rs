//! The OpenAI listener: its routes, and what each answers.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Body};
use serde_json::{Value, json};
use sluice_core::SECOND;

use crate::body::{self, Received};
use crate::caller::Caller;
use crate::chunks::Chunks;
use crate::edge::Edge;
use crate::error::ApiError;
use crate::gate::{Gate, Need};
use crate::key::Scope;
use crate::object::Endpoint;
use crate::offer::{Asker, Offered};
use crate::pace::Until;
use crate::prepare::prepare;
use crate::request_id::{RequestName, name_request};
use crate::routes::{HeadLimits, Route, router};
use crate::tokenize::{detokenize, tokenize};
use crate::{stream, whole};

pub fn openai_router(edge: Arc<Edge>, gate: Gate) -> Router {
    let head = HeadLimits::of(&edge.config.limits);
    // Outermost: what is refused at the gate has a name too.
    let named = from_fn_with_state(Arc::clone(&edge.names), name_request);
    router(routes(), gate, head).layer(named).with_state(edge)
}

pub(crate) fn routes() -> Vec<Route<Arc<Edge>>> {
    const INFERENCE: Need = Need::Scope(Scope::Inference);
    const METRICS: Need = Need::Scope(Scope::Metrics);
    vec![
        Route::new("/v1/chat/completions", INFERENCE, post(chat_completions)),
        Route::new("/v1/completions", INFERENCE, post(completions)),
        Route::new("/tokenize", INFERENCE, post(tokens)),
        Route::new("/detokenize", INFERENCE, post(untokens)),
        Route::new("/v1/models", INFERENCE, get(models)),
        Route::new("/v1/models/{*id}", INFERENCE, get(model)),
        Route::new("/health", Need::AnyKey, get(|| async { Json(json!({"status": "ok"})) })),
        Route::new("/ready", Need::AnyKey, get(ready)),
        Route::new("/version", Need::AnyKey, get(|| async { Json(json!({"version": env!("CARGO_PKG_VERSION")})) })),
        Route::new("/metrics", METRICS, get(metrics)),
    ]
}

async fn chat_completions(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    Extension(name): Extension<RequestName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let asker = Asker::new(&edge, caller, name);
    generate(edge, Endpoint::Chat, asker, &headers, body).await
}

async fn completions(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    Extension(name): Extension<RequestName>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let asker = Asker::new(&edge, caller, name);
    generate(edge, Endpoint::Completion, asker, &headers, body).await
}

async fn generate(
    edge: Arc<Edge>,
    endpoint: Endpoint,
    mut asker: Asker,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let salt = asker.caller.salt.clone();
    let work = move |edge: &Edge, body: &[u8]| prepare(edge.parts.text.as_ref(), &edge.config, endpoint, body, &salt);
    let preparing = async { edge.work(read(&edge, headers, body).await?, work).await };
    let prepared = asker.watch.within(preparing).await.map_err(|what| edge.late(what))??;
    let (streaming, include_usage) = (prepared.parameters.stream, prepared.parameters.include_usage);
    let Offered { answers, header, logprobs } = edge.offer(endpoint, asker, prepared).await?;
    let until = Until(answers.watch.ends());
    let mut response = if streaming {
        stream::response(answers, Chunks::new(header, include_usage, logprobs))
    } else {
        whole::response(answers, &header, logprobs).await?
    };
    response.extensions_mut().insert(until);
    Ok(response)
}

async fn tokens(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let body = read(&edge, &headers, body).await?;
    edge.work(body, |edge, body| tokenize(edge.parts.text.as_ref(), &edge.config, body)).await.map(Json)
}

async fn untokens(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Result<Json<Value>, ApiError> {
    let body = read(&edge, &headers, body).await?;
    edge.work(body, |edge, body| detokenize(edge.parts.text.as_ref(), &edge.config, body)).await.map(Json)
}

async fn read(edge: &Edge, headers: &HeaderMap, body: Body) -> Result<Received, ApiError> {
    body::expect_type(headers, "application/json")?;
    let body = edge.bodies.read(body).await?;
    if edge.is_draining() {
        return Err(ApiError::stopping());
    }
    Ok(body)
}

async fn models(State(edge): State<Arc<Edge>>) -> Json<Value> {
    Json(json!({"object": "list", "data": [card(&edge)]}))
}

async fn model(State(edge): State<Arc<Edge>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    edge.config.model.check_name(Some(&id))?;
    Ok(Json(card(&edge)))
}

async fn ready(State(edge): State<Arc<Edge>>) -> Result<Json<Value>, ApiError> {
    if edge.is_draining() {
        return Err(ApiError::stopping());
    }
    if !(edge.parts.ready)() {
        let message = "no replica is ready: wait until one has started";
        return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).retry_after(SECOND));
    }
    Ok(Json(json!({"status": "ready"})))
}

async fn metrics(State(edge): State<Arc<Edge>>) -> Result<Response, ApiError> {
    let text = edge
        .parts
        .metrics
        .scrape()
        .map_err(|error| ApiError::internal(format!("the metrics could not be written: {error}")))?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

/// The card that vLLM's clients know.
fn card(edge: &Edge) -> Value {
    let model = &edge.config.model;
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created_unix,
        "owned_by": "sluice",
        "root": model.name,
        "parent": null,
        "max_model_len": model.max_model_len,
        "permission": [{
            "id": format!("modelperm-{:016x}", edge.config.seed),
            "object": "model_permission",
            "created": model.created_unix,
            "allow_create_engine": false,
            "allow_sampling": true,
            "allow_logprobs": true,
            "allow_search_indices": false,
            "allow_view": true,
            "allow_fine_tuning": false,
            "organization": "*",
            "group": null,
            "is_blocking": false,
        }],
    })
}
