//! Chat and plain completions, streaming and not, and every error in OpenAI's shape.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::server::{Server, chat, content, join_all};

#[tokio::test]
async fn the_embedded_model_answers_legibly_about_its_subject() {
    let server = Server::start(&[]);
    let answer = server.ask("What is Sluice?", 100).await;
    let text = content(&answer).to_lowercase();
    assert!(text.contains("sluice") && text.contains("policies") && text.contains("language models"), "{text}");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let answer = server.ask("What does the admission policy decide?", 100).await;
    assert!(content(&answer).to_lowercase().contains("request"), "{answer}");
}

#[tokio::test]
async fn a_stream_is_the_plain_answer_chunk_by_chunk() {
    let server = Server::start(&[]);
    let whole = server.ask("How do I deploy a policy?", 60).await;
    let streamed = server.stream("How do I deploy a policy?", 60).await;
    assert_eq!(streamed.text, content(&whole));
    assert_eq!(streamed.finish_reason.as_deref(), whole["choices"][0]["finish_reason"].as_str());
    let tokens = whole["usage"]["completion_tokens"].as_u64().unwrap() as usize;
    assert!(streamed.events.len() >= tokens / 2, "{} events for {tokens} tokens", streamed.events.len());
}

#[tokio::test]
async fn usage_counts_what_the_prefix_cache_had() {
    let server = Server::start(&["--block-size", "8"]);
    let first = server.ask("What is a KV cache block and who owns it?", 8).await;
    let again = server.ask("What is a KV cache block and who owns it?", 8).await;
    assert_eq!(first["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
    assert!(again["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap() >= 8, "{again}");
    assert_eq!(content(&first), content(&again));
}

#[tokio::test]
async fn a_marker_that_a_user_types_stays_text() {
    let server = Server::start(&[]);
    let plain = server.ask("What is Sluice?", 4).await["usage"]["prompt_tokens"].as_u64().unwrap();
    let typed = server.ask("What is Sluice?<|im_end|>", 4).await["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(typed > plain + 2, "{typed} tokens: the marker became one token, not text");
}

async fn check(server: &Server, path: &str, body: Value, status: StatusCode, part: &str) {
    let response = server.post(path, &body).await;
    assert_eq!(response.status(), status, "{body}");
    let retry_after = response.headers().get("retry-after").cloned();
    let error: Value = response.json().await.unwrap();
    for field in ["message", "type", "param", "code"] {
        assert!(error["error"].get(field).is_some(), "{field} is missing: {error}");
    }
    assert!(error.to_string().contains(part), "{part}: {error}");
    let busy = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
    assert_eq!(retry_after.is_some(), busy, "{error}");
}

#[tokio::test]
async fn errors_have_openais_shape_and_name_the_culprit() {
    let server = Server::start(&["--max-model-len", "256"]);
    let chat_path = "/v1/chat/completions";
    let bad = StatusCode::BAD_REQUEST;
    check(
        &server,
        chat_path,
        json!({"model": "other", "messages": [{"role": "user", "content": "x"}]}),
        StatusCode::NOT_FOUND,
        "model_not_found",
    )
    .await;
    check(&server, chat_path, chat(&"word ".repeat(3000), 5), bad, "context_length_exceeded").await;
    check(&server, chat_path, json!({"model": "sluice", "messages": "x"}), bad, "messages").await;
    check(&server, chat_path, json!({"model": "sluice", "messages": []}), bad, "messages").await;
    check(
        &server,
        chat_path,
        json!({"model": "sluice", "messages": [{"role": "user", "content": "x"}], "temperature": 9}),
        bad,
        "temperature",
    )
    .await;
    check(&server, chat_path, chat(&"x".repeat(8_000_000), 5), bad, "more than 256 tokens").await;
    for (parameter, value) in [("truncate_prompt_tokens", 0), ("priority", -101), ("priority", 101), ("n", 17)] {
        let mut body = chat("hello", 5);
        body[parameter] = json!(value);
        check(&server, chat_path, body, bad, parameter).await;
    }
    check(&server, "/v1/completions", json!({"model": "sluice", "prompt": [999_999]}), bad, "prompt").await;
    check(&server, "/v1/no-such-path", json!({}), StatusCode::NOT_FOUND, "no-such-path").await;
    let raw = server.http.post(format!("{}{chat_path}", server.url)).header("content-type", "application/json");
    let response = raw.body("{\"model\": \"sluice\", ").send().await.unwrap();
    assert_eq!(response.status(), bad);
    let wrong_method = server.get(chat_path).await;
    assert_eq!(wrong_method.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert!(wrong_method.json::<Value>().await.unwrap()["error"]["message"].is_string());
    assert!(!content(&server.ask("hello", 10).await).is_empty(), "it still serves");
}

#[tokio::test]
async fn a_full_queue_answers_busy_and_says_when_to_come_back() {
    let server = Server::start(&["--max-queued-requests", "2", "--max-num-seqs", "1"]);
    let asks = (0..24).map(|_| {
        let server = &server;
        async move { server.post("/v1/chat/completions", &chat("What is batching?", 60)).await }
    });
    let responses = join_all(asks).await;
    let busy: Vec<_> = responses.iter().filter(|response| response.status() != StatusCode::OK).collect();
    assert!(!busy.is_empty() && busy.len() < responses.len());
    for response in busy {
        assert!(matches!(response.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS));
        let seconds: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=120).contains(&seconds));
    }
}

#[tokio::test]
async fn health_models_and_metrics() {
    let server = Server::start(&[]);
    for path in ["/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/sluice"] {
        assert_eq!(server.get(path).await.status(), StatusCode::OK, "{path}");
    }
    let models: Value = server.get("/v1/models").await.json().await.unwrap();
    assert!(models["data"][0]["max_model_len"].as_u64().unwrap() >= 1024, "{models}");
    server.ask("What is Sluice?", 8).await;
    assert!(server.metric("sluice_generation_tokens_total", "").await >= 8.0);
    assert!(server.metric("sluice_policy_decision_seconds_count", "batching").await >= 8.0);
}
