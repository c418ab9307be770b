//! Every failure that a client sees, in OpenAI's envelope.

use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluice_core::{Failure, FailureKind, Nanos, Rejection, SECOND};
use sluice_telemetry::Timeout;

use crate::text::TextError;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct ApiError {
    pub(crate) status: StatusCode,
    message: String,
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
    retry_after: Option<u64>,
    /// What took too long, if it was that.
    timeout: Option<Timeout>,
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
        Self { status, message: message.into(), kind, param: None, code: Some(code), retry_after: None, timeout: None }
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

    /// It is the engine's fault; `message` says what failed.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "engine_error", message)
    }

    /// It is the fault of what surrounds the engine.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", message)
    }

    /// The answer took too long; what of it is sent already, the client has.
    pub(crate) fn timed_out(what: Timeout) -> Self {
        let (code, message) = match what {
            Timeout::FirstToken => ("first_token_timeout", "the answer did not begin in time: try again"),
            Timeout::Stall => ("stall_timeout", "the answer stalled for too long: try again"),
            _ => ("total_timeout", "the answer took too long: ask for less, or try again"),
        };
        Self { timeout: Some(what), ..Self::new(StatusCode::GATEWAY_TIMEOUT, code, message) }
    }

    pub(crate) fn timeout(&self) -> Option<Timeout> {
        self.timeout
    }

    /// Of several prompts this one is to blame.
    pub(crate) fn in_prompt(self, index: usize) -> Self {
        let message = format!("prompt {index}: {}", self.message);
        let param = if self.param.as_deref() == Some("prompt") { Some(format!("prompt[{index}]")) } else { self.param };
        Self { message, param, ..self }
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

impl From<&Failure> for ApiError {
    fn from(failure: &Failure) -> Self {
        let message = match failure.kind {
            // It had not begun.
            FailureKind::QueueTimeout => failure.message.clone(),
            _ => format!("the answer failed: {}", failure.message),
        };
        let (status, code) = match failure.kind {
            FailureKind::QueueTimeout => (StatusCode::SERVICE_UNAVAILABLE, "queue_timeout"),
            FailureKind::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "shutting_down"),
            FailureKind::ReplicaLost => (StatusCode::BAD_GATEWAY, "replica_lost"),
            FailureKind::Poison => (StatusCode::INTERNAL_SERVER_ERROR, "request_poisoned"),
            FailureKind::NotANumber => (StatusCode::INTERNAL_SERVER_ERROR, "not_a_number"),
            FailureKind::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "engine_error"),
        };
        let timeout = (failure.kind == FailureKind::QueueTimeout).then_some(Timeout::Queue);
        let error = Self { timeout, ..Self::new(status, code, message) };
        match failure.retry_after {
            Some(after) => error.retry_after(after),
            // Clients are always told when to come back.
            None if status == StatusCode::SERVICE_UNAVAILABLE => error.retry_after(SECOND),
            None => error,
        }
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
    fn every_failure_has_a_code_and_busy_ones_say_when_to_come_back() {
        for (kind, status, code, after) in [
            (FailureKind::QueueTimeout, 503, "queue_timeout", Some(1)),
            (FailureKind::Stopping, 503, "shutting_down", Some(1)),
            (FailureKind::ReplicaLost, 502, "replica_lost", None),
            (FailureKind::Poison, 500, "request_poisoned", None),
            (FailureKind::NotANumber, 500, "not_a_number", None),
            (FailureKind::Internal, 500, "engine_error", None),
        ] {
            let error = ApiError::from(&Failure::new(kind, "why"));
            assert_eq!((error.status.as_u16(), error.code(), error.retry_after), (status, code, after));
            assert!(error.json().contains("why"));
        }
        let failure = Failure { retry_after: Some(7 * SECOND), ..Failure::new(FailureKind::QueueTimeout, "") };
        let error = ApiError::from(&failure);
        assert_eq!((error.retry_after, error.timeout()), (Some(7), Some(Timeout::Queue)));
    }

    #[test]
    fn an_error_says_what_failed() {
        for (kind, message) in [
            (FailureKind::QueueTimeout, "it was late"),
            (FailureKind::Stopping, "the answer failed: it was late"),
            (FailureKind::Internal, "the answer failed: it was late"),
        ] {
            assert_eq!(ApiError::from(&Failure::new(kind, "it was late")).message, message);
        }
    }

    #[test]
    fn every_time_out_of_an_answer_is_known() {
        for what in [Timeout::FirstToken, Timeout::Stall, Timeout::Total] {
            let error = ApiError::timed_out(what);
            assert_eq!((error.timeout(), error.status), (Some(what), StatusCode::GATEWAY_TIMEOUT));
            assert_eq!(error.code(), format!("{}_timeout", what.as_str()));
        }
        assert_eq!(ApiError::stopping().timeout(), None);
    }

    #[test]
    fn of_several_prompts_one_is_named() {
        let error = ApiError::invalid("prompt", "it is empty").in_prompt(3).json();
        assert!(error.contains(r#""param":"prompt[3]""#) && error.contains("prompt 3: it is empty"), "{error}");
        assert!(ApiError::invalid("min_tokens", "").in_prompt(3).json().contains(r#""param":"min_tokens""#));
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
