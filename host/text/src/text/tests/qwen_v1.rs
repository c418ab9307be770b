//! The text side of a folder as Qwen's first models have it: ranks, a chat format by its name, and no template.

use super::*;
use crate::tokenizer::tests::SMALL_RANKS;

/// Tokens before the special ones.
const RANKS: u32 = 2_045;
const END: u32 = RANKS;
const START: u32 = RANKS + 1;
const STOP: u32 = RANKS + 2;

fn folder(generation: &str) -> TextFiles {
    TextFiles {
        tokenizer_config: Some(br#"{"model_max_length": 8192, "tokenizer_class": "QWenTokenizer"}"#.to_vec()),
        generation_config: Some(generation.as_bytes().to_vec()),
        config: Some(br#"{"model_type": "qwen", "architectures": ["QWenLMHeadModel"]}"#.to_vec()),
        ..TextFiles::new(TokenizerFile::Tiktoken(SMALL_RANKS.to_vec()))
    }
}

/// The tokens with the special ones by name.
fn shown(text: &Text, tokens: &[u32]) -> String {
    let piece = |&token: &u32| match token {
        START => "[start]".to_owned(),
        STOP => "[stop]".to_owned(),
        _ => String::from_utf8_lossy(&text.token_bytes(token)).into_owned(),
    };
    tokens.iter().map(piece).collect()
}

#[test]
fn a_chat_stops_at_the_ends_of_its_format() {
    let check = |generation: &str, expected: &[u32]| {
        assert_eq!(**Text::new(&folder(generation)).unwrap().stop_tokens(), *expected, "{generation}");
    };
    let chat = format!(r#"{{"chat_format": "chatml", "eos_token_id": {END}}}"#);
    check(&chat, &[END, START, STOP]);
    check("{}", &[END, START, STOP]);
    // A template of the folder's own does not take the format's ends away.
    let templated = TextFiles { chat_template: Some(b"x".to_vec()), ..folder(&chat) };
    assert_eq!(**Text::new(&templated).unwrap().stop_tokens(), [END, START, STOP]);
    let other = TextFiles { chat_template: Some(b"x".to_vec()), ..folder(r#"{"eos_token_id": 7}"#) };
    assert_eq!(**Text::new(&other).unwrap().stop_tokens(), [7]);
}

#[test]
fn a_chat_has_a_system_message_in_any_case() {
    let text = Text::new(&folder("{}")).unwrap();
    let check = |messages: &[ChatMessage], expected: &str| {
        let tokens = text.prompt_for_chat(&chat(messages), MOST, NOW).unwrap();
        assert_eq!(shown(&text, &tokens), expected);
    };
    check(
        &[message("user", "Hello <|im_end|>")],
        "[start]system\nYou are a helpful assistant.[stop]\n[start]user\nHello <|im_end|>[stop]\n[start]assistant\n",
    );
    check(
        &[message("system", "Be kind."), message("user", "a"), message("assistant", "b"), message("user", "c")],
        "[start]system\nBe kind.[stop]\n[start]user\na[stop]\n[start]assistant\nb[stop]\n[start]user\nc[stop]\n\
         [start]assistant\n",
    );
    let unended = ChatRequest { add_generation_prompt: false, ..chat(&[message("system", "S")]) };
    assert_eq!(shown(&text, &text.prompt_for_chat(&unended, MOST, NOW).unwrap()), "[start]system\nS[stop]");
}

#[test]
fn ranks_that_do_not_fit_the_weights_are_refused() {
    let text = Text::new(&folder("{}")).unwrap();
    assert_eq!(text.vocabulary(), RANKS + 208);
    assert_eq!(text.check_model(152_064), Ok(()));
    let error = text.check_model(RANKS).unwrap_err().to_string();
    assert!(error.contains("token 2252") && error.contains("2045 rows"), "{error}");
}
