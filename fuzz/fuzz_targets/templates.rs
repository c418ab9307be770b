//! A chat template and a chat, with a byte 0 between: rendered or refused, within the template's fuel.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_text::{ChatMessage, ChatRequest, ChatTemplate, MAX_RENDERED_BYTES, UnixSeconds};

fuzz_target!(|input: &[u8]| {
    let at = input.iter().position(|&byte| byte == 0).unwrap_or(input.len());
    let (source, chat) = input.split_at(at);
    let Ok(source) = std::str::from_utf8(source) else { return };
    let Ok(template) = ChatTemplate::new(source) else { return };
    let template = template.with_tokens([("bos_token", "<s>"), ("eos_token", "</s>")]);
    let plain = || ChatRequest::new(vec![ChatMessage::new("user", "Hello"), ChatMessage::new("assistant", "")]);
    let chat = serde_json::from_slice(chat.get(1..).unwrap_or_default()).unwrap_or_else(|_| plain());
    if let Ok(text) = template.render(&chat, UnixSeconds(1_700_000_000)) {
        assert!(text.len() <= MAX_RENDERED_BYTES);
    }
});
