//! What a client knows a request and a model by.

use serde_json::json;
use sluice_core::FinishReason;

use super::client::{chat, connect, get, rest, send};
use super::engine::{Server, end, say};

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_its_requests_name() {
    let mut server = Server::start().await;
    let named = |request: String| request.replace("host: x\r\n", "host: x\r\nx-request-id: mine-1\r\n");
    for request in [get("/health"), get("/nowhere"), chat("{"), chat("{}").replace("POST", "PUT")] {
        assert_eq!(send(server.address, &named(request.clone())).await.header("x-request-id"), Some("mine-1"));
        let own = send(server.address, &request).await;
        assert!(own.header("x-request-id").unwrap().starts_with("req-0000000000000abc"));
    }
    for stream in [false, true] {
        let body = format!(r#"{{"messages":[{{"role":"user","content":"hi"}}],"stream":{stream}}}"#);
        let client = connect(server.address, &named(chat(&body))).await;
        let request = server.offered().await;
        say(&request, "a").unwrap();
        end(&request, FinishReason::Stop, None);
        assert_eq!(rest(client).await.header("x-request-id"), Some("mine-1"));
    }
    let long = get("/health").replace("host: x\r\n", &format!("host: x\r\nx-request-id: {}\r\n", "x".repeat(129)));
    assert!(send(server.address, &long).await.header("x-request-id").unwrap().starts_with("req-"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_card_has_what_clients_of_vllm_read() {
    let server = Server::start().await;
    let card = send(server.address, &get("/v1/models/org/tiny")).await.json();
    let listed = send(server.address, &get("/v1/models")).await.json();
    assert_eq!(listed, json!({"object": "list", "data": [card]}));
    let known = json!({"id": card["id"], "object": card["object"], "created": card["created"], "root": card["root"],
        "parent": card["parent"], "max_model_len": card["max_model_len"]});
    let expected = json!({"id": "org/tiny", "object": "model", "created": 5, "root": "org/tiny", "parent": null,
        "max_model_len": 100});
    assert_eq!(known, expected);
    assert_eq!(card["permission"][0]["allow_logprobs"], true);
}
