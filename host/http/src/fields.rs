//! The fields of a request's JSON object, each read with an error that names it. Null is the same as absent.

use std::fmt::Display;
use std::ops::RangeInclusive;

use axum::http::StatusCode;
use serde_json::{Map, Value};

use crate::error::ApiError;

pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Depth is bounded by the parser (128), size by whoever read the body.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, ApiError> {
        serde_json::from_slice(body).map(Self).map_err(|error| {
            let message = format!("the body is not a JSON object: {error}");
            ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", message)
        })
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(crate) fn boolean(&self, name: &str) -> Result<Option<bool>, ApiError> {
        let read = |value: &Value| value.as_bool().ok_or_else(|| wrong(name, "a boolean", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn string(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let read = |value| Value::as_str(value).ok_or_else(|| wrong(name, "a string", value));
        self.get(name).map(read).transpose()
    }

    pub(crate) fn number(&self, name: &str, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
        let read = |value: &Value| {
            let number = value.as_f64().ok_or_else(|| wrong(name, "a number", value))?;
            within(name, number, &range)
        };
        self.get(name).map(read).transpose()
    }

    pub(crate) fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
        let read = |value: &Value| {
            let number = value.as_i64().ok_or_else(|| wrong(name, "an integer", value))?;
            within(name, number, &range)
        };
        self.get(name).map(read).transpose()
    }

    /// Accepts a field that does nothing yet only where it would do nothing anyway.
    pub(crate) fn neutral(&self, name: &str, is_neutral: impl Fn(&Value) -> bool) -> Result<(), ApiError> {
        match self.get(name) {
            Some(value) if !is_neutral(value) => {
                Err(ApiError::unsupported(name, format!("`{name}` is not supported yet: leave it out")))
            }
            _ => Ok(()),
        }
    }
}

/// An error for a value of another type than expected. The value itself may be large or private, and is not shown.
pub(crate) fn wrong(name: &str, expected: &str, value: &Value) -> ApiError {
    let found = match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "another number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    ApiError::invalid(name, format!("`{name}` must be {expected}, not {found}"))
}

fn within<T: PartialOrd + Display>(name: &str, number: T, range: &RangeInclusive<T>) -> Result<T, ApiError> {
    if range.contains(&number) {
        return Ok(number);
    }
    Err(ApiError::invalid(name, format!("`{name}` must be from {} to {}, not {number}", range.start(), range.end())))
}
