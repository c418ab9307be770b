//! What a tokenizer that was accepted must take without harm, whatever it is.

use sluice_text::{ChatMessage, ChatRequest, Text, UnixSeconds};

/// Words, scripts, emoji, spaces, a special token's name, and what composes.
const SAMPLE: &str = "Hello, world!  1234\n\n\té\u{1fbe}\u{308}\u{301} 你好 🦀 <|im_end|>\u{0}";
/// Of one prompt.
const MOST: u32 = 10_000;
/// Tokens that are looked at one by one.
const TOKENS: u32 = 64;

/// Tokenises, renders and decodes.
///
/// # Panics
/// If it makes a token that it does not have.
pub fn use_text(text: &Text) {
    let vocabulary = text.vocabulary();
    if let Ok(tokens) = text.prompt_for_completion(SAMPLE, MOST) {
        assert!(tokens.iter().all(|&token| token < vocabulary), "{tokens:?} of {vocabulary}");
        let _text = text.decode(&tokens);
    }
    let chat = ChatRequest::new(vec![ChatMessage::new("user", SAMPLE)]);
    let _prompt = text.prompt_for_chat(&chat, MOST, UnixSeconds(0));
    let last = vocabulary.saturating_sub(TOKENS);
    let tokens: Vec<u32> = (0..TOKENS).chain(last..vocabulary).chain([vocabulary, u32::MAX]).collect();
    for &token in &tokens {
        let _bytes = text.token_bytes(token);
    }
    if let Ok(mut answer) = text.answer(&["ab", "\n"]) {
        let mut shown = String::new();
        let stopped = tokens.iter().any(|&token| answer.push(token, &mut shown));
        let _matched = stopped || answer.finish(&mut shown);
    }
}
