//! Speaks HTTP/1.1 with the server: requests go out, heads are judged, and connections are used again.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Method, Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::time::timeout;

use crate::chunk::ApiError;
use crate::failure::{Failure, causes};
use crate::server::Urls;

/// A longer answer is a failure.
pub(crate) const MAX_ANSWER_BYTES: usize = 256 << 20;
/// Of the body of an error.
const MAX_ERROR_BYTES: usize = 64 << 10;
/// For what is asked before the load.
const QUESTION: Duration = Duration::from_secs(60);
/// Servers close connections that are idle for longer; the shortest custom known is uvicorn's five seconds.
const IDLE_CONNECTION: Duration = Duration::from_secs(4);

pub(crate) struct Caller<C> {
    client: Client<C, Full<Bytes>>,
    urls: Urls,
    headers: HeaderMap,
}

impl<C> Caller<C>
where
    C: Connect + Clone + Send + Sync + 'static,
{
    pub(crate) fn new(connector: C, urls: Urls, headers: HeaderMap) -> Self {
        let client = Client::builder(TokioExecutor::new()).pool_idle_timeout(IDLE_CONNECTION).build(connector);
        Self { client, urls, headers }
    }

    pub(crate) fn urls(&self) -> &Urls {
        &self.urls
    }

    /// Asks for an answer, and gives its body once the head says that it is one.
    pub(crate) async fn generate(&self, body: Bytes) -> Result<Incoming, Failure> {
        self.send(Method::POST, self.urls.generate.clone(), body).await
    }

    /// A JSON answer, read to its end. `body` makes it a POST.
    pub(crate) async fn json(&self, url: &Uri, body: Option<&Value>) -> Result<Value, Failure> {
        timeout(QUESTION, self.asked(url, body)).await.unwrap_or(Err(Failure::Timeout(QUESTION)))
    }

    async fn asked(&self, url: &Uri, body: Option<&Value>) -> Result<Value, Failure> {
        let (method, bytes) = match body {
            Some(body) => (Method::POST, body.to_string().into()),
            None => (Method::GET, Bytes::new()),
        };
        let incoming = self.send(method, url.clone(), bytes).await?;
        let bytes = self.collect(incoming).await?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::Malformed(error.to_string()))
    }

    pub(crate) async fn collect(&self, incoming: Incoming) -> Result<Bytes, Failure> {
        match Limited::new(incoming, MAX_ANSWER_BYTES).collect().await {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) => Err(Failure::BrokenStream(causes(error.as_ref()))),
        }
    }

    async fn send(&self, method: Method, url: Uri, body: Bytes) -> Result<Incoming, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = url;
        *request.headers_mut() = self.headers.clone();
        let response = self.client.request(request).await.map_err(|error| match error.is_connect() {
            true => Failure::Connect(causes(&error)),
            false => Failure::NoAnswer(causes(&error)),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), MAX_ERROR_BYTES).collect().await;
        let body = body.map(|body| body.to_bytes()).unwrap_or_default();
        let ApiError { code, message } = ApiError::of_body(&body);
        Err(Failure::Status { status: status.as_u16(), code, message })
    }
}
