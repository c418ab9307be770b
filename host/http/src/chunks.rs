//! Writes the events of one stream: chunks of all its choices as they come, the usage, and the end.

use bytes::{BufMut, BytesMut};

use crate::answer::Part;
use crate::answers::Usage;
use crate::json::escape;
use crate::logprobs::Logprobs;
use crate::object::{Endpoint, Header};

pub(crate) struct Chunks {
    choices: Vec<Choice>,
    usage: bool,
    header: Header,
}

/// One choice's chunks. Everything but the text and how likely it was is written once, here.
struct Choice {
    endpoint: Endpoint,
    /// Up to where the chunk's own part begins: the delta, or the text.
    head: Vec<u8>,
    /// Behind the text, where nothing else is to be said.
    tail: &'static [u8],
    /// Behind a finish reason.
    end: &'static [u8],
    started: bool,
    /// Of tokens whose text was not shown yet.
    logprobs: Option<Logprobs>,
}

impl Chunks {
    /// `logprobs` has an entry for each choice.
    pub(crate) fn new(header: Header, usage: bool, logprobs: Vec<Option<Logprobs>>) -> Self {
        let choice = |(index, logprobs)| Choice::new(&header, index, usage, logprobs);
        let choices = logprobs.into_iter().enumerate().map(choice).collect();
        Self { choices, usage, header }
    }

    pub(crate) fn part(&mut self, out: &mut BytesMut, choice: usize, part: &Part<'_>) {
        self.choices[choice].part(out, part);
    }

    /// The usage, if it was asked for, and the end of the stream.
    pub(crate) fn finish(&mut self, out: &mut BytesMut, usage: Usage) {
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

    /// A comment, which clients pass over.
    pub(crate) fn sign_of_life(&mut self, out: &mut BytesMut) {
        out.put_slice(b": keep-alive\n\n");
    }
}

impl Choice {
    fn new(header: &Header, index: usize, usage: bool, logprobs: Option<Logprobs>) -> Self {
        let own = match header.endpoint {
            Endpoint::Chat => r#""delta":{"#,
            Endpoint::Completion => r#""text":""#,
        };
        let head = format!(r#"{},"choices":[{{"index":{index},{own}"#, opening(header)).into_bytes();
        let (tail, end) = endings(header.endpoint, usage);
        Self { endpoint: header.endpoint, head, tail, end, started: false, logprobs }
    }

    fn part(&mut self, out: &mut BytesMut, part: &Part<'_>) {
        match part {
            Part::Text(text, token) => {
                if let (Some(logprobs), Some(token)) = (&mut self.logprobs, token) {
                    logprobs.add_sampled(token);
                }
                self.text(out, text, token.is_some());
            }
            Part::Scored(scored) => {
                let logprobs = self.logprobs.iter_mut();
                logprobs.for_each(|logprobs| scored.iter().for_each(|token| logprobs.add_scored(token)));
            }
            Part::End(reason) => self.finish(out, reason),
        }
    }

    /// The first one brings the role. A token that shows nothing, or nothing yet, is a chunk all the same: clients count
    /// chunks.
    fn text(&mut self, out: &mut BytesMut, text: &str, is_token: bool) {
        if text.is_empty() && self.started && !is_token {
            return;
        }
        self.open(out, text);
        match &self.logprobs {
            None => out.put_slice(self.tail),
            // Of a token that shows nothing yet they come with its text.
            Some(_) => self.close(out, !text.is_empty(), "null"),
        }
    }

    /// The chunk that says why it ended.
    fn finish(&mut self, out: &mut BytesMut, reason: &str) {
        if self.logprobs.as_ref().is_some_and(|logprobs| !logprobs.is_empty()) {
            self.open(out, "");
            self.close(out, true, "null");
        }
        if self.endpoint == Endpoint::Chat && self.started {
            out.put_slice(&self.head);
        } else {
            self.open(out, "");
        }
        self.close(out, false, &format!("\"{reason}\""));
    }

    fn open(&mut self, out: &mut BytesMut, text: &str) {
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
    }

    fn close(&mut self, out: &mut BytesMut, with_logprobs: bool, reason: &str) {
        out.put_slice(if self.endpoint == Endpoint::Chat { b"}" } else { b"\"" });
        out.put_slice(b",\"logprobs\":");
        match &mut self.logprobs {
            Some(logprobs) if with_logprobs => logprobs.write(out),
            _ => out.put_slice(b"null"),
        }
        out.put_slice(b",\"finish_reason\":");
        out.put_slice(reason.as_bytes());
        out.put_slice(self.end);
    }
}

/// Behind the text of a chunk that says nothing else, and behind the finish reason of one that does.
fn endings(endpoint: Endpoint, usage: bool) -> (&'static [u8], &'static [u8]) {
    match (endpoint, usage) {
        (Endpoint::Chat, false) => (b"},\"logprobs\":null,\"finish_reason\":null}]}\n\n", b"}]}\n\n"),
        (Endpoint::Completion, false) => (b"\",\"logprobs\":null,\"finish_reason\":null}]}\n\n", b"}]}\n\n"),
        (Endpoint::Chat, true) => {
            (b"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n", b"}],\"usage\":null}\n\n")
        }
        (Endpoint::Completion, true) => {
            (b"\",\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n", b"}],\"usage\":null}\n\n")
        }
    }
}

/// `data: ` and the members that all chunks share.
fn opening(header: &Header) -> String {
    let object = match header.endpoint {
        Endpoint::Chat => "chat.completion.chunk",
        Endpoint::Completion => "text_completion",
    };
    format!("data: {}", header.opening(object))
}

fn done(out: &mut BytesMut) {
    out.put_slice(b"data: [DONE]\n\n");
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::{Value, json};
    use sluice_core::SampledToken;

    use super::*;
    use crate::tests::characters::Characters;

    fn header(endpoint: Endpoint) -> Header {
        Header { endpoint, id: "x-1".to_owned(), created_unix: 7, model: "a\"b".to_owned() }
    }

    fn stream(endpoint: Endpoint, usage: bool, tokens: &[&str]) -> String {
        let mut chunks = Chunks::new(header(endpoint), usage, vec![None]);
        let mut out = BytesMut::new();
        tokens.iter().for_each(|text| chunks.part(&mut out, 0, &Part::Text(text, None)));
        chunks.part(&mut out, 0, &Part::End("stop"));
        chunks.finish(&mut out, Usage { prompt: 3, completion: 2, cached: 1 });
        String::from_utf8(out.to_vec()).unwrap()
    }

    /// The choice of every chunk that has one.
    fn choices(out: &[u8]) -> Vec<Value> {
        let text = std::str::from_utf8(out).unwrap();
        let chunk = |event: &str| serde_json::from_str::<Value>(event.strip_prefix("data: ").unwrap()).unwrap();
        let events = text.split_terminator("\n\n").filter(|event| *event != "data: [DONE]");
        events.map(|event| chunk(event)["choices"][0].clone()).collect()
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

    #[test]
    fn each_choice_has_its_own_role_and_end() {
        let mut chunks = Chunks::new(header(Endpoint::Chat), true, vec![None, None]);
        let mut out = BytesMut::new();
        chunks.part(&mut out, 1, &Part::Text("b", None));
        chunks.part(&mut out, 0, &Part::Text("a", None));
        chunks.part(&mut out, 1, &Part::End("stop"));
        chunks.part(&mut out, 0, &Part::End("length"));
        let told = choices(&out);
        assert_eq!(told.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 0, 1, 0]);
        assert!(told[..2].iter().all(|choice| choice["delta"]["role"] == "assistant"));
        assert_eq!((&told[2]["finish_reason"], &told[3]["finish_reason"]), (&json!("stop"), &json!("length")));
    }

    #[test]
    fn logprobs_come_with_the_text_of_their_tokens() {
        let logprobs = || Some(Logprobs::new(Arc::new(Characters), Endpoint::Chat, 0));
        let token = |c: char| SampledToken { token: c.into(), logprob: Some(-0.5), top: Vec::new() };
        let mut chunks = Chunks::new(header(Endpoint::Chat), false, vec![logprobs()]);
        let mut out = BytesMut::new();
        for (text, c) in [("", 'a'), ("", 'b'), ("abc", 'c'), ("", 'd')] {
            chunks.part(&mut out, 0, &Part::Text(text, Some(&token(c))));
        }
        chunks.part(&mut out, 0, &Part::End("stop"));
        let told: Vec<(Value, Vec<Value>)> = choices(&out)
            .iter()
            .map(|choice| {
                let tokens = choice["logprobs"]["content"].as_array().cloned().unwrap_or_default();
                (choice["delta"]["content"].clone(), tokens.iter().map(|entry| entry["token"].clone()).collect())
            })
            .collect();
        let abc = vec![json!("a"), json!("b"), json!("c")];
        let silent = || (json!(""), vec![]);
        let last = (json!(""), vec![json!("d")]);
        let expected = [silent(), silent(), (json!("abc"), abc), silent(), last, (Value::Null, vec![])];
        assert_eq!(told, expected);
    }
}
