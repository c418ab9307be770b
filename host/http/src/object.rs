//! The objects of OpenAI's API that an answer is written as: whole, or as the chunks of a stream.

use bytes::{BufMut, BytesMut};
use serde_json::{Value, json};

use crate::answer::Usage;
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

/// Writes the events of one stream. Everything but the text is written once, here.
pub(crate) struct Chunks {
    endpoint: Endpoint,
    /// Up to where the chunk's own part begins: the delta, or the text.
    head: Vec<u8>,
    /// From behind it to the finish reason.
    tail: &'static [u8],
    usage: bool,
    started: bool,
    header: Header,
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
    /// The answer as one object.
    pub(crate) fn whole(&self, text: &str, reason: &str, usage: Usage) -> Value {
        let (object, choice) = match self.endpoint {
            Endpoint::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                ("chat.completion", json!({"index": 0, "message": message, "logprobs": null, "finish_reason": reason}))
            }
            Endpoint::Completion => {
                ("text_completion", json!({"index": 0, "text": text, "logprobs": null, "finish_reason": reason}))
            }
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created_unix,
            "model": self.model,
            "choices": [choice],
            "usage": usage.json(),
        })
    }
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt.saturating_add(self.completion),
            "prompt_tokens_details": {"cached_tokens": self.cached},
        })
    }
}

impl Chunks {
    pub(crate) fn new(header: Header, usage: bool) -> Self {
        let (own, tail): (_, &'static [u8]) = match header.endpoint {
            Endpoint::Chat => (r#""delta":{"#, b"},\"logprobs\":null,\"finish_reason\":"),
            Endpoint::Completion => (r#""text":""#, b"\",\"logprobs\":null,\"finish_reason\":"),
        };
        let open = opening(&header);
        let head = format!(r#"{open},"choices":[{{"index":0,{own}"#).into_bytes();
        Self { endpoint: header.endpoint, head, tail, usage, started: false, header }
    }

    /// The chunk of one token. The first one brings the role; a later one without text is none.
    pub(crate) fn token(&mut self, out: &mut BytesMut, text: &str) {
        if text.is_empty() && self.started {
            return;
        }
        out.put_slice(&self.head);
        if self.endpoint == Endpoint::Chat {
            let open: &[u8] = if self.started { b"\"content\":\"" } else { b"\"role\":\"assistant\",\"content\":\"" };
            out.put_slice(open);
        }
        escape(out, text);
        if self.endpoint == Endpoint::Chat {
            out.put_slice(b"\"");
        }
        self.started = true;
        self.close(out, "null");
    }

    /// The chunk that says why it ended, the usage if it was asked for, and the end of the stream.
    pub(crate) fn finish(&mut self, out: &mut BytesMut, reason: &str, usage: Usage) {
        out.put_slice(&self.head);
        if self.endpoint == Endpoint::Chat && !self.started {
            out.put_slice(b"\"role\":\"assistant\",\"content\":\"\"");
        }
        self.close(out, &format!("\"{reason}\""));
        if self.usage {
            let open = opening(&self.header);
            out.put_slice(format!("{open},\"choices\":[],\"usage\":{}}}\n\n", usage.json()).as_bytes());
        }
        done(out);
    }

    /// A failure after the answer has begun.
    pub(crate) fn error(&mut self, out: &mut BytesMut, envelope: &str) {
        out.put_slice(format!("data: {envelope}\n\n").as_bytes());
        done(out);
    }

    fn close(&self, out: &mut BytesMut, reason: &str) {
        out.put_slice(self.tail);
        out.put_slice(reason.as_bytes());
        let end: &[u8] = if self.usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" };
        out.put_slice(end);
    }
}

/// `data: ` and the members that all chunks share.
fn opening(header: &Header) -> String {
    let object = match header.endpoint {
        Endpoint::Chat => "chat.completion.chunk",
        Endpoint::Completion => "text_completion",
    };
    let mut model = BytesMut::new();
    escape(&mut model, &header.model);
    let model = String::from_utf8_lossy(&model);
    let Header { id, created_unix, .. } = header;
    format!(r#"data: {{"id":"{id}","object":"{object}","created":{created_unix},"model":"{model}""#)
}

fn done(out: &mut BytesMut) {
    out.put_slice(b"data: [DONE]\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(endpoint: Endpoint, usage: bool, tokens: &[&str]) -> String {
        let header = Header { endpoint, id: "x-1".to_owned(), created_unix: 7, model: "a\"b".to_owned() };
        let mut chunks = Chunks::new(header, usage);
        let mut out = BytesMut::new();
        tokens.iter().for_each(|text| chunks.token(&mut out, text));
        chunks.finish(&mut out, "stop", Usage { prompt: 3, completion: 2, cached: 1 });
        String::from_utf8(out.to_vec()).unwrap()
    }

    #[test]
    fn a_chat_stream_byte_for_byte() {
        let open = r#"data: {"id":"x-1","object":"chat.completion.chunk","created":7,"model":"a\"b","choices":[{"index":0,"delta":{"#;
        let expected = format!(
            "{open}\"role\":\"assistant\",\"content\":\"He\\n\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n\
             {open}\"content\":\"llo\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n\
             {open}}},\"logprobs\":null,\"finish_reason\":\"stop\"}}]}}\n\n\
             data: [DONE]\n\n"
        );
        assert_eq!(stream(Endpoint::Chat, false, &["He\n", "", "llo"]), expected);
    }

    #[test]
    fn a_plain_stream_with_usage_byte_for_byte() {
        let open = r#"data: {"id":"x-1","object":"text_completion","created":7,"model":"a\"b","choices":["#;
        let expected = format!(
            "{open}{{\"index\":0,\"text\":\"Hi\",\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n\
             {open}{{\"index\":0,\"text\":\"\",\"logprobs\":null,\"finish_reason\":\"stop\"}}],\"usage\":null}}\n\n\
             {open}],\"usage\":{{\"completion_tokens\":2,\"prompt_tokens\":3,\
             \"prompt_tokens_details\":{{\"cached_tokens\":1}},\"total_tokens\":5}}}}\n\n\
             data: [DONE]\n\n"
        );
        assert_eq!(stream(Endpoint::Completion, true, &["Hi"]), expected);
    }

    #[test]
    fn the_role_comes_with_the_first_token_even_if_it_shows_nothing_yet() {
        let text = stream(Endpoint::Chat, false, &["", "é"]);
        assert!(text.lines().next().unwrap().contains(r#""delta":{"role":"assistant","content":""}"#));
        // And with the end, where there was no token at all.
        assert!(stream(Endpoint::Chat, false, &[]).contains(r#""role":"assistant""#));
    }

    #[test]
    fn every_event_is_one_json_object() {
        for endpoint in [Endpoint::Chat, Endpoint::Completion] {
            for usage in [false, true] {
                let text = stream(endpoint, usage, &["a\u{1}\"", "\\b"]);
                let events: Vec<&str> = text.split_terminator("\n\n").collect();
                assert_eq!(events.last(), Some(&"data: [DONE]"));
                for event in &events[..events.len() - 1] {
                    let value: Value = serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap();
                    assert!(value["choices"].is_array());
                }
            }
        }
    }
}
