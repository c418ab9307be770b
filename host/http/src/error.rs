//! Every failure that a client sees, in OpenAI's envelope.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluice_core::{Nanos, Rejection, SECOND};

use crate::text::TextError;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<u64>,
}

/// Of what a client wrote, as much as an error repeats.
const SHOWN_CHARACTERS: usize = 100;

/// OpenAI's clients stop trying again above two minutes.
const RETRY_SECONDS: std::ops::RangeInclusive<u64> = 1..=120;

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let kind = match status.as_u16() {
            429 => "rate_limit_error",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        };
        Self { status, message: message.into(), kind, param: None, code: Some(code), retry_after: None }
    }

    /// A value that cannot be; `param` names it.
    pub(crate) fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_value", message).of(param)
    }

    /// A value that is right, but would change the answer in a way that is not implemented.
    pub(crate) fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "unsupported_parameter", message).of(param)
    }

    pub(crate) fn stopping() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "shutting_down", "the server is shutting down: try another one")
            .retry_after(SECOND)
    }

    pub(crate) fn stopped() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "engine_stopped", "the engine has stopped: the server must restart")
            .retry_after(10 * SECOND)
    }

    pub(crate) fn failed(reason: &str) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", format!("the answer failed: {reason}"))
    }

    pub(crate) fn of(self, param: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..self }
    }

    pub(crate) fn retry_after(self, after: Nanos) -> Self {
        let seconds = after.div_ceil(SECOND).clamp(*RETRY_SECONDS.start(), *RETRY_SECONDS.end());
        Self { retry_after: Some(seconds), ..self }
    }

    pub(crate) fn code(&self) -> &'static str {
        self.code.unwrap_or("error")
    }

    /// The envelope, on one line.
    pub(crate) fn json(&self) -> String {
        let Self { message, kind, param, code, .. } = self;
        json!({"error": {"message": message, "type": kind, "param": param, "code": code}}).to_string()
    }
}

/// What a client wrote, short and in visible characters.
pub(crate) fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(SHOWN_CHARACTERS).flat_map(char::escape_debug).collect();
    if text.chars().nth(SHOWN_CHARACTERS).is_some() {
        shown.push('…');
    }
    shown
}

impl From<&Rejection> for ApiError {
    fn from(rejection: &Rejection) -> Self {
        let error = if rejection.caller {
            Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", &rejection.reason)
        } else {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_overloaded", &rejection.reason)
        };
        error.retry_after(rejection.retry_after)
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        let (status, code) = match error {
            TextError::TooLong | TextError::Refused(_) => (StatusCode::BAD_REQUEST, "invalid_prompt"),
            TextError::Failed(_) => (StatusCode::INTERNAL_SERVER_ERROR, "template_error"),
        };
        Self::new(status, code, error.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, self.json()).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_has_its_four_keys_whatever_is_known() {
        let error = ApiError::invalid("top_p", "say \"more\"").json();
        assert_eq!(
            error,
            r#"{"error":{"code":"invalid_value","message":"say \"more\"","param":"top_p","type":"invalid_request_error"}}"#
        );
        assert!(ApiError::stopping().json().contains(r#""param":null"#));
    }

    #[test]
    fn what_a_client_wrote_is_shown_short_and_visible() {
        assert_eq!(shown("/v1/näh"), "/v1/näh");
        assert_eq!(shown("/\u{1b}[2J\u{202e}"), r"/\u{1b}[2J\u{202e}");
        assert_eq!(shown(&"x".repeat(101)), "x".repeat(100) + "…");
    }

    #[test]
    fn retry_after_is_within_what_clients_honour() {
        for (nanos, seconds) in [(0, 1), (1, 1), (SECOND, 1), (SECOND + 1, 2), (500 * SECOND, 120), (u64::MAX, 120)] {
            let rejection = Rejection { caller: true, reason: String::new(), retry_after: nanos };
            let response = ApiError::from(&rejection).into_response();
            assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
            assert_eq!(response.headers()[RETRY_AFTER], seconds.to_string());
        }
    }
}
