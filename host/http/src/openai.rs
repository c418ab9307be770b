//! The OpenAI listener: its routes, and what each answers.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, body::Body};
use serde_json::{Value, json};
use sluice_core::SECOND;

use crate::caller::Caller;
use crate::edge::Edge;
use crate::error::{ApiError, shown};
use crate::object::{Chunks, Endpoint};
use crate::{body, stream, whole};

pub fn openai_router(edge: Arc<Edge>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/health", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/ready", get(ready))
        .route("/version", get(|| async { Json(json!({"version": env!("CARGO_PKG_VERSION")})) }))
        .route("/metrics", get(metrics))
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(edge)
}

async fn chat_completions(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    generate(edge, Endpoint::Chat, headers, body).await
}

async fn completions(State(edge): State<Arc<Edge>>, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    generate(edge, Endpoint::Completion, headers, body).await
}

async fn generate(edge: Arc<Edge>, endpoint: Endpoint, headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    body::expect_type(&headers, "application/json")?;
    let body = edge.bodies.read(body).await?;
    if edge.is_draining() {
        return Err(ApiError::stopping());
    }
    let caller = Caller::of(&headers);
    let prepared = edge.prepare(endpoint, body, &caller).await?;
    let (streaming, include_usage) = (prepared.parameters.stream, prepared.parameters.include_usage);
    let (answer, header) = edge.offer(endpoint, caller.tenant, prepared).await?;
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

pub(crate) async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!("there is nothing at `{}`", shown(uri.path()));
    ApiError::new(StatusCode::NOT_FOUND, "path_not_found", message)
}

pub(crate) async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("`{}` does not take the method {}", shown(uri.path()), shown(method.as_str()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
