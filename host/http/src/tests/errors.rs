//! Every failure before an answer begins: its status and its code, always in the envelope.

use sluice_core::{FinishReason, Rejection, SECOND, TokenEvent};

use super::client::{Reply, chat, connect, get, post, rest, send};
use super::engine::{Server, end};

const JSON: &str = "application/json";
const CHAT: &str = "/v1/chat/completions";

#[tokio::test(flavor = "multi_thread")]
async fn the_table_of_errors() {
    let server = Server::start().await;
    let user = |content: &str| format!(r#"{{"messages":[{{"role":"user","content":"{content}"}}]}}"#);
    let long = user(&"x".repeat(100));
    let with = |more: &str| user("hi").replace("}]}", &format!("}}],{more}}}"));
    let deep = format!(r#"{{"messages":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    let cases = [
        (get("/v2"), 404, "path_not_found"),
        (get("/v1/models/other"), 404, "model_not_found"),
        (get(CHAT), 405, "method_not_allowed"),
        (post("/health", JSON, "{}"), 405, "method_not_allowed"),
        (post(CHAT, "text/plain", "{}"), 415, "unsupported_media_type"),
        (post(CHAT, JSON, &"x".repeat(10_001)), 413, "body_too_large"),
        (post(CHAT, JSON, "{").replace("content-length: 1", "content-length: 2"), 408, "body_timeout"),
        (chat("{"), 400, "invalid_json"),
        (chat("[]"), 400, "invalid_json"),
        (chat(&deep), 400, "invalid_json"),
        (chat("{}"), 400, "invalid_value"),
        (chat(&with(r#""model":"gpt-4""#)), 404, "model_not_found"),
        (chat(&with(r#""model":5"#)), 400, "invalid_value"),
        (chat(&with(r#""n":17"#)), 400, "invalid_value"),
        (chat(&with(r#""response_format":{"type":"json_object"}"#)), 400, "unsupported_parameter"),
        (chat(&with(r#""logit_bias":{"1114112":1}"#)), 400, "invalid_value"),
        (post("/tokenize", JSON, "{}"), 400, "invalid_value"),
        (get("/detokenize"), 405, "method_not_allowed"),
        (chat(&with(r#""max_tokens":99"#)), 400, "context_length_exceeded"),
        (chat(&with(r#""max_tokens":1,"min_tokens":2"#)), 400, "invalid_value"),
        (chat(&long), 400, "context_length_exceeded"),
        (chat(&user(&"x".repeat(5_000))), 400, "context_length_exceeded"),
        (chat(&with(r#""truncate_prompt_tokens":0"#)), 400, "invalid_value"),
        (chat(&with(&format!(r#""model":"{}""#, "x".repeat(5_000)))), 404, "model_not_found"),
        (chat(&user("")), 400, "invalid_value"),
        (chat(r#"{"messages":[{"role":"assistant","content":"hi"}]}"#), 400, "invalid_prompt"),
        (post("/v1/completions", JSON, r#"{"prompt":[2000000]}"#), 400, "invalid_value"),
        (post("/v1/completions", JSON, r#"{"prompt":[]}"#), 400, "invalid_value"),
        (
            post("/v1/completions", JSON, r#"{"prompt":["a","b","c","d","e","f","g","h","i"],"n":16}"#),
            400,
            "invalid_value",
        ),
        (post("/v1/completions", JSON, r#"{"prompt":["a",[]]}"#), 400, "invalid_value"),
        (post("/v1/completions", JSON, r#"{"prompt":"a","suffix":"b"}"#), 400, "unsupported_parameter"),
    ];
    for (request, status, code) in cases {
        let reply = send(server.address, &request).await;
        let start: String = request.chars().take(300).collect();
        assert_eq!((reply.status, reply.code().as_str()), (status, code), "{start}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_shows_what_was_asked_for_shortly() {
    let server = Server::start().await;
    let message = async |request: String| send(server.address, &request).await.json()["error"]["message"].to_string();
    assert_eq!(message(get("/v1/no-such-path")).await, r#""there is nothing at `/v1/no-such-path`""#);
    assert!(message(get(&format!("/{}", "x".repeat(5_000)))).await.len() < 150);
    let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(401));
    assert!(message(chat(&long)).await.contains("has more than 100 tokens"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_request_that_nobody_is_free_to_read_is_told_to_come_back() {
    let mut server = Server::start().await;
    let body = |bytes: usize| {
        let user = "x".repeat(bytes);
        format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"user":"{user}"}}"#)
    };
    let edge = std::sync::Arc::clone(&server.edge);
    let all = edge.preparations.available_permits();
    let taken = edge.preparations.acquire_many(all as u32).await.unwrap();
    let reply = send(server.address, &chat(&body(5_000))).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "server_overloaded"));
    assert!(reply.header("retry-after").is_some());
    let _small = connect(server.address, &chat(&body(10))).await;
    assert_eq!(server.offered().await.prompt.len(), 2);
    drop(taken);
    let _large = connect(server.address, &chat(&body(5_000))).await;
    assert_eq!(server.offered().await.prompt.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_answers() {
    let server = Server::start().await;
    for path in ["/health", "/ready", "/version", "/v1/models", "/v1/models/org/tiny"] {
        assert_eq!(send(server.address, &get(path)).await.status, 200, "{path}");
    }
    let models = send(server.address, &get("/v1/models")).await.json();
    assert_eq!(models["data"][0]["max_model_len"], 100);
    let metrics = send(server.address, &get("/metrics")).await;
    assert!(metrics.body.contains("sluice_http_connections 1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_is_too_long_is_cut_where_it_was_asked_for() {
    let mut server = Server::start().await;
    let body = |keep: i64| {
        let prompt = "ab".repeat(60);
        format!(r#"{{"messages":[{{"role":"user","content":"{prompt}"}}],"truncate_prompt_tokens":{keep}}}"#)
    };
    for (keep, length) in [(-1, 99), (3, 3), (500, 99)] {
        let _client = connect(server.address, &chat(&body(keep))).await;
        let request = server.offered().await;
        assert_eq!((request.prompt.len(), request.prompt.last()), (length, Some(&u32::from('b'))));
        drop(_client);
        server.finished().await;
    }
}

async fn refused(server: &mut Server, with: impl FnOnce(&sluice_core::Request)) -> Reply {
    let body = r#"{"messages":[{"role":"user","content":"hi"}],"stream":true}"#;
    let client = connect(server.address, &chat(body)).await;
    let request = server.offered().await;
    with(&request);
    rest(client).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_engine_refuses_is_a_status() {
    let mut server = Server::start().await;
    let reject = |caller, after| {
        let rejection = Rejection { caller, reason: "too much".to_owned(), retry_after: after };
        move |request: &sluice_core::Request| request.sink.send(TokenEvent::Rejected(rejection)).unwrap()
    };
    let reply = refused(&mut server, reject(true, 3 * SECOND)).await;
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.code().as_str()),
        (429, Some("3"), "rate_limit_exceeded")
    );
    let reply = refused(&mut server, reject(false, 0)).await;
    assert_eq!(
        (reply.status, reply.header("retry-after"), reply.code().as_str()),
        (503, Some("1"), "server_overloaded")
    );
    let reply = refused(&mut server, |request| end(request, FinishReason::Failed, Some("lost twice"))).await;
    assert_eq!((reply.status, reply.code().as_str()), (500, "engine_error"));
    assert!(server.is_quiet());

    // An engine that forgets a request, and one that is gone.
    let client = connect(server.address, &chat(r#"{"messages":[{"role":"user","content":"hi"}]}"#)).await;
    drop(server.offered().await);
    assert_eq!(rest(client).await.code(), "engine_error");
    server.stop_engine();
    let reply = send(server.address, &chat(r#"{"messages":[{"role":"user","content":"hi"}]}"#)).await;
    assert_eq!((reply.status, reply.code().as_str()), (503, "engine_stopped"));
}
