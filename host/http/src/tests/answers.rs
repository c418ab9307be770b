//! Answers, streamed and whole, and clients that leave.

use sluice_core::{FinishReason, MILLISECOND, TenantId};
use tokio::io::AsyncReadExt;

use super::client::{chat, connect, post, rest};
use super::engine::{Server, end, say};

const HI: &str = r#"{"role":"user","content":"hi"}"#;
const CHUNK: &str = r#"data: {"id":"chatcmpl-0000000000000abc0000000000000001","object":"chat.completion.chunk","created":7,"model":"org/tiny","choices":[{"index":0,"delta":{"#;

fn body(more: &str) -> String {
    format!(r#"{{"model":"org/tiny","messages":[{HI}]{more}}}"#)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_streams_byte_for_byte() {
    let mut server = Server::start().await;
    let more = r#","stream":true,"stream_options":{"include_usage":true},"temperature":0,"seed":9,"max_tokens":20"#;
    let client = connect(server.address, &chat(&body(more))).await;
    let request = server.offered().await;
    assert_eq!(&request.prompt[..], [u32::from('h'), u32::from('i')]);
    assert_eq!((request.max_new_tokens, request.sampling.seed, request.sampling.temperature), (20, 9, 0.0));
    assert_eq!((&request.stop_tokens[..], request.tenant), (&[0][..], TenantId(0)));
    say(&request, "a\"~b~").unwrap();
    end(&request, FinishReason::Length, None);
    let reply = rest(client).await;
    let text =
        |delta: &str| format!("{CHUNK}{delta}}},\"logprobs\":null,\"finish_reason\":null}}],\"usage\":null}}\n\n");
    let expected = [
        text(r#""role":"assistant","content":"a""#),
        text(r#""content":"\"""#),
        text(r#""content":"""#),
        text(r#""content":"~b""#),
        text(r#""content":"""#),
        text(r#""content":"~""#),
        format!("{CHUNK}}},\"logprobs\":null,\"finish_reason\":\"length\"}}],\"usage\":null}}\n\n"),
        CHUNK.replace(r#"[{"index":0,"delta":{"#, "")
            + r#"[],"usage":{"completion_tokens":5,"prompt_tokens":2,"prompt_tokens_details":{"cached_tokens":1},"total_tokens":7}}"#
            + "\n\n",
        "data: [DONE]\n\n".to_owned(),
    ];
    assert_eq!(reply.body, expected.concat());
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert!(server.is_quiet());
}

/// The model of these tests treats prompts of up to 48 tokens and longer ones differently.
#[tokio::test(flavor = "multi_thread")]
async fn prompts_share_blocks_with_those_of_their_own_variant() {
    let mut server = Server::start().await;
    let mut hashes = Vec::new();
    for length in [40, 48, 49, 90] {
        let prompt = "x".repeat(length);
        let plain = format!(r#"{{"prompt":"{prompt}","max_tokens":1}}"#);
        let client = connect(server.address, &post("/v1/completions", "application/json", &plain)).await;
        let request = server.offered().await;
        end(&request, FinishReason::Length, None);
        rest(client).await;
        hashes.push(request.hashes.hashes().to_vec());
    }
    let [shorter, short, long, longer] = &hashes[..] else { panic!("four prompts were offered") };
    assert_eq!([shorter.len(), short.len(), long.len(), longer.len()], [2, 3, 3, 5]);
    assert_eq!(shorter[..], short[..2]);
    assert_eq!(long[..], longer[..3]);
    assert!(short.iter().all(|hash| !longer.contains(hash)), "the same tokens, but other keys");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_and_a_plain_completion_as_one_object() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(&body(""))).await;
    let request = server.offered().await;
    assert_eq!(request.max_new_tokens, 98);
    say(&request, "yes").unwrap();
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await.json();
    assert_eq!(reply["object"], "chat.completion");
    assert_eq!(reply["choices"][0]["message"], serde_json::json!({"role":"assistant","content":"yes","refusal":null}));
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["usage"]["total_tokens"], 5);

    let plain = r#"{"prompt":[104,105],"ignore_eos":true,"stop_token_ids":[3],"prompt_cache_key":"s","priority":-5,
        "ttft_target_ms":2,"tpot_target_ms":1,"deadline_ms":30}"#;
    let client = connect(server.address, &post("/v1/completions", "application/json; charset=utf-8", plain)).await;
    let request = server.offered().await;
    assert_eq!((&request.prompt[..], &request.stop_tokens[..]), (&[104, 105][..], &[3][..]));
    assert!(request.session.is_some());
    let targets = (request.priority, request.ttft_target, request.tpot_target, request.deadline);
    // The test's clock stands at 0.
    assert_eq!(targets, (5, Some(2 * MILLISECOND), Some(MILLISECOND), Some(30 * MILLISECOND)));
    say(&request, "!").unwrap();
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await.json();
    assert_eq!((reply["object"].as_str(), reply["choices"][0]["text"].as_str()), (Some("text_completion"), Some("!")));
    assert!(reply["id"].as_str().unwrap().starts_with("cmpl-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_string_ends_the_answer_and_what_follows_is_surplus() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(&body(r#","stop":"b""#))).await;
    let request = server.offered().await;
    say(&request, "ab").unwrap();
    assert_eq!(server.finished().await, FinishReason::Stop);
    say(&request, "c").unwrap();
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "a");
    assert_eq!(reply["choices"][0]["finish_reason"], "stop");
    assert_eq!(reply["usage"]["completion_tokens"], 2);
    assert!(server.is_quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_stop_string_ends_an_answer_before_its_least_length() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(&body(r#","stop":"b","min_tokens":3"#))).await;
    let request = server.offered().await;
    say(&request, "abbcb").unwrap();
    assert_eq!(server.finished().await, FinishReason::Stop);
    end(&request, FinishReason::Stop, None);
    let reply = rest(client).await.json();
    assert_eq!(reply["choices"][0]["message"]["content"], "abbc");
    assert_eq!(reply["usage"]["completion_tokens"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels_its_request_at_every_stage() {
    let mut server = Server::start().await;
    for (stream, tokens) in [("false", ""), ("false", "a"), ("true", ""), ("true", "a")] {
        let mut client = connect(server.address, &chat(&body(&format!(r#","stream":{stream}"#)))).await;
        let request = server.offered().await;
        say(&request, tokens).unwrap();
        if (stream, tokens) == ("true", "a") {
            assert!(client.read(&mut [0; 4096]).await.unwrap() > 0);
        }
        drop(client);
        assert_eq!(server.finished().await, FinishReason::Cancelled, "stream {stream}, tokens {tokens:?}");
        while say(&request, "b").is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_first_token_is_an_event() {
    let mut server = Server::start().await;
    let client = connect(server.address, &chat(&body(r#","stream":true"#))).await;
    let request = server.offered().await;
    say(&request, "a").unwrap();
    end(&request, FinishReason::Failed, Some("its logits are not numbers"));
    let reply = rest(client).await;
    assert_eq!(reply.status, 200);
    let events: Vec<&str> = reply.body.split_terminator("\n\n").collect();
    assert!(events[1].starts_with(r#"data: {"error":{"code":"engine_error","message":"the answer failed: its logits"#));
    assert_eq!(events[2..], ["data: [DONE]"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_different_keys_share_neither_tenant_nor_cache() {
    let mut server = Server::start().await;
    let mut seen = Vec::new();
    for key in ["", "authorization: Bearer a\r\n", "authorization: Bearer b\r\n"] {
        let long = format!(r#"{{"messages":[{{"role":"user","content":"{}"}}]}}"#, "x".repeat(40));
        let request = chat(&long).replace("host: x\r\n", &format!("host: x\r\n{key}"));
        let _client = connect(server.address, &request).await;
        let request = server.offered().await;
        seen.push((request.tenant, request.hashes.hashes()[0]));
        drop(_client);
        assert_eq!(server.finished().await, FinishReason::Cancelled);
    }
    for (index, one) in seen.iter().enumerate() {
        assert!(seen[..index].iter().all(|other| other.0 != one.0 && other.1 != one.1));
    }
}
