//! A digit that chooses the path, and the body of a request: an answer whole to its end, or an error in OpenAI's shape.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use sluice_fuzz::Server;

const PATHS: [&str; 4] = ["/v1/chat/completions", "/v1/completions", "/tokenize", "/detokenize"];

thread_local! {
    static SERVER: LazyCell<Server> = LazyCell::new(Server::start);
}

fuzz_target!(|input: &[u8]| {
    let Some((choice, body)) = input.split_first() else { return };
    let path = PATHS[usize::from(*choice) % PATHS.len()];
    let (status, answer) = SERVER.with(|server| server.post(path, body));
    let shown = String::from_utf8_lossy(&answer);
    if status.is_success() && answer.starts_with(b"data: ") {
        assert!(answer.ends_with(b"data: [DONE]\n\n"), "{shown}");
        return;
    }
    let json: Value = serde_json::from_slice(&answer).expect("what is answered is JSON");
    assert!(status.is_success() || status.is_client_error(), "{status} by what a client sent: {shown}");
    assert_eq!(status.is_client_error(), json["error"]["message"].is_string(), "{status}: {shown}");
});
