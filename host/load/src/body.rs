//! The JSON of a request: what the plan asks for, and over it what was given with `--extra-body`.

use serde_json::{Map, Value, json};

use crate::prompt::Prompt;
use crate::server::Endpoint;

#[derive(Clone, Debug)]
pub(crate) struct BodyTemplate {
    pub(crate) endpoint: Endpoint,
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) ignore_eos: bool,
    /// Stands over everything else; a null takes the field away.
    pub(crate) extra: Map<String, Value>,
}

impl BodyTemplate {
    /// The same, for an answer in one piece.
    pub(crate) fn whole(&self) -> Self {
        Self { stream: false, ..self.clone() }
    }

    pub(crate) fn bytes(&self, prompt: Prompt, max_tokens: u32) -> Vec<u8> {
        self.json(prompt, max_tokens).to_string().into_bytes()
    }

    pub(crate) fn json(&self, prompt: Prompt, max_tokens: u32) -> Value {
        let (field, value) = self.prompt(prompt);
        let mut body = json!({ "model": self.model, field: value, "max_tokens": max_tokens, "stream": self.stream });
        if self.stream {
            body["stream_options"] = json!({ "include_usage": true });
        }
        if self.ignore_eos {
            body["ignore_eos"] = json!(true);
        }
        for (field, value) in &self.extra {
            body[field.as_str()] = value.clone();
        }
        if let Value::Object(fields) = &mut body {
            fields.retain(|_, value| !value.is_null());
        }
        body
    }

    /// What `/tokenize` is asked, so that it counts what the endpoint would.
    pub(crate) fn tokenize(&self, prompt: Prompt) -> Value {
        let (field, value) = self.prompt(prompt);
        json!({ "model": self.model, field: value })
    }

    /// Whether the answer is bounded by the `max_tokens` of the plan alone.
    pub(crate) fn bounds_answer(&self) -> bool {
        !["max_tokens", "max_completion_tokens", "n", "best_of"].iter().any(|field| self.extra.contains_key(*field))
    }

    /// Whether the prompt that is counted is the one of the plan.
    pub(crate) fn sends_prompt_as_it_is(&self) -> bool {
        !["prompt", "messages", "truncate_prompt_tokens"].iter().any(|field| self.extra.contains_key(*field))
    }

    fn prompt(&self, prompt: Prompt) -> (&'static str, Value) {
        match (self.endpoint, prompt) {
            (_, Prompt::Messages(messages)) => ("messages", messages),
            (Endpoint::Chat, Prompt::Text(text)) => ("messages", json!([{ "role": "user", "content": text }])),
            (_, prompt) => ("prompt", json!(prompt)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(endpoint: Endpoint, prompt: Prompt, extra: Value, expected: Value) {
        let Value::Object(extra) = extra else { panic!("{extra}") };
        let template = BodyTemplate { endpoint, model: "m".to_owned(), stream: true, ignore_eos: false, extra };
        let body: Value = serde_json::from_slice(&template.bytes(prompt, 9)).unwrap();
        assert_eq!(body, expected);
    }

    #[test]
    fn a_body_and_what_stands_over_it() {
        let text = || Prompt::Text("hi".to_owned());
        let usage = json!({ "include_usage": true });
        check(
            Endpoint::Chat,
            text(),
            json!({}),
            json!({ "model": "m", "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 9, "stream": true,
                "stream_options": usage }),
        );
        check(
            Endpoint::Completions,
            Prompt::Ids(vec![1, 2]),
            json!({ "temperature": 0, "max_tokens": null, "max_completion_tokens": 3 }),
            json!({ "model": "m", "prompt": [1, 2], "stream": true, "stream_options": usage, "temperature": 0,
                "max_completion_tokens": 3 }),
        );
    }

    #[test]
    fn an_answer_in_one_piece_has_no_stream_options() {
        let template = BodyTemplate {
            endpoint: Endpoint::Completions,
            model: "m".to_owned(),
            stream: true,
            ignore_eos: true,
            extra: Map::new(),
        };
        let body: Value = serde_json::from_slice(&template.whole().bytes(Prompt::Text("a".to_owned()), 1)).unwrap();
        let expected = json!({ "model": "m", "prompt": "a", "max_tokens": 1, "stream": false, "ignore_eos": true });
        assert_eq!(body, expected);
    }
}
