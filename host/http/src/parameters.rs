//! The parameters that chat and plain completions share, with OpenAI's and vLLM's names and ranges.

use sluice_core::SamplingParams;
use std::ops::RangeInclusive;

use sluice_core::{Digest, MILLISECOND, Nanos};
use sluice_text::Json;

use crate::error::ApiError;
use crate::fields::{self, Fields, as_f64, within, wrong};
use crate::object::Endpoint;
use crate::unsupported;

/// `None` is whatever the server's defaults are.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Parameters {
    pub(crate) temperature: Option<f32>,
    pub(crate) top_p: Option<f32>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f32>,
    pub(crate) repetition_penalty: Option<f32>,
    pub(crate) presence_penalty: Option<f32>,
    pub(crate) frequency_penalty: Option<f32>,
    pub(crate) logit_bias: Vec<(u32, f32)>,
    pub(crate) seed: Option<u64>,
    /// Answers to each prompt.
    pub(crate) n: Option<u32>,
    /// How many alternatives to show with each token; `None` shows not even how likely the token itself was.
    pub(crate) logprobs: Option<u8>,
    /// The prompt comes before its answer.
    pub(crate) echo: bool,
    /// 0 only with `echo`: then nothing is made.
    pub(crate) max_new_tokens: Option<u32>,
    pub(crate) min_new_tokens: u32,
    pub(crate) stop: Vec<String>,
    /// The stop string that ends an answer is shown.
    pub(crate) include_stop: bool,
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
    /// Without the tokens that the model wants at the very beginning.
    pub(crate) bare: bool,
}

/// Anybody may send one, so it only orders requests of much the same standing; policies may change it.
const PRIORITIES: RangeInclusive<i64> = -100..=100;
/// A day.
const LONGEST_MS: i64 = 24 * 60 * 60 * 1000;
const STOP_STRINGS: usize = 4;
const STOP_BYTES: usize = 1024;
const STOP_TOKENS: usize = 64;
const CHOICES: RangeInclusive<i64> = 1..=16;
const ALTERNATIVES: RangeInclusive<i64> = 0..=20;
const PENALTY: RangeInclusive<f64> = -2.0..=2.0;
const BIAS: RangeInclusive<f64> = -100.0..=100.0;

impl Parameters {
    pub(crate) fn read(fields: &Fields, endpoint: Endpoint) -> Result<Self, ApiError> {
        unsupported::refuse(fields)?;
        let stream = fields.boolean("stream")?.unwrap_or(false);
        let echo = echo(fields, endpoint)?;
        Ok(Self {
            temperature: real(fields, "temperature", 0.0..=2.0)?,
            // OpenAI takes 0, which is the most likely token alone.
            top_p: real(fields, "top_p", 0.0..=1.0)?.map(|part| part.max(f32::MIN_POSITIVE)),
            top_k: fields.integer("top_k", -1..=i64::from(u32::MAX))?.map(|value| u32::try_from(value).unwrap_or(0)),
            min_p: real(fields, "min_p", 0.0..=1.0)?,
            repetition_penalty: repetition_penalty(fields)?,
            presence_penalty: real(fields, "presence_penalty", PENALTY)?,
            frequency_penalty: real(fields, "frequency_penalty", PENALTY)?,
            logit_bias: logit_bias(fields)?,
            seed: fields.integer("seed", i64::MIN..=i64::MAX)?.map(i64::cast_unsigned),
            n: choices(fields)?,
            logprobs: logprobs(fields, endpoint)?,
            echo,
            max_new_tokens: first_limit(fields, endpoint, i64::from(!echo))?,
            min_new_tokens: count(fields, "min_tokens", 0)?.unwrap_or(0),
            stop: stop(fields)?,
            include_stop: fields.boolean("include_stop_str_in_output")?.unwrap_or(false),
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
            bare: bare(fields, endpoint)?,
        })
    }

    /// Answers to each prompt.
    pub(crate) fn choices(&self) -> u32 {
        self.n.unwrap_or(1)
    }

    /// Only the prompt is shown.
    pub(crate) fn makes_nothing(&self) -> bool {
        self.max_new_tokens == Some(0)
    }
}

fn real(fields: &Fields, name: &str, range: RangeInclusive<f64>) -> Result<Option<f32>, ApiError> {
    Ok(fields.number(name, range)?.map(|value| value as f32))
}

/// Logits are divided by it.
fn repetition_penalty(fields: &Fields) -> Result<Option<f32>, ApiError> {
    const NAME: &str = "repetition_penalty";
    match real(fields, NAME, 0.0..=2.0)? {
        Some(0.0) => Err(ApiError::invalid(NAME, format!("`{NAME}` must be more than 0"))),
        value => Ok(value),
    }
}

/// Keys are token ids, written as JSON wants keys: as strings.
fn logit_bias(fields: &Fields) -> Result<Vec<(u32, f32)>, ApiError> {
    const NAME: &str = "logit_bias";
    let members = match fields.get(NAME) {
        None => return Ok(Vec::new()),
        Some(Json::Object(members)) => members,
        Some(other) => return Err(wrong(NAME, "an object from token ids to numbers", other)),
    };
    if members.len() > SamplingParams::MOST_BIASES {
        let (count, most) = (members.len(), SamplingParams::MOST_BIASES);
        let message = format!("`{NAME}` has {count} entries; at most {most} are taken");
        return Err(ApiError::invalid(NAME, message));
    }
    let read = |(key, value): &(String, Json)| {
        let token = key.parse().map_err(|_| ApiError::invalid(NAME, "a key of `logit_bias` is no token's id"))?;
        let bias = as_f64(value).ok_or_else(|| wrong(NAME, "an object of numbers", value))?;
        Ok((token, within(NAME, bias, &BIAS)? as f32))
    };
    members.iter().map(read).collect()
}

fn choices(fields: &Fields) -> Result<Option<u32>, ApiError> {
    let n = fields.integer("n", CHOICES)?;
    match fields.integer("best_of", 1..=i64::MAX)? {
        Some(best_of) if best_of != n.unwrap_or(1) => {
            Err(ApiError::unsupported("best_of", "`best_of` is supported only where it is the same as `n`"))
        }
        _ => Ok(n.and_then(|n| u32::try_from(n).ok())),
    }
}

/// Chats say with a boolean whether they want any, and how many by another name.
fn logprobs(fields: &Fields, endpoint: Endpoint) -> Result<Option<u8>, ApiError> {
    const NAME: &str = "logprobs";
    let alternatives = |name| Ok(fields.integer(name, ALTERNATIVES)?.and_then(|value| u8::try_from(value).ok()));
    if endpoint == Endpoint::Completion {
        return if fields.get(NAME) == Some(&Json::Bool(false)) { Ok(None) } else { alternatives(NAME) };
    }
    match (fields.boolean(NAME)?.unwrap_or(false), alternatives("top_logprobs")?) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => Err(ApiError::invalid("top_logprobs", "`top_logprobs` goes only with `logprobs: true`")),
    }
}

fn echo(fields: &Fields, endpoint: Endpoint) -> Result<bool, ApiError> {
    match fields.boolean("echo")?.unwrap_or(false) {
        true if endpoint == Endpoint::Chat => {
            Err(ApiError::unsupported("echo", "`echo` is for plain completions: a chat's prompt is not shown"))
        }
        echo => Ok(echo),
    }
}

fn count(fields: &Fields, name: &str, least: i64) -> Result<Option<u32>, ApiError> {
    let value = fields.integer(name, least..=i64::from(u32::MAX))?;
    Ok(value.and_then(|value| u32::try_from(value).ok()))
}

/// Of the two names the one that belongs to the endpoint counts first.
fn first_limit(fields: &Fields, endpoint: Endpoint, least: i64) -> Result<Option<u32>, ApiError> {
    let names = match endpoint {
        Endpoint::Chat => ["max_completion_tokens", "max_tokens"],
        Endpoint::Completion => ["max_tokens", "max_completion_tokens"],
    };
    for name in names {
        if let Some(limit) = count(fields, name, least)? {
            return Ok(Some(limit));
        }
    }
    Ok(None)
}

fn stop(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let list = match fields.get("stop") {
        None => return Ok(Vec::new()),
        Some(Json::List(list)) => list.as_slice(),
        Some(one) => std::slice::from_ref(one),
    };
    if list.len() > STOP_STRINGS {
        let message = format!("`stop` has {} strings; at most {STOP_STRINGS} are taken", list.len());
        return Err(ApiError::invalid("stop", message));
    }
    let read = |value: &Json| match value {
        Json::Text(text) if text.is_empty() => Err(ApiError::invalid("stop", "a string in `stop` is empty")),
        Json::Text(text) if text.len() > STOP_BYTES => {
            Err(ApiError::invalid("stop", format!("a string in `stop` has more than {STOP_BYTES} bytes")))
        }
        Json::Text(text) => Ok(text.clone()),
        other => Err(wrong("stop", "a string or a list of strings", other)),
    };
    list.iter().map(read).collect()
}

fn stop_token_ids(fields: &Fields) -> Result<Vec<u32>, ApiError> {
    const NAME: &str = "stop_token_ids";
    let Some(value) = fields.get(NAME) else { return Ok(Vec::new()) };
    let list = value.as_list().ok_or_else(|| wrong(NAME, "a list of tokens", value))?;
    if list.len() > STOP_TOKENS {
        return Err(ApiError::invalid(NAME, format!("`{NAME}` has more than {STOP_TOKENS} tokens")));
    }
    fields::tokens(NAME, list)
}

fn bare(fields: &Fields, endpoint: Endpoint) -> Result<bool, ApiError> {
    const NAME: &str = "add_special_tokens";
    match (endpoint, fields.boolean(NAME)?) {
        (Endpoint::Chat, Some(true)) => {
            Err(ApiError::unsupported(NAME, "the chat template has all special tokens: leave `add_special_tokens` out"))
        }
        (_, add) => Ok(add == Some(false)),
    }
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
    if !matches!(options, Json::Object(_)) {
        return Err(wrong(NAME, "an object", options));
    }
    match options.get("include_usage") {
        None | Some(Json::Null) => Ok(false),
        Some(Json::Bool(wanted)) => Ok(*wanted),
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

    fn read(endpoint: Endpoint, json: &str) -> Result<Parameters, ApiError> {
        Parameters::read(&Fields::parse(json.as_bytes()).unwrap(), endpoint)
    }

    #[test]
    fn what_is_neutral_null_or_unknown_changes_nothing() {
        let json = r#"{
            "n": null, "best_of": 1, "presence_penalty": null, "logit_bias": {}, "logprobs": false,
            "top_logprobs": null, "echo": false, "stop": null, "temperature": null, "user": "someone",
            "metadata": {"a": [1]}, "store": true, "service_tier": "auto", "parallel_tool_calls": true,
            "add_special_tokens": null, "no_such_parameter": [{}]
        }"#;
        for endpoint in [Endpoint::Chat, Endpoint::Completion] {
            assert_eq!(read(endpoint, json), Ok(Parameters::default()));
        }
        assert_eq!(read(Endpoint::Chat, r#"{"top_logprobs": 0, "add_special_tokens": false}"#).unwrap().logprobs, None);
    }

    #[test]
    fn what_is_asked_for_is_read() {
        let read = read(
            Endpoint::Chat,
            r#"{"temperature": 0, "top_p": 0, "top_k": -1, "min_p": 0.1, "seed": -1, "max_tokens": 7,
                "max_completion_tokens": 9, "min_tokens": 2, "stop": "x", "stop_token_ids": [5], "ignore_eos": true,
                "priority": 3, "stream": true, "stream_options": {"include_usage": true},
                "truncate_prompt_tokens": -1, "ttft_target_ms": 200, "tpot_target_ms": 50, "deadline_ms": 86400000,
                "n": 16, "best_of": 16, "logprobs": true, "top_logprobs": 20, "repetition_penalty": 1.5,
                "presence_penalty": -2, "frequency_penalty": 2, "logit_bias": {"7": -100, "0": 0.5},
                "include_stop_str_in_output": true}"#,
        );
        let expected = Parameters {
            temperature: Some(0.0),
            top_p: Some(f32::MIN_POSITIVE),
            top_k: Some(0),
            min_p: Some(0.1),
            repetition_penalty: Some(1.5),
            presence_penalty: Some(-2.0),
            frequency_penalty: Some(2.0),
            logit_bias: vec![(7, -100.0), (0, 0.5)],
            seed: Some(u64::MAX),
            n: Some(16),
            logprobs: Some(20),
            echo: false,
            max_new_tokens: Some(9),
            min_new_tokens: 2,
            stop: vec!["x".to_owned()],
            include_stop: true,
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
            bare: false,
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn plain_completions_have_an_echo_and_count_logprobs() {
        let json = r#"{"echo": true, "max_tokens": 0, "logprobs": 0, "add_special_tokens": false}"#;
        let read = read(Endpoint::Completion, json).unwrap();
        assert_eq!((read.echo, read.makes_nothing(), read.logprobs, read.bare), (true, true, Some(0), true));
    }

    #[test]
    fn the_error_names_the_parameter() {
        use Endpoint::{Chat, Completion};
        let many: Vec<String> = (0..1025).map(|token| format!("\"{token}\":1")).collect();
        let many = format!(r#"{{"logit_bias": {{{}}}}}"#, many.join(","));
        let cases = [
            (Chat, r#"{"temperature": 2.1}"#, "temperature"),
            (Chat, r#"{"temperature": "hot"}"#, "temperature"),
            (Chat, r#"{"top_p": -0.1}"#, "top_p"),
            (Chat, r#"{"max_tokens": 0}"#, "max_tokens"),
            (Completion, r#"{"max_tokens": 0}"#, "max_tokens"),
            (Completion, r#"{"max_tokens": -1, "echo": true}"#, "max_tokens"),
            (Chat, r#"{"max_tokens": 1.5}"#, "max_tokens"),
            (Chat, r#"{"max_completion_tokens": -1}"#, "max_completion_tokens"),
            (Chat, r#"{"seed": "1"}"#, "seed"),
            (Chat, r#"{"stop": ["a","b","c","d","e"]}"#, "stop"),
            (Chat, r#"{"stop": ""}"#, "stop"),
            (Chat, r#"{"stop": [1]}"#, "stop"),
            (Chat, r#"{"stop_token_ids": [-1]}"#, "stop_token_ids"),
            (Chat, r#"{"stream": 1}"#, "stream"),
            (Chat, r#"{"stream_options": {}}"#, "stream_options"),
            (Chat, r#"{"stream": true, "stream_options": 5}"#, "stream_options"),
            (Chat, r#"{"stream": true, "stream_options": {"include_usage": 1}}"#, "stream_options.include_usage"),
            (Chat, r#"{"priority": -101}"#, "priority"),
            (Chat, r#"{"priority": 101}"#, "priority"),
            (Chat, r#"{"truncate_prompt_tokens": 0}"#, "truncate_prompt_tokens"),
            (Chat, r#"{"truncate_prompt_tokens": -2}"#, "truncate_prompt_tokens"),
            (Chat, r#"{"ttft_target_ms": 0}"#, "ttft_target_ms"),
            (Chat, r#"{"tpot_target_ms": 1.5}"#, "tpot_target_ms"),
            (Chat, r#"{"deadline_ms": 86400001}"#, "deadline_ms"),
            (Chat, r#"{"n": 0}"#, "n"),
            (Chat, r#"{"n": 17}"#, "n"),
            (Completion, r#"{"n": 1, "best_of": 2}"#, "best_of"),
            (Chat, r#"{"presence_penalty": 2.5}"#, "presence_penalty"),
            (Chat, r#"{"frequency_penalty": -2.5}"#, "frequency_penalty"),
            (Chat, r#"{"repetition_penalty": 0}"#, "repetition_penalty"),
            (Chat, r#"{"repetition_penalty": 2.5}"#, "repetition_penalty"),
            (Chat, r#"{"logprobs": 1}"#, "logprobs"),
            (Chat, r#"{"top_logprobs": 2}"#, "top_logprobs"),
            (Chat, r#"{"logprobs": true, "top_logprobs": 21}"#, "top_logprobs"),
            (Completion, r#"{"logprobs": true}"#, "logprobs"),
            (Completion, r#"{"logprobs": 21}"#, "logprobs"),
            (Chat, r#"{"logit_bias": [1]}"#, "logit_bias"),
            (Chat, r#"{"logit_bias": {"-1": 5}}"#, "logit_bias"),
            (Chat, r#"{"logit_bias": {"x": 5}}"#, "logit_bias"),
            (Chat, r#"{"logit_bias": {"1": 101}}"#, "logit_bias"),
            (Chat, r#"{"logit_bias": {"1": "5"}}"#, "logit_bias"),
            (Chat, &many, "logit_bias"),
            (Chat, r#"{"echo": true}"#, "echo"),
            (Chat, r#"{"add_special_tokens": true}"#, "add_special_tokens"),
            (Chat, r#"{"include_stop_str_in_output": 1}"#, "include_stop_str_in_output"),
        ];
        for (endpoint, json, param) in cases {
            let error = read(endpoint, json).unwrap_err();
            assert_eq!(error.status, 400, "{json}");
            assert!(error.json().contains(&format!(r#""param":"{param}""#)), "{json}: {}", error.json());
        }
    }
}
