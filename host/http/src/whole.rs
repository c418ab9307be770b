//! Answers as one object, once all have ended.

use std::future::poll_fn;

use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, BytesMut};

use crate::answer::Part;
use crate::answers::{Answers, Step, Usage};
use crate::error::ApiError;
use crate::json;
use crate::live::until_written;
use crate::logprobs::Logprobs;
use crate::object::{Endpoint, Header};

/// One choice as far as it has come.
struct Choice {
    text: String,
    logprobs: Option<Logprobs>,
    reason: &'static str,
}

/// `logprobs` has an entry for each choice.
pub(crate) async fn response(
    mut answers: Answers,
    header: &Header,
    logprobs: Vec<Option<Logprobs>>,
) -> Result<Response, ApiError> {
    let choice = |logprobs| Choice { text: String::new(), logprobs, reason: "" };
    let mut choices: Vec<Choice> = logprobs.into_iter().map(choice).collect();
    let live = answers.live();
    loop {
        match poll_fn(|cx| answers.poll(cx, &mut |choice, part| choices[choice].take(&part))).await {
            Step::Some | Step::Quiet => {}
            Step::Failed(error) => return Err(error),
            Step::Finished(usage) => {
                let object = until_written(object(header, &mut choices, usage).freeze(), live);
                return Ok(([(CONTENT_TYPE, "application/json")], object).into_response());
            }
        }
    }
}

impl Choice {
    fn take(&mut self, part: &Part<'_>) {
        match (part, &mut self.logprobs) {
            (Part::Text(text, token), logprobs) => {
                self.text.push_str(text);
                if let (Some(logprobs), Some(token)) = (logprobs, token) {
                    logprobs.add_sampled(token);
                }
            }
            (Part::Scored(scored), Some(logprobs)) => scored.iter().for_each(|token| logprobs.add_scored(token)),
            (Part::Scored(_), None) => {}
            (Part::End(reason), _) => self.reason = reason,
        }
    }

    fn write(&mut self, out: &mut BytesMut, endpoint: Endpoint, index: usize) {
        let (open, close): (_, &[u8]) = match endpoint {
            Endpoint::Chat => (r#""message":{"role":"assistant","content":"#, b",\"refusal\":null}"),
            Endpoint::Completion => (r#""text":"#, b""),
        };
        out.put_slice(format!("{{\"index\":{index},{open}").as_bytes());
        json::string(out, &self.text);
        out.put_slice(close);
        out.put_slice(b",\"logprobs\":");
        match &mut self.logprobs {
            Some(logprobs) => logprobs.write(out),
            None => out.put_slice(b"null"),
        }
        out.put_slice(format!(",\"finish_reason\":\"{}\"}}", self.reason).as_bytes());
    }
}

fn object(header: &Header, choices: &mut [Choice], usage: Usage) -> BytesMut {
    let object = match header.endpoint {
        Endpoint::Chat => "chat.completion",
        Endpoint::Completion => "text_completion",
    };
    let mut out = BytesMut::from(header.opening(object).as_bytes());
    out.put_slice(b",\"choices\":[");
    for (index, choice) in choices.iter_mut().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        choice.write(&mut out, header.endpoint, index);
    }
    out.put_slice(format!("],\"usage\":{}}}", usage.json()).as_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chat_and_a_completion_byte_for_byte() {
        let check = |endpoint, expected: &str| {
            let header = Header { endpoint, id: "x-1".to_owned(), created_unix: 7, model: "m".to_owned() };
            let mut choices: Vec<Choice> = ["a\"", "b"]
                .map(|text| Choice { text: text.to_owned(), logprobs: None, reason: "stop" })
                .into_iter()
                .collect();
            let usage = r#""usage":{"completion_tokens":2,"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":1},"total_tokens":5}}"#;
            let object = object(&header, &mut choices, Usage { prompt: 3, completion: 2, cached: 1 });
            assert_eq!(std::str::from_utf8(&object).unwrap(), format!("{expected},{usage}"));
        };
        check(
            Endpoint::Chat,
            r#"{"id":"x-1","object":"chat.completion","created":7,"model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"a\"","refusal":null},"logprobs":null,"finish_reason":"stop"},{"index":1,"message":{"role":"assistant","content":"b","refusal":null},"logprobs":null,"finish_reason":"stop"}]"#,
        );
        check(
            Endpoint::Completion,
            r#"{"id":"x-1","object":"text_completion","created":7,"model":"m","choices":[{"index":0,"text":"a\"","logprobs":null,"finish_reason":"stop"},{"index":1,"text":"b","logprobs":null,"finish_reason":"stop"}]"#,
        );
    }
}
