//! The OpenAI listener: its routes, and what each answers.

use std::sync::Arc;

use axum::extract::{Extension, Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Body};
use serde_json::{Value, json};
use sluice_core::SECOND;

use crate::caller::Caller;
use crate::edge::Edge;
use crate::error::ApiError;
use crate::gate::{Gate, Need};
use crate::key::Scope;
use crate::object::{Chunks, Endpoint};
use crate::routes::{HeadLimits, Route, router};
use crate::{body, stream, whole};

pub fn openai_router(edge: Arc<Edge>, gate: Gate) -> Router {
    let head = HeadLimits::of(&edge.config.limits);
    router(routes(), gate, head).with_state(edge)
}

pub(crate) fn routes() -> Vec<Route<Arc<Edge>>> {
    const INFERENCE: Need = Need::Scope(Scope::Inference);
    const METRICS: Need = Need::Scope(Scope::Metrics);
    vec![
        Route::new("/v1/chat/completions", INFERENCE, post(chat_completions)),
        Route::new("/v1/completions", INFERENCE, post(completions)),
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
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    generate(edge, Endpoint::Chat, &caller, &headers, body).await
}

async fn completions(
    State(edge): State<Arc<Edge>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    generate(edge, Endpoint::Completion, &caller, &headers, body).await
}

async fn generate(
    edge: Arc<Edge>,
    endpoint: Endpoint,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    body::expect_type(headers, "application/json")?;
    let body = edge.bodies.read(body).await?;
    if edge.is_draining() {
        return Err(ApiError::stopping());
    }
    let prepared = edge.prepare(endpoint, body, caller).await?;
    let (streaming, include_usage) = (prepared.parameters.stream, prepared.parameters.include_usage);
    let (answer, header) = edge.offer(endpoint, caller, prepared).await?;
    if streaming {
        return Ok(stream::response(answer, Chunks::new(header, include_usage)));
    }
    whole::response(answer, &header).await
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
    let text = edge.parts.metrics.scrape().map_err(|error| ApiError::failed(&error.to_string()))?;
    Ok(([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response())
}

fn card(edge: &Edge) -> Value {
    let model = &edge.config.model;
    json!({
        "id": model.name,
        "object": "model",
        "created": model.created_unix,
        "owned_by": "sluice",
        "max_model_len": model.max_model_len,
    })
}
