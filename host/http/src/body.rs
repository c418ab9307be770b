//! Reads the bodies of requests: each bounded in bytes and in time, and all that are large in the bytes that they hold
//! together.

use std::future::poll_fn;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use sluice_telemetry::{EdgeMetrics, Timeout};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;

/// What all requests to one listener may hold.
#[derive(Clone)]
pub(crate) struct Bodies {
    limit: usize,
    time: Duration,
    /// In bytes.
    room: Arc<Semaphore>,
    metrics: Option<EdgeMetrics>,
}

/// A body, and with it its share of the room.
pub(crate) struct Received {
    bytes: BytesMut,
    share: Option<OwnedSemaphorePermit>,
}

/// A body up to here needs no share: as many as there may be connections are not much.
pub(crate) const SMALL_BYTES: usize = 4096;
/// Room that a body is given before any of it has come.
const FIRST_BYTES: usize = 64 * 1024;

impl Bodies {
    /// `limit` is of one body, `together` of all.
    pub(crate) fn new(limit: usize, together: usize, time: Duration) -> Self {
        let room = together.max(limit).min(Semaphore::MAX_PERMITS);
        Self { limit, time, room: Arc::new(Semaphore::new(room)), metrics: None }
    }

    /// Those that come too late are counted.
    pub(crate) fn counted(self, metrics: EdgeMetrics) -> Self {
        Self { metrics: Some(metrics), ..self }
    }

    /// What it leaves of a body that is refused, the connection sees to.
    pub(crate) async fn read(&self, mut body: Body) -> Result<Received, ApiError> {
        let deadline = Instant::now() + self.time;
        let declared = body.size_hint().lower();
        if declared > self.limit as u64 {
            return Err(self.too_large());
        }
        // What is declared need not come.
        let first = usize::try_from(declared).unwrap_or(0).min(FIRST_BYTES);
        let mut read = Received { bytes: BytesMut::with_capacity(first), share: None };
        loop {
            let frame = timeout_at(deadline, next_frame(&mut body)).await.map_err(|_| self.too_slow())?;
            let Some(frame) = frame else { return Ok(read) };
            let frame = frame.map_err(|error| {
                ApiError::new(StatusCode::BAD_REQUEST, "broken_body", format!("the body broke off: {error}"))
            })?;
            let Ok(data) = frame.into_data() else { continue };
            if data.len() > self.limit - read.bytes.len() {
                return Err(self.too_large());
            }
            timeout_at(deadline, self.make_room(&mut read, data.len())).await.map_err(|_| busy())?;
            read.bytes.extend_from_slice(&data);
        }
    }

    /// A share grows as the bytes come: who only declares a body takes nothing from others.
    async fn make_room(&self, read: &mut Received, more: usize) {
        let needed = read.bytes.len() + more;
        if needed <= SMALL_BYTES {
            return;
        }
        let held = read.share.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let missing = u32::try_from(needed - held).unwrap_or(u32::MAX);
        // The semaphore is never closed.
        let more = Arc::clone(&self.room).acquire_many_owned(missing).await.ok();
        match (&mut read.share, more) {
            (Some(share), Some(more)) => share.merge(more),
            (share, more) => *share = more,
        }
    }

    fn too_large(&self) -> ApiError {
        let message = format!("the body has more than {} bytes, which is the most that is taken", self.limit);
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
    }

    fn too_slow(&self) -> ApiError {
        if let Some(metrics) = &self.metrics {
            metrics.timed_out(Timeout::Body);
        }
        let message = format!("the body did not arrive within {} s", self.time.as_secs_f64());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    }
}

impl Received {
    pub(crate) fn is_small(&self) -> bool {
        self.share.is_none()
    }
}

impl Deref for Received {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body of another type is refused before it is read.
pub(crate) fn expect_type(headers: &HeaderMap, expected: &str) -> Result<(), ApiError> {
    let found = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = found.split(';').next().unwrap_or("").trim();
    if essence.eq_ignore_ascii_case(expected) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("the body must be sent with `Content-Type: {expected}`, not `{essence}`"),
    ))
}

/// For a large request that found no room, or nobody free to read it.
pub(crate) fn busy() -> ApiError {
    let message = "the server is busy with other large requests: try again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "server_overloaded", message).retry_after(sluice_core::SECOND)
}

async fn next_frame(body: &mut Body) -> Option<Result<hyper::body::Frame<bytes::Bytes>, axum::Error>> {
    poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_bodies_share_the_room_and_small_ones_pass() {
        let bodies = Bodies::new(10_000, 12_000, Duration::from_millis(50));
        let read = async |bytes: usize| bodies.read(Body::from(vec![0; bytes])).await;
        let first = read(9_000).await.unwrap();
        assert_eq!((first.len(), first.is_small(), bodies.room.available_permits()), (9_000, false, 3_000));
        assert_eq!(read(5_000).await.map(|_| ()), Err(busy()));
        assert!(read(SMALL_BYTES).await.unwrap().is_small());
        drop(first);
        assert_eq!(read(5_000).await.unwrap().len(), 5_000);
        assert_eq!(bodies.room.available_permits(), 12_000);
    }
}
