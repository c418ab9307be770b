//! The fields of a request's JSON object, each read with an error that names it. Null is the same as absent.

use std::collections::HashMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::http::StatusCode;
use sluice_text::Json;

use crate::error::ApiError;

/// What is nested in a field keeps its order: templates show it to the model.
pub(crate) struct Fields(HashMap<String, Json>);

impl Fields {
    /// Depth is bounded by the parser (128), size by whoever read the body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map(Self).map_err(|error| {
            let message = format!("the body is not a JSON object: {error}");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Json> {
        self.0.get(name).filter(|value| **value != Json::Null)
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Json> {
        self.0.remove(name).filter(|value| *value != Json::Null)
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let read = |value: &Json| value.as_bool().ok_or_else(|| wrong(name, "a boolean", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let read = |value| Json::as_text(value).ok_or_else(|| wrong(name, "a string", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let read = |value: &Json| {
            let number = as_f64(value).ok_or_else(|| wrong(name, "a number", value))?;
            within(name, number, &range)
        };
        self.get(name).map(read).transpose()
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let read = |value: &Json| {
            let number = value.as_number().and_then(serde_json::Number::as_i64);
            within(name, number.ok_or_else(|| wrong(name, "an integer", value))?, &range)
        };
        self.get(name).map(read).transpose()
    }

    /// Accepts a field that does nothing yet only where it would do nothing anyway.
    pub(crate) fn neutral(&self, name: &str, is_neutral: impl Fn(&Json) -> bool) -> Result<(), ApiError> {
        match self.get(name) {
            Some(value) if !is_neutral(value) => {
                Err(ApiError::unsupported(name, format!("`{name}` is not supported yet: leave it out")))
            }
            _ => Ok(()),
        }
    }
}

pub(crate) fn as_f64(value: &Json) -> Option<f64> {
    value.as_number().and_then(serde_json::Number::as_f64)
}

/// A token's id.
pub(crate) fn as_token(value: &Json) -> Option<u32> {
    value.as_number().and_then(serde_json::Number::as_u64).and_then(|token| u32::try_from(token).ok())
}

/// A list of token ids.
pub(crate) fn tokens(name: &str, list: &[Json]) -> Result<Vec<u32>, ApiError> {
    list.iter().map(|value| as_token(value).ok_or_else(|| wrong(name, "a list of tokens", value))).collect()
}

/// An error for a value of another type than expected. The value itself may be large or private, and is not shown.
pub(crate) fn wrong(name: &str, expected: &str, value: &Json) -> ApiError {
    let found = match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "another number",
        Json::Text(_) => "a string",
        Json::List(_) => "a list",
        Json::Object(_) => "an object",
    };
    ApiError::invalid(name, format!("`{name}` must be {expected}, not {found}"))
}

pub(crate) fn within<T: PartialOrd + Display>(name: &str, number: T, range: &RangeInclusive<T>) -> Result<T, ApiError> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(ApiError::invalid(name, format!("`{name}` must be from {} to {}, not {number}", range.start(), range.end())))
}
