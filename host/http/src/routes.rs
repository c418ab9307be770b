//! Makes a router of a table, so that no path is without its limits or without saying who may use it.

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::MethodRouter;

use crate::config::EdgeLimits;
use crate::error::{ApiError, shown};
use crate::gate::{Gate, Need};

/// A path: what it asks of a key, and what answers.
pub(crate) struct Route<S> {
    pub(crate) path: &'static str,
    pub(crate) need: Need,
    methods: MethodRouter<S>,
}

/// What every request passes first, also one for a path that there is not.
struct Entry {
    gate: Gate,
    needs: HashMap<&'static str, Need>,
    head: HeadLimits,
}

/// Of a request's line and headers. What is far beyond these, the parser refuses.
#[derive(Clone, Copy)]
pub(crate) struct HeadLimits {
    uri_bytes: usize,
    headers: usize,
    header_bytes: usize,
}

impl<S> Route<S> {
    pub(crate) fn new(path: &'static str, need: Need, methods: MethodRouter<S>) -> Self {
        Self { path, need, methods }
    }
}

pub(crate) fn router<S: Clone + Send + Sync + 'static>(
    routes: Vec<Route<S>>,
    gate: Gate,
    head: HeadLimits,
) -> Router<S> {
    let needs = routes.iter().map(|route| (route.path, route.need)).collect();
    let router = routes.into_iter().fold(Router::new(), |router, route| router.route(route.path, route.methods));
    router
        .fallback(no_such_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(Arc::new(Entry { gate, needs, head }), enter))
}

async fn enter(
    State(entry): State<Arc<Entry>>,
    path: Option<MatchedPath>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(error) = entry.head.check(request.uri(), request.headers()) {
        return error.into_response();
    }
    let path = path.as_ref().map(MatchedPath::as_str);
    let need = path.and_then(|path| entry.needs.get(path)).copied().unwrap_or(Need::AnyKey);
    match entry.gate.admit(path, need, request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(refusal) => refusal.into_response(),
    }
}

impl HeadLimits {
    pub(crate) fn of(limits: &EdgeLimits) -> Self {
        Self { uri_bytes: limits.uri_bytes, headers: limits.headers, header_bytes: limits.header_bytes }
    }

    /// A path and query as long as the parser takes.
    pub(crate) fn any_uri(self) -> Self {
        Self { uri_bytes: usize::MAX, ..self }
    }

    fn check(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let asked = uri.path_and_query().map_or(0, |asked| asked.as_str().len());
        if asked > self.uri_bytes {
            let message = format!("the path and query have {asked} bytes: the most are {}", self.uri_bytes);
            return Err(ApiError::new(StatusCode::URI_TOO_LONG, "uri_too_long", message));
        }
        let (count, bytes) =
            (headers.len(), headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum());
        let message = if count > self.headers {
            format!("there are {count} headers: the most are {}", self.headers)
        } else if self.header_bytes < bytes {
            format!("the headers have {bytes} bytes: the most are {}", self.header_bytes)
        } else {
            return Ok(());
        };
        Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", message))
    }
}

async fn no_such_path(uri: Uri) -> ApiError {
    let message = format!("there is nothing at `{}`", shown(uri.path()));
    ApiError::new(StatusCode::NOT_FOUND, "path_not_found", message)
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let message = format!("`{}` does not take the method {}", shown(uri.path()), shown(method.as_str()));
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message)
}
