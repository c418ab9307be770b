//! Reads a request's body: bounded in bytes and in time.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use bytes::BytesMut;
use tokio::time::timeout;

use crate::error::ApiError;

/// Room that a body is given before any of it has come.
const FIRST_BYTES: usize = 64 * 1024;

pub(crate) async fn read(body: Body, limit: usize, time: Duration) -> Result<BytesMut, ApiError> {
    match timeout(time, collect(body, limit)).await {
        Ok(read) => read,
        Err(_) => Err(ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            format!("the body did not arrive within {} s", time.as_secs()),
        )),
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

async fn collect(mut body: Body, limit: usize) -> Result<BytesMut, ApiError> {
    let declared = body.size_hint().lower();
    if declared > limit as u64 {
        discard(body, limit).await;
        return Err(too_large(limit));
    }
    // What is declared need not come.
    let mut read = BytesMut::with_capacity(usize::try_from(declared).unwrap_or(0).min(FIRST_BYTES));
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| {
            ApiError::new(StatusCode::BAD_REQUEST, "broken_body", format!("the body broke off: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > limit - read.len() {
            discard(body, limit).await;
            return Err(too_large(limit));
        }
        read.extend_from_slice(&data);
    }
    Ok(read)
}

/// Reads on, as much again as would have been taken: a client that is still writing would not see why it is refused.
async fn discard(mut body: Body, limit: usize) {
    let mut seen = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        seen += frame.data_ref().map_or(0, |data| data.len());
        if seen > limit.saturating_mul(2) {
            return;
        }
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body has more than {limit} bytes, which is the most that is taken");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message)
}
