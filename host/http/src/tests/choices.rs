//! Several answers to one request: several to a prompt, several prompts, or both.

use serde_json::{Value, json};
use sluice_core::{FinishReason, Rejection, Request, SECOND, TokenEvent};

use super::client::{Reply, chat, connect, post, rest};
use super::engine::{Server, end, say};

fn asked(more: &str) -> String {
    chat(&format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"seed":9,{more}}}"#))
}

fn completion(body: &str) -> String {
    post("/v1/completions", "application/json", body)
}

/// For each choice its text, all of its reasons, and the roles that it was given.
fn told(reply: &Reply, count: usize) -> Vec<(String, Vec<Value>, usize)> {
    let mut told = vec![(String::new(), Vec::new(), 0); count];
    for event in reply.events() {
        for choice in event["choices"].as_array().unwrap() {
            let (text, reasons, roles) = &mut told[choice["index"].as_u64().unwrap() as usize];
            *text += choice["delta"]["content"].as_str().unwrap_or("");
            *roles += usize::from(choice["delta"]["role"] == "assistant");
            if !choice["finish_reason"].is_null() {
                reasons.push(choice["finish_reason"].clone());
            }
        }
    }
    told
}

fn reject(request: &Request) {
    let rejection = Rejection { caller: false, reason: "too much".to_owned(), retry_after: SECOND };
    request.sink.send(TokenEvent::Rejected(rejection)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn choices_stream_as_they_come_and_end_on_their_own() {
    let mut server = Server::start().await;
    let more = r#""n":2,"stream":true,"stream_options":{"include_usage":true}"#;
    let client = connect(server.address, &asked(more)).await;
    let requests = server.offered_all(2).await;
    assert_eq!(requests[0].prompt, requests[1].prompt);
    assert_eq!(requests[0].hashes, requests[1].hashes);
    for (index, text) in [(1, "x"), (0, "a"), (1, "yz")] {
        say(&requests[index], text).unwrap();
    }
    end(&requests[1], FinishReason::Stop, None);
    say(&requests[0], "b").unwrap();
    end(&requests[0], FinishReason::Length, None);
    let reply = rest(client).await;
    let expected = [("ab".to_owned(), vec![json!("length")], 1), ("xyz".to_owned(), vec![json!("stop")], 1)];
    assert_eq!(told(&reply, 2), expected);
    let events = reply.events();
    let without: Vec<&Value> = events.iter().filter(|event| event["choices"] == json!([])).collect();
    assert_eq!(without.len(), 1);
    let usage = json!({"prompt_tokens": 2, "completion_tokens": 5, "total_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 1}});
    assert_eq!(without[0]["usage"], usage);
    assert_eq!(events.iter().map(|event| &event["id"]).collect::<std::collections::HashSet<_>>().len(), 1);
    assert!(server.is_quiet());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_choice_is_the_answer_that_would_have_come_alone() {
    let mut server = Server::start().await;
    let mut seeds = Vec::new();
    for n in [1, 3] {
        let _client = connect(server.address, &asked(&format!(r#""n":{n}"#))).await;
        let requests = server.offered_all(n).await;
        seeds.push(requests.iter().map(|request| request.sampling.seed).collect::<Vec<_>>());
        drop(_client);
        for _ in 0..n {
            assert_eq!(server.finished().await, FinishReason::Cancelled);
        }
    }
    assert_eq!((seeds[0][0], seeds[1][0]), (9, 9));
    assert!(seeds[1][1] != 9 && seeds[1][2] != 9 && seeds[1][1] != seeds[1][2], "{seeds:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_of_a_batch_are_answered_in_their_order() {
    let mut server = Server::start().await;
    let client = connect(server.address, &completion(r#"{"prompt":["a",[98,99]],"n":2,"seed":1}"#)).await;
    let requests = server.offered_all(4).await;
    let prompts: Vec<&[u32]> = requests.iter().map(|request| &request.prompt[..]).collect();
    assert_eq!(prompts, [&[97][..], &[97], &[98, 99], &[98, 99]]);
    assert_eq!(requests[0].sampling.seed, requests[2].sampling.seed);
    for (index, text) in ["0", "1", "2", "3"].iter().enumerate().rev() {
        say(&requests[index], text).unwrap();
        end(&requests[index], FinishReason::Stop, None);
    }
    let reply = rest(client).await.json();
    let choices: Vec<(u64, &str)> = reply["choices"]
        .as_array()
        .unwrap()
        .iter()
        .map(|choice| (choice["index"].as_u64().unwrap(), choice["text"].as_str().unwrap()))
        .collect();
    assert_eq!(choices, [(0, "0"), (1, "1"), (2, "2"), (3, "3")]);
    // Each prompt is read once.
    assert_eq!((&reply["usage"]["prompt_tokens"], &reply["usage"]["completion_tokens"]), (&json!(3), &json!(4)));
    assert_eq!(reply["usage"]["prompt_tokens_details"]["cached_tokens"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refusal_refuses_all_and_cancels_the_others() {
    let mut server = Server::start().await;
    for stream in [false, true] {
        let client = connect(server.address, &asked(&format!(r#""n":3,"stream":{stream}"#))).await;
        let requests = server.offered_all(3).await;
        reject(&requests[1]);
        let reply = rest(client).await;
        assert_eq!((reply.status, reply.code().as_str()), (503, "server_overloaded"));
        for _ in 0..2 {
            assert_eq!(server.finished().await, FinishReason::Cancelled);
        }
        assert!(server.is_quiet());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_failure_midway_fails_all() {
    let mut server = Server::start().await;
    for stream in [false, true] {
        let client = connect(server.address, &asked(&format!(r#""n":2,"stream":{stream}"#))).await;
        let requests = server.offered_all(2).await;
        say(&requests[0], "a").unwrap();
        end(&requests[1], FinishReason::Failed, Some("why"));
        // Not before the client was told of the first choice: else the failure is a status.
        let reply = rest(client).await;
        assert!(reply.body.contains("why"), "{}", reply.body);
        assert_eq!(server.finished().await, FinishReason::Cancelled);
        assert!(stream || reply.status == 500);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_after_the_first_chunk_ends_the_stream_of_all() {
    use tokio::io::AsyncReadExt;

    let mut server = Server::start().await;
    let mut client = connect(server.address, &asked(r#""n":2,"stream":true"#)).await;
    let requests = server.offered_all(2).await;
    say(&requests[0], "a").unwrap();
    let mut seen = vec![0; 4096];
    let read = client.read(&mut seen).await.unwrap();
    end(&requests[1], FinishReason::Failed, Some("why"));
    assert_eq!(server.finished().await, FinishReason::Cancelled);
    let mut all = seen[..read].to_vec();
    client.read_to_end(&mut all).await.unwrap();
    let text = String::from_utf8(all).unwrap();
    assert!(text.contains(r#""content":"a""#) && text.contains(r#"data: {"error":{"#), "{text}");
    assert_eq!(text.matches("data: [DONE]").count(), 1);
}
