//! What the objects of one answer have in common, as OpenAI's API has them.

use bytes::BytesMut;
use serde_json::{Value, json};

use crate::answers::Usage;
use crate::json::escape;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Endpoint {
    Chat,
    Completion,
}

/// What stays the same in all objects of one answer.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    pub(crate) created_unix: u64,
    pub(crate) model: String,
}

impl Endpoint {
    pub(crate) fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }
}

impl Header {
    /// An object up to where its choices follow.
    pub(crate) fn opening(&self, object: &str) -> String {
        let mut model = BytesMut::new();
        escape(&mut model, &self.model);
        let model = String::from_utf8_lossy(&model);
        let Self { id, created_unix, .. } = self;
        format!(r#"{{"id":"{id}","object":"{object}","created":{created_unix},"model":"{model}""#)
    }
}

impl Usage {
    pub(crate) fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt.saturating_add(self.completion),
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}
