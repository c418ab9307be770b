//! The admin listener: see, deploy, record and take back policies.
//!
//! A component is the body of a POST, its configuration a JSON object in the query: what `curl --data-binary` and
//! `--url-query config@FILE` send.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::header::{CONTENT_TYPE, ORIGIN};
use axum::http::{HeaderMap, Method, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sluice_control::{Control, DeployError, DeployRequest, Deployment, RecordError, RollbackError};
use sluice_core::{DeploymentClass, ReplicaId, Slot};
use sluice_telemetry::EdgeMetrics;

use crate::body::{self, Bodies};
use crate::caller::Caller;
use crate::config::EdgeLimits;
use crate::error::{ApiError, shown};
use crate::gate::{Gate, Need};
use crate::key::Scope;
use crate::request_id::{RequestName, RequestNames, name_request};
use crate::routes::{HeadLimits, Route, router};

/// What the admin listener's router is made of.
pub struct AdminParts {
    pub control: Arc<Control>,
    pub limits: EdgeLimits,
    /// Of what took too long.
    pub metrics: EdgeMetrics,
    /// Makes the names of requests differ from another process's.
    pub seed: u64,
}

#[derive(Clone)]
pub(crate) struct Admin {
    control: Arc<Control>,
    components: Bodies,
}

/// The query of a deployment.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeployQuery {
    slot: Option<String>,
    class: Option<String>,
    config: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordQuery {
    replica: Option<u32>,
}

pub fn admin_router(parts: AdminParts, gate: Gate) -> Router {
    let AdminParts { control, limits, metrics, seed } = parts;
    let components = Bodies::new(limits.component_bytes, limits.bodies_bytes, limits.body_time).counted(metrics);
    let names = Arc::new(RequestNames::new("adm", seed));
    // A configuration travels in the query.
    let head = HeadLimits::of(&limits).any_uri();
    // Outermost, as for the other listener: what is refused at the gate is named and logged too.
    let router = router(routes(), gate, head).layer(from_fn(log_refusal));
    router.layer(from_fn_with_state(names, name_request)).with_state(Admin { control, components })
}

pub(crate) fn routes() -> Vec<Route<Admin>> {
    let deploying = |path, methods: MethodRouter<Admin>| {
        Route::new(path, Need::Scope(Scope::Deploy), methods.layer(from_fn(refuse_browsers)))
    };
    vec![
        deploying("/admin/policies", get(status).post(deploy)),
        deploying("/admin/policies/{slot}/rollback", post(rollback)),
        deploying("/admin/policies/{slot}/recording", get(recording)),
        deploying("/admin/history", get(history)),
        deploying("/admin/health", get(|| async { Json(json!({"status": "ok"})) })),
    ]
}

async fn status(State(admin): State<Admin>) -> Result<Json<Value>, ApiError> {
    let slots = blocking(move || admin.control.status()).await?;
    Ok(Json(json!({"slots": slots})))
}

/// With the newest hash of the audit log, if one is kept: whoever keeps it elsewhere can tell that the log is whole.
async fn history(State(admin): State<Admin>) -> Json<Value> {
    Json(json!({"entries": admin.control.history(), "audit": admin.control.audit_head()}))
}

async fn deploy(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<DeployQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Deployment>, ApiError> {
    body::expect_type(&headers, "application/wasm")?;
    let Query(query) = query.map_err(|error| query_error(&error, "`slot`, `class` and `config`"))?;
    let slot = query.slot.map(|name| parse_slot(&name)).transpose()?;
    let class = query.class.map(|name| name.parse::<DeploymentClass>()).transpose();
    let class = class.map_err(|error| ApiError::invalid("class", error.to_string()))?.unwrap_or_default();
    let component = admin.components.read(body).await?;
    let work = move || {
        let config = query.config.as_deref();
        admin.control.deploy(&DeployRequest { component: &component, config, class, slot, by: caller.name() })
    };
    Ok(Json(blocking(work).await?.map_err(|error| deploy_error(&error))?))
}

async fn rollback(
    State(admin): State<Admin>,
    Extension(caller): Extension<Caller>,
    Path(slot): Path<String>,
) -> Result<Json<Deployment>, ApiError> {
    let slot = parse_slot(&slot)?;
    let done = blocking(move || admin.control.rollback(slot, caller.name())).await?;
    Ok(Json(done.map_err(|error| rollback_error(&error))?))
}

/// The ring of one seat, as a file that replays.
async fn recording(
    State(admin): State<Admin>,
    Path(slot): Path<String>,
    query: Result<Query<RecordQuery>, QueryRejection>,
) -> Result<impl IntoResponse, ApiError> {
    let slot = parse_slot(&slot)?;
    let Query(query) = query.map_err(|error| query_error(&error, "`replica`, a number"))?;
    let replica = query.replica.map(ReplicaId);
    let bytes = blocking(move || admin.control.recording(slot, replica)).await?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], bytes.map_err(|error| record_error(&error))?))
}

/// A page that an operator happens to look at must not reach the listener on loopback: browsers name the page.
async fn refuse_browsers(request: Request, next: Next) -> Result<Response, ApiError> {
    if request.method() != Method::GET && request.headers().contains_key(ORIGIN) {
        let message = "the admin listener takes no changes from a page in a browser";
        return Err(ApiError::new(StatusCode::FORBIDDEN, "cross_origin", message));
    }
    Ok(next.run(request).await)
}

async fn log_refusal(Extension(name): Extension<RequestName>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), shown(request.uri().path()));
    let response = next.run(request).await;
    if !response.status().is_success() {
        let status = response.status().as_u16();
        tracing::warn!(request_id = %name, %method, path, status, "an admin request was refused");
    }
    response
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ApiError::internal(format!("the request could not be carried out: {error}")))
}

fn parse_slot(name: &str) -> Result<Slot, ApiError> {
    name.parse().map_err(|error: sluice_core::revision::UnknownSlot| {
        ApiError::new(StatusCode::NOT_FOUND, "slot_not_found", error.to_string()).of("slot")
    })
}

fn deploy_error(error: &DeployError) -> ApiError {
    let (status, code) = match error {
        DeployError::InProgress => (StatusCode::CONFLICT, "deployment_in_progress"),
        DeployError::Load(_) => (StatusCode::UNPROCESSABLE_ENTITY, "invalid_component"),
        DeployError::WrongSlot { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "wrong_slot"),
        DeployError::Configuration(_) | DeployError::ConfigurationTooLarge { .. } => {
            (StatusCode::BAD_REQUEST, "invalid_configuration")
        }
        DeployError::Quarantined { .. } => (StatusCode::CONFLICT, "quarantined"),
        DeployError::Prepare(_) => (StatusCode::UNPROCESSABLE_ENTITY, "prepare_failed"),
        DeployError::Probe { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "probe_failed"),
        DeployError::NoAnswer { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_answer"),
        DeployError::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "engine_stopped"),
        DeployError::Audit(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
        DeployError::Unrecorded(_) => (StatusCode::INTERNAL_SERVER_ERROR, "outcome_not_audited"),
    };
    retriable(ApiError::new(status, code, error.to_string()))
}

fn rollback_error(error: &RollbackError) -> ApiError {
    let (status, code) = match error {
        RollbackError::InProgress => (StatusCode::CONFLICT, "deployment_in_progress"),
        RollbackError::NoPrevious(_) => (StatusCode::CONFLICT, "no_previous_revision"),
        RollbackError::Quarantined { .. } => (StatusCode::CONFLICT, "quarantined"),
        RollbackError::Prepare(_) => (StatusCode::UNPROCESSABLE_ENTITY, "prepare_failed"),
        RollbackError::Stopped(_) => (StatusCode::SERVICE_UNAVAILABLE, "engine_stopped"),
        RollbackError::Audit(_) => (StatusCode::SERVICE_UNAVAILABLE, "audit_unavailable"),
        RollbackError::Unrecorded(_) => (StatusCode::INTERNAL_SERVER_ERROR, "outcome_not_audited"),
    };
    retriable(ApiError::new(status, code, error.to_string()))
}

fn record_error(error: &RecordError) -> ApiError {
    let (status, code) = match error {
        RecordError::OneSeat(_) => return ApiError::invalid("replica", error.to_string()),
        RecordError::NoReplica { .. } => (StatusCode::NOT_FOUND, "replica_not_found"),
        RecordError::Nothing { .. } => (StatusCode::CONFLICT, "nothing_recorded"),
        RecordError::NoAnswer { .. } => (StatusCode::SERVICE_UNAVAILABLE, "no_answer"),
        RecordError::Stopped { .. } => (StatusCode::SERVICE_UNAVAILABLE, "engine_stopped"),
    };
    retriable(ApiError::new(status, code, error.to_string()))
}

fn query_error(error: &QueryRejection, keys: &str) -> ApiError {
    let message = format!("{}: the query may have {keys}", error.body_text());
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_query", message)
}

fn retriable(error: ApiError) -> ApiError {
    if error.status == StatusCode::SERVICE_UNAVAILABLE { error.retry_after(sluice_core::SECOND) } else { error }
}
