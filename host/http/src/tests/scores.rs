//! How likely tokens were, of the answer and of the prompt before it.

use serde_json::{Value, json};
use sluice_core::{FinishReason, Logprob, Request, SampledToken, ScoredToken, TokenEvent};

use super::client::{Reply, chat, connect, post, rest};
use super::engine::{Server, end};

/// The token itself, and one that is better.
fn tell(request: &Request, text: &str) {
    for c in text.chars() {
        let top = vec![Logprob { token: u32::from('!'), logprob: -0.1 }];
        let token = SampledToken { token: u32::from(c), logprob: Some(-1.7), top };
        request.sink.send(TokenEvent::Token(token)).unwrap();
    }
}

fn score(request: &Request, text: &str) {
    let scored = |c: char| ScoredToken { token: u32::from(c), logprob: -0.3, top: Vec::new() };
    request.sink.send(TokenEvent::Prompt(text.chars().map(scored).collect())).unwrap();
}

async fn completion(server: &mut Server, body: &str, answer: impl FnOnce(&Request)) -> Reply {
    let client = connect(server.address, &post("/v1/completions", "application/json", body)).await;
    let request = server.offered().await;
    answer(&request);
    rest(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chats_tokens_are_listed() {
    let mut server = Server::start().await;
    for (stream, top) in [(false, 1), (true, 1), (true, 0)] {
        let more = format!(r#""logprobs":true,"top_logprobs":{top},"stream":{stream}"#);
        let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],{more}}}"#);
        let client = connect(server.address, &chat(&body)).await;
        let request = server.offered().await;
        assert_eq!((request.sampling.logprobs, request.prompt_logprobs), (Some(top), None));
        tell(&request, "a~b");
        end(&request, FinishReason::Length, None);
        let reply = rest(client).await;
        let lists: Vec<Value> = if stream {
            reply.events().iter().map(|event| event["choices"][0]["logprobs"]["content"].clone()).collect()
        } else {
            vec![reply.json()["choices"][0]["logprobs"]["content"].clone()]
        };
        let alternatives = json!([{"token": "!", "logprob": -0.1, "bytes": [33]}]);
        let alternatives = if top == 0 { json!([]) } else { alternatives };
        let entry = |token: &str| json!({"token": token, "logprob": -1.7, "bytes": token.as_bytes(), "top_logprobs": alternatives});
        let all = lists.iter().filter_map(Value::as_array).flatten().cloned().collect::<Vec<_>>();
        assert_eq!(all, ["a", "~", "b"].map(entry));
        // The text of `~` is held back and comes with the next token's.
        let counts = lists.iter().map(|list| list.as_array().map_or(0, Vec::len)).collect::<Vec<_>>();
        assert_eq!(counts, if stream { vec![1, 0, 2, 0] } else { vec![3] });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_completion_has_its_lists_and_the_token_among_its_alternatives() {
    let mut server = Server::start().await;
    let reply = completion(&mut server, r#"{"prompt":"p","logprobs":1}"#, |request| {
        tell(request, "ab");
        end(request, FinishReason::Stop, None);
    });
    let expected = json!({
        "tokens": ["a", "b"],
        "token_logprobs": [-1.7, -1.7],
        "top_logprobs": [{"!": -0.1, "a": -1.7}, {"!": -0.1, "b": -1.7}],
        "text_offset": [0, 1],
    });
    assert_eq!(reply.await.json()["choices"][0]["logprobs"], expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_comes_before_the_answer() {
    let mut server = Server::start().await;
    for prompt in [r#""pé""#, "[112, 233]"] {
        let body = format!(r#"{{"prompt":{prompt},"echo":true,"logprobs":0,"max_tokens":1}}"#);
        let reply = completion(&mut server, &body, |request| {
            assert_eq!((request.prompt_logprobs, request.max_new_tokens), (Some(0), 1));
            score(request, "é");
            tell(request, "x");
            end(request, FinishReason::Length, None);
        });
        let choice = reply.await.json()["choices"][0].clone();
        assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!("péx"), &json!("length")));
        let expected = json!({
            "tokens": ["p", "é", "x"],
            "token_logprobs": [null, -0.3, -1.7],
            "top_logprobs": [null, {"é": -0.3}, {"x": -1.7}],
            "text_offset": [0, 1, 2],
        });
        assert_eq!(choice["logprobs"], expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_alone_makes_nothing() {
    let mut server = Server::start().await;
    for stream in [false, true] {
        let body = format!(r#"{{"prompt":"pq","echo":true,"logprobs":0,"max_tokens":0,"stream":{stream}}}"#);
        let reply = completion(&mut server, &body, |request| {
            // The engine makes one, which is not shown.
            assert_eq!(request.max_new_tokens, 1);
            score(request, "q");
            tell(request, "x");
            end(request, FinishReason::Length, None);
        });
        let reply = reply.await;
        let whole = if stream { reply.events().remove(0) } else { reply.json() };
        assert_eq!(whole["choices"][0]["text"], "pq");
        assert_eq!(whole["choices"][0]["logprobs"]["token_logprobs"], json!([null, -0.3]));
        if stream {
            assert_eq!(reply.events()[1]["choices"][0]["finish_reason"], "length");
        } else {
            assert_eq!(whole["choices"][0]["finish_reason"], "length");
            assert_eq!(whole["usage"]["completion_tokens"], 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_streamed_echo_is_the_first_chunk_and_a_cut_prompt_is_shown_as_it_was_read() {
    let mut server = Server::start().await;
    let body = r#"{"prompt":"abc","echo":true,"stream":true,"truncate_prompt_tokens":2}"#;
    let reply = completion(&mut server, body, |request| {
        assert_eq!(request.prompt_logprobs, None);
        tell(request, "x");
        end(request, FinishReason::Stop, None);
    });
    let reply = reply.await;
    let texts: Vec<Value> = reply.events().iter().map(|event| event["choices"][0]["text"].clone()).collect();
    assert_eq!(texts, ["bc", "x", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn more_logprobs_than_an_answer_may_hold_are_refused() {
    let mut config = super::engine::config();
    config.model.max_model_len = 100_000;
    let body = r#"{"prompt":"a","logprobs":20,"max_tokens":50000}"#;
    let endpoint = crate::object::Endpoint::Completion;
    let prepared = crate::prepare::prepare(&super::characters::Characters, &config, endpoint, body.as_bytes(), b"");
    let error = prepared.unwrap_err();
    assert!(error.json().contains(r#""param":"logprobs""#), "{}", error.json());
}
