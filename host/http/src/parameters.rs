//! The parameters that chat and plain completions share, with OpenAI's and vLLM's names and ranges.

use std::ops::RangeInclusive;

use serde_json::Value;
use sluice_core::{Digest, MILLISECOND, Nanos};

use crate::error::ApiError;
use crate::fields::{Fields, wrong};

/// `None` is whatever the server's defaults are.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) seed: Option<u64>,
    pub(crate) max_new_tokens: Option<u32>,
    pub(crate) min_new_tokens: u32,
    pub(crate) stop: Vec<String>,
    pub(crate) stop_token_ids: Vec<u32>,
    pub(crate) ignore_eos: bool,
    /// Higher is more urgent, as everywhere inside; in a body it is vLLM's `priority`, where lower is.
    pub(crate) priority: i32,
    /// `ttft_target_ms` and `tpot_target_ms`: how soon the first token and each further one should come, for policies.
    pub(crate) ttft_target: Option<Nanos>,
    pub(crate) tpot_target: Option<Nanos>,
    /// `deadline_ms`: how long after its arrival the answer is still of use, for policies.
    pub(crate) time_limit: Option<Nanos>,
    pub(crate) session: Option<u64>,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// Keep only so many of the prompt's last tokens; `u32::MAX` is as many as the model takes.
    pub(crate) truncate: Option<u32>,
}

/// Anybody may send one, so it only orders requests of much the same standing; policies may change it.
const PRIORITIES: RangeInclusive<i64> = -100..=100;
/// A day.
const LONGEST_MS: i64 = 24 * 60 * 60 * 1000;
const STOP_STRINGS: usize = 4;
const STOP_BYTES: usize = 1024;
const STOP_TOKENS: usize = 64;

impl Parameters {
    /// `limits` are the names under which this endpoint knows the limit of new tokens, the preferred one first.
    pub(crate) fn read(fields: &Fields, limits: &[&str]) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        Ok(Self {
            temperature: fields.number("temperature", 0.0..=2.0)?.map(|value| value as f32),
            // OpenAI takes 0, which is the most likely token alone.
            top_p: fields.number("top_p", 0.0..=1.0)?.map(|value| (value as f32).max(f32::MIN_POSITIVE)),
            top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map(|value| u32::try_from(value).unwrap_or(0)),
            min_p: fields.number("min_p", 0.0..=1.0)?.map(|value| value as f32),
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
            max_new_tokens: first_limit(fields, limits)?,
            min_new_tokens: tokens(fields, "min_tokens", 0)?.unwrap_or(0),
            stop: stop(fields)?,
            stop_token_ids: stop_token_ids(fields)?,
            ignore_eos: fields.boolean("ignore_eos")?.unwrap_or(false),
            priority: priority(fields)?,
            ttft_target: milliseconds(fields, "ttft_target_ms")?,
            tpot_target: milliseconds(fields, "tpot_target_ms")?,
            time_limit: milliseconds(fields, "deadline_ms")?,
            session: session(fields)?,
            stream,
            include_usage: include_usage(fields, stream)?,
            truncate: truncate(fields)?,
        })
    }
}

fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    let zero = |value: &Value| value.as_f64() == Some(0.0);
    let one = |value: &Value| value.as_f64() == Some(1.0);
    let off = |value: &Value| value.as_bool() == Some(false);
    let empty = |value: &Value| match value {
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    for name in ["n", "best_of", "repetition_penalty", "length_penalty"] {
        fields.neutral(name, one)?;
    }
    for name in ["presence_penalty", "frequency_penalty", "top_logprobs", "prompt_logprobs"] {
        fields.neutral(name, zero)?;
    }
    for name in ["echo", "use_beam_search"] {
        fields.neutral(name, off)?;
    }
    for name in ["logit_bias", "suffix", "tools", "functions", "bad_words", "allowed_token_ids"] {
        fields.neutral(name, empty)?;
    }
    for name in ["guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs", "audio"] {
        fields.neutral(name, |_| false)?;
    }
    fields.neutral("logprobs", off)?;
    fields.neutral("tool_choice", |value| matches!(value.as_str(), Some("none" | "auto")))?;
    fields.neutral("function_call", |value| matches!(value.as_str(), Some("none" | "auto")))?;
    fields.neutral("response_format", |value| value.get("type").and_then(Value::as_str) == Some("text"))?;
    fields.neutral("modalities", |value| *value == serde_json::json!(["text"]))
}

fn tokens(fields: &Fields, name: &str, least: i64) -> Result<Option<u32>, ApiError> {
    let value = fields.integer(name, least..=i64::from(u32::MAX))?;
    Ok(value.and_then(|value| u32::try_from(value).ok()))
}

fn first_limit(fields: &Fields, names: &[&str]) -> Result<Option<u32>, ApiError> {
    for name in names {
        if let Some(limit) = tokens(fields, name, 1)? {
            return Ok(Some(limit));
        }
    }
    Ok(None)
}

fn stop(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Value::Array(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    if list.len() > STOP_STRINGS {
        let message = format!("`stop` has {} strings; at most {STOP_STRINGS} are taken", list.len());
        return Err(ApiError::invalid("stop", message));
    }
    let read = |value: &Value| match value {
        Value::String(text) if text.is_empty() => Err(ApiError::invalid("stop", "a string in `stop` is empty")),
        Value::String(text) if text.len() > STOP_BYTES => {
            Err(ApiError::invalid("stop", format!("a string in `stop` has more than {STOP_BYTES} bytes")))
        }
        Value::String(text) => Ok(text.clone()),
        other => Err(wrong("stop", "a string or a list of strings", other)),
    };
    list.iter().map(read).collect()
}

fn stop_token_ids(fields: &Fields) -> Result<Vec<u32>, ApiError> {
    const NAME: &str = "stop_token_ids";
    let Some(value) = fields.get(NAME) else { return Ok(Vec::new()) };
    let list = value.as_array().ok_or_else(|| wrong(NAME, "a list of tokens", value))?;
    if list.len() > STOP_TOKENS {
        return Err(ApiError::invalid(NAME, format!("`{NAME}` has more than {STOP_TOKENS} tokens")));
    }
    let read = |value: &Value| value.as_u64().and_then(|token| u32::try_from(token).ok());
    list.iter().map(|value| read(value).ok_or_else(|| wrong(NAME, "a list of tokens", value))).collect()
}

fn priority(fields: &Fields) -> Result<i32, ApiError> {
    let priority = fields.integer("priority", PRIORITIES)?.unwrap_or(0);
    Ok(i32::try_from(-priority).unwrap_or(0))
}

fn milliseconds(fields: &Fields, name: &str) -> Result<Option<Nanos>, ApiError> {
    let value = fields.integer(name, 1..=LONGEST_MS)?;
    Ok(value.map(|value| value.unsigned_abs() * MILLISECOND))
}

/// -1 is as many as the model takes. A prompt of no tokens could never be answered.
fn truncate(fields: &Fields) -> Result<Option<u32>, ApiError> {
    const NAME: &str = "truncate_prompt_tokens";
    match fields.integer(NAME, -1..=i64::from(u32::MAX))? {
        Some(0) => Err(ApiError::invalid(NAME, format!("`{NAME}` must be -1 or at least 1, not 0"))),
        value => Ok(value.map(|value| u32::try_from(value).unwrap_or(u32::MAX))),
    }
}

/// Requests with the same `prompt_cache_key` belong to one session.
fn session(fields: &Fields) -> Result<Option<u64>, ApiError> {
    let key = fields.string("prompt_cache_key")?;
    Ok(key.map(|key| first_word(&Digest::of(key.as_bytes()))))
}

fn include_usage(fields: &Fields, stream: bool) -> Result<bool, ApiError> {
    const NAME: &str = "stream_options";
    let Some(options) = fields.get(NAME) else { return Ok(false) };
    if !stream {
        return Err(ApiError::invalid(NAME, "`stream_options` goes only with `stream: true`"));
    }
    match options.get("include_usage") {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        Some(other) => Err(wrong("stream_options.include_usage", "a boolean", other)),
    }
}

/// Eight bytes of a digest, as the number by which things are known inside.
pub(crate) fn first_word(digest: &Digest) -> u64 {
    digest.0[..8].iter().fold(0, |word, &byte| word << 8 | u64::from(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Parameters, ApiError> {
        Parameters::read(&Fields::parse(json.as_bytes()).unwrap(), &["max_completion_tokens", "max_tokens"])
    }

    #[test]
    fn what_is_neutral_null_or_unknown_changes_nothing() {
        let json = r#"{
            "n": 1, "best_of": 1, "presence_penalty": 0, "frequency_penalty": 0.0, "repetition_penalty": 1.0,
            "logit_bias": {}, "logprobs": false, "top_logprobs": null, "echo": false, "suffix": null, "tools": [],
            "tool_choice": "none", "response_format": {"type": "text"}, "stop": null, "temperature": null,
            "user": "someone", "metadata": {"a": [1]}, "store": true, "modalities": ["text"]
        }"#;
        assert_eq!(read(json), Ok(Parameters::default()));
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let read = read(
            r#"{"temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0.1, "seed": -1, "max_tokens": 7,
                "max_completion_tokens": 9, "min_tokens": 2, "stop": "x", "stop_token_ids": [5], "ignore_eos": true,
                "priority": 3, "stream": true, "stream_options": {"include_usage": true},
                "truncate_prompt_tokens": -1, "ttft_target_ms": 200, "tpot_target_ms": 50, "deadline_ms": 86400000}"#,
        );
        let expected = Parameters {
            temperature: Some(0.0),
            top_p: Some(f32::MIN_POSITIVE),
            top_k: Some(0),
            min_p: Some(0.1),
            seed: Some(u64::MAX),
            max_new_tokens: Some(9),
            min_new_tokens: 2,
            stop: vec!["x".to_owned()],
            stop_token_ids: vec![5],
            ignore_eos: true,
            priority: -3,
            ttft_target: Some(200 * MILLISECOND),
            tpot_target: Some(50 * MILLISECOND),
            time_limit: Some(86_400_000 * MILLISECOND),
            session: None,
            stream: true,
            include_usage: true,
            truncate: Some(u32::MAX),
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn the_error_names_the_parameter() {
        let cases = [
            (r#"{"temperature": 2.1}"#, "temperature", "invalid_value"),
            (r#"{"temperature": "hot"}"#, "temperature", "invalid_value"),
            (r#"{"top_p": -0.1}"#, "top_p", "invalid_value"),
            (r#"{"max_tokens": 0}"#, "max_tokens", "invalid_value"),
            (r#"{"max_tokens": 1.5}"#, "max_tokens", "invalid_value"),
            (r#"{"max_completion_tokens": -1}"#, "max_completion_tokens", "invalid_value"),
            (r#"{"seed": "1"}"#, "seed", "invalid_value"),
            (r#"{"stop": ["a","b","c","d","e"]}"#, "stop", "invalid_value"),
            (r#"{"stop": ""}"#, "stop", "invalid_value"),
            (r#"{"stop": [1]}"#, "stop", "invalid_value"),
            (r#"{"stop_token_ids": [-1]}"#, "stop_token_ids", "invalid_value"),
            (r#"{"stream": 1}"#, "stream", "invalid_value"),
            (r#"{"stream_options": {}}"#, "stream_options", "invalid_value"),
            (r#"{"priority": -101}"#, "priority", "invalid_value"),
            (r#"{"priority": 101}"#, "priority", "invalid_value"),
            (r#"{"truncate_prompt_tokens": 0}"#, "truncate_prompt_tokens", "invalid_value"),
            (r#"{"truncate_prompt_tokens": -2}"#, "truncate_prompt_tokens", "invalid_value"),
            (r#"{"ttft_target_ms": 0}"#, "ttft_target_ms", "invalid_value"),
            (r#"{"tpot_target_ms": 1.5}"#, "tpot_target_ms", "invalid_value"),
            (r#"{"deadline_ms": 86400001}"#, "deadline_ms", "invalid_value"),
            (r#"{"n": 2}"#, "n", "unsupported_parameter"),
            (r#"{"presence_penalty": 0.5}"#, "presence_penalty", "unsupported_parameter"),
            (r#"{"logprobs": true}"#, "logprobs", "unsupported_parameter"),
            (r#"{"logprobs": 0}"#, "logprobs", "unsupported_parameter"),
            (r#"{"logit_bias": {"1": 5}}"#, "logit_bias", "unsupported_parameter"),
            (r#"{"echo": true}"#, "echo", "unsupported_parameter"),
            (r#"{"response_format": {"type": "json_object"}}"#, "response_format", "unsupported_parameter"),
            (r#"{"tools": [{"type": "function"}]}"#, "tools", "unsupported_parameter"),
        ];
        for (json, param, code) in cases {
            let error = read(json).unwrap_err();
            assert_eq!(error.code(), code, "{json}");
            assert!(error.json().contains(&format!(r#""param":"{param}""#)), "{json}: {}", error.json());
        }
    }
}
