//! What one event of a stream says, or a whole answer: output, an end, a usage, an error.

use std::fmt;

use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

use crate::failure::shortened;
use crate::usage::Usage;

/// What is measured of an event; its text is not kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// It carries what the model made, be it a token whose text is empty. A role alone is no output, nor is an end.
    pub(crate) output: bool,
    pub(crate) finished: bool,
    pub(crate) usage: Option<Usage>,
    pub(crate) error: Option<ApiError>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Option<String>,
    pub(crate) message: String,
}

impl Chunk {
    pub(crate) fn parse(json: &[u8]) -> Result<Self, serde_json::Error> {
        let event: Event = serde_json::from_slice(json)?;
        let choices = event.choices.unwrap_or_default();
        Ok(Self {
            output: choices.iter().any(Choice::has_output),
            finished: choices.iter().any(|choice| choice.finish_reason.is_some()),
            usage: event.usage,
            error: event.error.map(ApiError::of),
        })
    }
}

impl ApiError {
    /// From the value of `error`, which some servers give as a text.
    fn of(error: Value) -> Self {
        let code = match (&error["code"], &error["type"]) {
            (Value::String(code), _) | (Value::Null, Value::String(code)) => Some(code.clone()),
            (Value::Number(code), _) => Some(code.to_string()),
            _ => None,
        };
        let message = error["message"].as_str().or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned);
        Self { code: code.map(|code| shortened(&code)), message: shortened(&message) }
    }

    /// From the body of an answer that is no success. What is no JSON is told as it is.
    pub(crate) fn of_body(body: &[u8]) -> Self {
        match serde_json::from_slice::<Event>(body) {
            Ok(Event { error: Some(error), .. }) => Self::of(error),
            _ => Self { code: None, message: shortened(String::from_utf8_lossy(body).trim()) },
        }
    }
}

#[derive(Deserialize)]
struct Event {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    text: Option<Content>,
    #[serde(alias = "message")]
    delta: Option<Delta>,
    finish_reason: Option<IgnoredAny>,
}

impl Choice {
    fn has_output(&self) -> bool {
        let delta = self.delta.as_ref();
        let parts = [self.text, delta.and_then(|delta| delta.content)];
        let more = delta
            .map_or([None; 4], |delta| [delta.reasoning, delta.reasoning_content, delta.tool_calls, delta.refusal]);
        if parts.iter().chain(&more).any(|part| *part == Some(Content::Some)) {
            return true;
        }
        // A token that gave no text yet comes alone; an empty text beside a role or an end is none.
        let role = delta.is_some_and(|delta| delta.role.is_some());
        parts.contains(&Some(Content::Empty)) && !role && self.finish_reason.is_none()
    }
}

#[derive(Deserialize)]
struct Delta {
    role: Option<IgnoredAny>,
    content: Option<Content>,
    reasoning: Option<Content>,
    reasoning_content: Option<Content>,
    tool_calls: Option<Content>,
    refusal: Option<Content>,
}

/// Whether there is anything in a text or a list, without keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Empty,
    Some,
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a text, a list or an object")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
        Ok(if text.is_empty() { Content::Empty } else { Content::Some })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut content = Content::Empty;
        while list.next_element::<IgnoredAny>()?.is_some() {
            content = Content::Some;
        }
        Ok(content)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Content::Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_output() {
        let cases = [
            (r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant","content":null}}]}"#, false),
            (r#"{"choices":[{"delta":{"role":"assistant","content":"Hi"}}]}"#, true),
            (r#"{"choices":[{"delta":{"content":"Hi"}}]}"#, true),
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":null}]}"#, true),
            (r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"delta":{"content":"."},"finish_reason":"length"}]}"#, true),
            (r#"{"choices":[{"delta":{"reasoning_content":"hm"}}]}"#, true),
            (r#"{"choices":[{"delta":{"tool_calls":[{"index":0}]}}]}"#, true),
            (r#"{"choices":[{"delta":{"content":null,"tool_calls":[]}}]}"#, false),
            (r#"{"choices":[{"text":"a","logprobs":null}]}"#, true),
            (r#"{"choices":[{"text":"","finish_reason":null}]}"#, true),
            (r#"{"choices":[{"text":"","finish_reason":"stop"}]}"#, false),
            (r#"{"choices":[{"message":{"role":"assistant","content":"x"},"finish_reason":"stop"}]}"#, true),
            (r#"{"choices":[]}"#, false),
            (r#"{"object":"ping"}"#, false),
        ];
        for (json, output) in cases {
            assert_eq!(Chunk::parse(json.as_bytes()).unwrap().output, output, "{json}");
        }
    }

    #[test]
    fn ends_usages_and_errors() {
        let chunk = |json: &str| Chunk::parse(json.as_bytes()).unwrap();
        assert!(chunk(r#"{"choices":[{"text":"a","finish_reason":"length"}]}"#).finished);
        let usage = chunk(
            r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":2,"total_tokens":9,
            "prompt_tokens_details":{"cached_tokens":4}}}"#,
        );
        let usage = usage.usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens()), (7, 2, Some(4)));
        let errors = [
            (r#"{"error":{"message":"m","type":"t","code":"c"}}"#, Some("c"), "m"),
            (r#"{"error":{"message":"m","type":"t","code":null}}"#, Some("t"), "m"),
            (r#"{"error":{"message":"m","code":503}}"#, Some("503"), "m"),
            (r#"{"error":"m"}"#, None, "m"),
        ];
        for (json, code, message) in errors {
            let error = chunk(json).error.unwrap();
            assert_eq!((error.code.as_deref(), error.message.as_str()), (code, message), "{json}");
            assert_eq!(ApiError::of_body(json.as_bytes()), error);
        }
        assert_eq!(ApiError::of_body(b" no JSON\n").message, "no JSON");
        assert!(Chunk::parse(b"[1]").is_err());
    }
}
