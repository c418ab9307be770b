//! What a chat's prompt is made from: messages, tools and options, as OpenAI-compatible clients send them.

use minijinja::Value;
use serde::{Deserialize, Deserializer};

use crate::Json;
use crate::error::TemplateError;

/// Of `chat_template_kwargs`.
pub const MAX_KWARGS: usize = 64;
/// Older and newer names of what an assistant thought before it answered.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A message and whatever belongs to it: `tool_calls`, `tool_call_id`, `name`, `reasoning_content` and so on.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(try_from = "Json")]
pub struct ChatMessage {
    /// In the order in which they were sent.
    fields: Vec<(String, Json)>,
}

/// One request for a prompt, readable from a request's JSON. Nothing in it becomes a special token.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct ChatRequest {
    pub messages: Vec<ChatMessage>,
    /// JSON schemas of what the model may call.
    #[serde(default, deserialize_with = "or_none")]
    pub tools: Vec<Json>,
    /// `chat_template_kwargs`: what the template sees by these names, `enable_thinking` for one.
    #[serde(default, rename = "chat_template_kwargs", deserialize_with = "members")]
    pub kwargs: Vec<(String, Json)>,
    /// Whether the prompt ends where the assistant begins to speak.
    #[serde(default = "yes")]
    pub add_generation_prompt: bool,
}

/// Not an object, or without the text `role`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a message must be an object with a `role`")]
pub struct NoMessage;

impl ChatMessage {
    pub fn new(role: &str, content: &str) -> Self {
        Self { fields: Vec::new() }.with("role", Json::text(role)).with("content", Json::text(content))
    }

    #[must_use]
    pub fn with(mut self, field: &str, value: Json) -> Self {
        self.fields.push((field.to_owned(), value));
        self
    }

    pub fn get(&self, field: &str) -> Option<&Json> {
        self.fields.iter().rev().find_map(|(name, value)| (name == field).then_some(value))
    }

    /// Clients send the arguments of a call as a text that holds JSON, templates show the object. A text that holds
    /// none stays: a model's broken call must not make its whole conversation unusable.
    fn read_arguments(&mut self) {
        let calls = self.fields.iter_mut().filter(|(name, _)| name == "tool_calls");
        for call in
            calls.flat_map(|(_, calls)| if let Json::List(calls) = calls { calls.as_mut_slice() } else { &mut [] })
        {
            let Some(arguments) = call.get_mut("function").and_then(|function| function.get_mut("arguments")) else {
                continue;
            };
            if let Json::Text(text) = &*arguments
                && let Ok(object @ Json::Object(_)) = serde_json::from_str(text)
            {
                *arguments = object;
            }
        }
    }

    /// As transformers does: what is null is not there, and what the assistant thought goes by every name that
    /// templates know.
    fn value(&self, with: &impl Fn(&str) -> String) -> Value {
        let field = |(name, value): &(String, Json)| (with(name), value.value(with));
        let fields = self.fields.iter().filter(|(_, value)| *value != Json::Null).map(field);
        let thought = REASONING.into_iter().filter_map(|name| self.get(name)).find(|value| **value != Json::Null);
        let Some(thought) = thought.map(|thought| thought.value(with)) else {
            return Value::from_pairs(fields);
        };
        let first = ("thinking".to_owned(), thought.clone());
        let last = ("reasoning_content".to_owned(), thought);
        Value::from_pairs(std::iter::once(first).chain(fields).chain([last]))
    }
}

/// The content may be missing or null, as it is where an assistant only calls tools.
impl TryFrom<Json> for ChatMessage {
    type Error = NoMessage;

    fn try_from(message: Json) -> Result<Self, NoMessage> {
        let Json::Object(fields) = message else { return Err(NoMessage) };
        let message = Self { fields };
        if matches!(message.get("role"), Some(Json::Text(_))) { Ok(message) } else { Err(NoMessage) }
    }
}

impl ChatRequest {
    /// For an answer, without tools.
    pub fn new(messages: Vec<ChatMessage>) -> Self {
        Self { messages, tools: Vec::new(), kwargs: Vec::new(), add_generation_prompt: true }
    }

    #[must_use]
    pub(crate) fn with_arguments_read(&self) -> Self {
        let mut request = self.clone();
        request.messages.iter_mut().for_each(ChatMessage::read_arguments);
        request
    }

    /// Names that a template can use and that the host does not use itself.
    pub(crate) fn check_kwargs(&self, taken: impl Fn(&str) -> bool) -> Result<(), TemplateError> {
        if self.kwargs.len() > MAX_KWARGS {
            return Err(TemplateError::TooManyKwargs { count: self.kwargs.len(), limit: MAX_KWARGS });
        }
        match self.kwargs.iter().find(|(name, _)| taken(name) || !is_identifier(name)) {
            Some((name, _)) => Err(TemplateError::Kwarg { name: name.clone() }),
            None => Ok(()),
        }
    }

    pub(crate) fn texts(&self) -> Vec<&str> {
        let mut texts = Vec::new();
        let mut see = |text| texts.push(text);
        for (name, value) in self.messages.iter().flat_map(|message| &message.fields) {
            see(name.as_str());
            value.each_text(&mut see);
        }
        self.tools.iter().chain(self.kwargs.iter().map(|(_, value)| value)).for_each(|json| json.each_text(&mut see));
        texts
    }

    /// What the template sees, with every text that came from the client changed by `with`.
    pub(crate) fn variables(&self, with: &impl Fn(&str) -> String) -> Vec<(String, Value)> {
        let messages: Value = self.messages.iter().map(|message| message.value(with)).collect();
        let tools: Vec<Value> = self.tools.iter().map(|tool| tool.value(with)).collect();
        let tools = if tools.is_empty() { Value::from(()) } else { Value::from(tools) };
        let own = [
            ("messages", messages),
            ("tools", tools),
            ("documents", Value::from(())),
            ("add_generation_prompt", Value::from(self.add_generation_prompt)),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let kwargs = self.kwargs.iter().map(|(name, value)| (name.clone(), value.value(with)));
        own.into_iter().chain(kwargs).collect()
    }
}

fn yes() -> bool {
    true
}

/// A list that may be null.
fn or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Json>, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// An object that may be null.
fn members<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, Json)>, D::Error> {
    match Json::deserialize(deserializer)? {
        Json::Null => Ok(Vec::new()),
        Json::Object(members) => Ok(members),
        _ => Err(serde::de::Error::custom("it must be an object")),
    }
}

fn is_identifier(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Json {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn arguments_that_are_sent_as_text_are_read() {
        let check = |call: &str, expected: &str| {
            let message = |calls| ChatMessage::new("assistant", "").with("tool_calls", json(calls));
            let request = ChatRequest::new(vec![message(call)]).with_arguments_read();
            assert_eq!(request.messages, [message(expected)]);
        };
        check(
            r#"[{"function": {"arguments": "{\"b\": 1, \"a\": 2}"}}]"#,
            r#"[{"function": {"arguments": {"b": 1, "a": 2}}}]"#,
        );
        for kept in [
            r#"[{"function": {"arguments": "{\"b\": "}}]"#,
            r#"[{"function": {"arguments": "7"}}]"#,
            r#"[{"function": {"arguments": {}}}, 7, {"function": null}]"#,
            r#""calls""#,
        ] {
            check(kept, kept);
        }
    }

    #[test]
    fn a_message_is_an_object_with_a_role() {
        let message = ChatMessage::try_from(json(r#"{"content": null, "role": "assistant"}"#)).unwrap();
        assert_eq!(message.get("content"), Some(&Json::Null));
        for no_message in ["[]", "{}", r#"{"role": 1}"#, r#""user""#] {
            assert_eq!(ChatMessage::try_from(json(no_message)), Err(NoMessage));
        }
    }

    #[test]
    fn a_request_is_read_from_json() {
        let read = |text: &str| serde_json::from_str::<ChatRequest>(text);
        let plain = ChatRequest::new(vec![ChatMessage::new("user", "hi")]);
        let bare = r#"{"messages": [{"role": "user", "content": "hi"}], "temperature": 1}"#;
        assert_eq!(read(bare).unwrap(), plain);
        let nulls = r#"{"messages": [{"role": "user", "content": "hi"}], "tools": null, "chat_template_kwargs": null}"#;
        assert_eq!(read(nulls).unwrap(), plain);
        let full = r#"{"messages": [], "tools": [{}], "chat_template_kwargs": {"b": 1, "a": 2},
            "add_generation_prompt": false}"#;
        let full = read(full).unwrap();
        assert_eq!((full.tools.len(), full.add_generation_prompt), (1, false));
        assert_eq!(full.kwargs.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        for wrong in ["{}", r#"{"messages": [1]}"#, r#"{"messages": [], "chat_template_kwargs": []}"#] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_thought_goes_by_every_name() {
        let check = |message: &str, expected: &str| {
            let message = ChatMessage::try_from(json(message)).unwrap();
            assert_eq!(message.value(&str::to_owned).to_string(), expected);
        };
        check(
            r#"{"role": "a", "reasoning": "r"}"#,
            "{'thinking': 'r', 'role': 'a', 'reasoning': 'r', 'reasoning_content': 'r'}",
        );
        check(
            r#"{"reasoning_content": "c", "thinking": "t", "role": "a"}"#,
            "{'thinking': 't', 'reasoning_content': 'c', 'role': 'a'}",
        );
        check(r#"{"role": "a", "reasoning": null, "content": null}"#, "{'role': 'a'}");
    }
}
