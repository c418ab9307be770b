//! How likely the tokens of an answer were, in the two shapes that OpenAI's API has for it.

use std::borrow::Cow;
use std::fmt::Write;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use sluice_core::{Logprob, SampledToken, ScoredToken};

use crate::json;
use crate::object::Endpoint;
use crate::text::ModelText;

/// Of one choice: what was added and not written yet, as JSON.
pub(crate) struct Logprobs {
    text: Arc<dyn ModelText>,
    /// Alternatives to show.
    top: usize,
    shape: Shape,
}

enum Shape {
    /// One object a token.
    Chat(BytesMut),
    Completion(Columns),
}

/// The inside of a list each.
#[derive(Default)]
struct Columns {
    tokens: BytesMut,
    logprobs: BytesMut,
    tops: BytesMut,
    offsets: BytesMut,
    /// Characters of the text before the next token.
    offset: usize,
}

/// A token and, where it is known, how likely it was and what else might have been.
struct Entry<'a> {
    token: u32,
    logprob: Option<f32>,
    top: &'a [Logprob],
}

impl Logprobs {
    pub(crate) fn new(text: Arc<dyn ModelText>, endpoint: Endpoint, top: u8) -> Self {
        let shape = match endpoint {
            Endpoint::Chat => Shape::Chat(BytesMut::new()),
            Endpoint::Completion => Shape::Completion(Columns::default()),
        };
        Self { text, top: usize::from(top), shape }
    }

    /// The first token of a prompt, before which there is nothing that could predict it.
    pub(crate) fn add_first(&mut self, token: u32) {
        self.add(&Entry { token, logprob: None, top: &[] });
    }

    pub(crate) fn add_scored(&mut self, scored: &ScoredToken) {
        self.add(&Entry { token: scored.token, logprob: Some(scored.logprob), top: &scored.top });
    }

    pub(crate) fn add_sampled(&mut self, sampled: &SampledToken) {
        let logprob = sampled.logprob.unwrap_or(f32::NEG_INFINITY);
        self.add(&Entry { token: sampled.token, logprob: Some(logprob), top: &sampled.top });
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.shape {
            Shape::Chat(entries) => entries.is_empty(),
            Shape::Completion(columns) => columns.tokens.is_empty(),
        }
    }

    /// Writes the object of what was added since the last time, or null.
    pub(crate) fn write(&mut self, out: &mut BytesMut) {
        if self.is_empty() {
            out.put_slice(b"null");
            return;
        }
        match &mut self.shape {
            Shape::Chat(entries) => {
                out.put_slice(b"{\"content\":[");
                out.put_slice(&entries.split());
                out.put_slice(b"],\"refusal\":null}");
            }
            Shape::Completion(columns) => columns.write(out),
        }
    }

    fn add(&mut self, entry: &Entry<'_>) {
        let top = &entry.top[..entry.top.len().min(self.top)];
        let entry = Entry { top, ..*entry };
        match &mut self.shape {
            Shape::Chat(entries) => add_to_chat(entries, self.text.as_ref(), &entry),
            Shape::Completion(columns) => columns.add(self.text.as_ref(), &entry),
        }
    }
}

fn add_to_chat(out: &mut BytesMut, text: &dyn ModelText, entry: &Entry<'_>) {
    separate(out);
    chat_token(out, text, entry.token, entry.logprob);
    out.put_slice(b",\"top_logprobs\":[");
    for (index, other) in entry.top.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        chat_token(out, text, other.token, Some(other.logprob));
        out.put_u8(b'}');
    }
    out.put_slice(b"]}");
}

/// An object that is left open.
fn chat_token(out: &mut BytesMut, text: &dyn ModelText, token: u32, logprob: Option<f32>) {
    let bytes = text.token_bytes(token);
    out.put_slice(b"{\"token\":");
    json::string(out, &name(&bytes));
    out.put_slice(b",\"logprob\":");
    write_logprob(out, logprob);
    out.put_slice(b",\"bytes\":");
    json::byte_list(out, &bytes);
}

impl Columns {
    fn add(&mut self, text: &dyn ModelText, entry: &Entry<'_>) {
        let Self { tokens, logprobs, tops, offsets, offset } = self;
        for column in [&mut *tokens, logprobs, tops, offsets] {
            separate(column);
        }
        let bytes = text.token_bytes(entry.token);
        json::string(tokens, &name(&bytes));
        write_logprob(logprobs, entry.logprob);
        write_top(tops, text, entry);
        // A buffer of bytes grows, so nothing can fail.
        let _written = write!(offsets, "{offset}");
        // Special tokens have a name, but show nothing.
        if !text.decode(&[entry.token]).is_empty() {
            *offset += characters(&bytes);
        }
    }

    fn write(&mut self, out: &mut BytesMut) {
        let lists = [
            (&b"{\"tokens\":["[..], &mut self.tokens),
            (b"],\"token_logprobs\":[", &mut self.logprobs),
            (b"],\"top_logprobs\":[", &mut self.tops),
            (b"],\"text_offset\":[", &mut self.offsets),
        ];
        for (open, list) in lists {
            out.put_slice(open);
            out.put_slice(&list.split());
        }
        out.put_slice(b"]}");
    }
}

/// The token itself is in it, also where it is not among the best.
fn write_top(out: &mut BytesMut, text: &dyn ModelText, entry: &Entry<'_>) {
    let Some(logprob) = entry.logprob else {
        out.put_slice(b"null");
        return;
    };
    let itself = Logprob { token: entry.token, logprob };
    let missing = entry.top.iter().all(|other| other.token != entry.token);
    out.put_u8(b'{');
    for (index, other) in entry.top.iter().chain(missing.then_some(&itself)).enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        json::string(out, &name(&text.token_bytes(other.token)));
        out.put_u8(b':');
        // To the bit the same wherever it stands.
        json::logprob(out, if other.token == entry.token { logprob } else { other.logprob });
    }
    out.put_u8(b'}');
}

fn write_logprob(out: &mut BytesMut, logprob: Option<f32>) {
    match logprob {
        Some(logprob) => json::logprob(out, logprob),
        None => out.put_slice(b"null"),
    }
}

fn separate(list: &mut BytesMut) {
    if !list.is_empty() {
        list.put_u8(b',');
    }
}

/// A token that is no text by itself goes by its bytes, as in OpenAI's API, so that two never have one name.
pub(crate) fn name(bytes: &[u8]) -> Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => {
            let escaped: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
            Cow::Owned(format!("bytes:{escaped}"))
        }
    }
}

/// How many begin in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0b1100_0000 != 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::tests::characters::Characters;

    fn sampled(token: char, logprob: f32, top: &[(char, f32)]) -> SampledToken {
        let top = top.iter().map(|&(token, logprob)| Logprob { token: token.into(), logprob }).collect();
        SampledToken { token: token.into(), logprob: Some(logprob), top }
    }

    fn written(logprobs: &mut Logprobs) -> Value {
        let mut out = BytesMut::new();
        logprobs.write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_chat_lists_its_tokens_with_their_bytes() {
        let mut logprobs = Logprobs::new(Arc::new(Characters), Endpoint::Chat, 1);
        assert!(logprobs.is_empty());
        assert_eq!(written(&mut logprobs), Value::Null);
        logprobs.add_sampled(&sampled('é', -0.5, &[('a', -0.25), ('é', -0.5)]));
        logprobs.add_sampled(&sampled('"', -1.0, &[]));
        let best = json!({"token": "a", "logprob": -0.25, "bytes": [97]});
        let expected = json!({"content": [
            {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": [best]},
            {"token": "\"", "logprob": -1.0, "bytes": [34], "top_logprobs": []},
        ], "refusal": null});
        assert_eq!(written(&mut logprobs), expected);
        assert_eq!(written(&mut logprobs), Value::Null);
    }

    #[test]
    fn a_completion_has_four_lists_and_the_token_is_among_its_alternatives() {
        let mut logprobs = Logprobs::new(Arc::new(Characters), Endpoint::Completion, 1);
        logprobs.add_first('é'.into());
        logprobs.add_scored(&ScoredToken { token: 'b'.into(), logprob: -0.1, top: Vec::new() });
        logprobs.add_sampled(&sampled('c', -0.3, &[('x', -0.2), ('c', -0.3)]));
        let expected = r#"{"tokens":["é","b","c"],"token_logprobs":[null,-0.1,-0.3],"top_logprobs":[null,{"b":-0.1},{"x":-0.2,"c":-0.3}],"text_offset":[0,1,2]}"#;
        let mut out = BytesMut::new();
        logprobs.write(&mut out);
        assert_eq!(out, expected.as_bytes());
        logprobs.add_sampled(&sampled('d', -0.3, &[]));
        assert_eq!(written(&mut logprobs)["text_offset"], json!([3]));
    }

    #[test]
    fn a_part_of_a_character_goes_by_its_bytes() {
        assert_eq!(name(b"\xf0\x9f"), r"bytes:\xf0\x9f");
        assert_eq!(name("é".as_bytes()), "é");
        assert_eq!((characters(b"\xf0\x9f"), characters(b"\x98\x80"), characters("aé".as_bytes())), (1, 0, 2));
    }
}
