//! Vocabularies as GGUF files hold them, and what is wrong with others.

use super::*;
use crate::alphabet::spell;
use crate::tokenizer::tests::EMBEDDED;
use crate::{Text, Tokenizer};

/// What the embedded model's tokenizer would be in a GGUF file, with Qwen's way to cut a text.
pub(crate) fn embedded() -> GgufVocabulary {
    let json: serde_json::Value = serde_json::from_slice(EMBEDDED).unwrap();
    let mut tokens: Vec<(u64, String)> = json["model"]["vocab"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, id)| (id.as_u64().unwrap(), name.clone()))
        .collect();
    tokens.sort_unstable();
    let pair = |merge: &serde_json::Value| format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap());
    let kind = |name: &str| if name.starts_with("<|") && name.ends_with("|>") { CONTROL } else { NORMAL };
    let tokens: Vec<String> = tokens.into_iter().map(|(_, name)| name).collect();
    GgufVocabulary {
        model: "gpt2".to_owned(),
        pre: "qwen2".to_owned(),
        token_types: tokens.iter().map(|name| kind(name)).collect(),
        tokens,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(pair).collect(),
        bos: Some(0),
        eos: Some(2),
        eot: None,
        add_bos: false,
        chat_template: None,
    }
}

/// All bytes, one merge, a marker, a token that is no mark but stands whole in a text, and a row without a token.
fn small() -> GgufVocabulary {
    let bytes = (0..=255).map(|byte| spell(&[byte]));
    let tokens: Vec<String> = bytes.chain(["ab", "<|end|>", "<think>", "[PAD]"].map(str::to_owned)).collect();
    let mut token_types = vec![NORMAL; tokens.len()];
    token_types[257..].copy_from_slice(&[CONTROL, USER_DEFINED, UNUSED]);
    GgufVocabulary { tokens, token_types, merges: vec!["a b".to_owned()], bos: None, eos: Some(257), ..embedded() }
}

#[test]
fn a_vocabulary_becomes_the_same_tokenizer() {
    let (ours, json) = (Tokenizer::from_gguf(&embedded()).unwrap(), Tokenizer::from_bytes(EMBEDDED).unwrap());
    assert_eq!(ours.vocabulary(), json.vocabulary());
    for text in ["the KV cache", "don't  stop\n\nnow", "Déjà vu 🦀", "<|im_end|>"] {
        assert_eq!(ours.encode(text), json.encode(text), "{text}");
    }
}

#[test]
fn kinds_of_tokens_keep_their_meaning() {
    let tokenizer = Tokenizer::from_gguf(&small()).unwrap();
    assert_eq!(tokenizer.encode("ab<think>").unwrap(), [256, 258]);
    assert_eq!(tokenizer.encode("<|end|>").unwrap().len(), 7);
    assert_eq!(tokenizer.special_token("<|end|>"), Some(257));
    assert_eq!(tokenizer.special_token("<think>"), None);
    assert_eq!(tokenizer.decode(&[256, 257, 258, 259, 1_000]), "ab<think>");
    assert_eq!(tokenizer.vocabulary(), 259, "a row without a token is none");
}

#[test]
fn a_file_brings_its_template_and_its_ends() {
    let template = Some("{{ eos_token }}{{ messages[0].content }}{{ bos_token }}<|im_start|>".to_owned());
    let text = Text::from_gguf(&GgufVocabulary { chat_template: template, ..embedded() }).unwrap();
    let request = crate::ChatRequest::new(vec![crate::ChatMessage::new("user", "a")]);
    let tokens = text.prompt_for_chat(&request, 100, crate::UnixSeconds(0)).unwrap();
    assert_eq!((tokens[0], tokens[2], tokens[3]), (2, 0, 1));
    assert_eq!(**text.stop_tokens(), [0, 1, 2]);
    let plain = Text::from_gguf(&small()).unwrap();
    assert_eq!(**plain.stop_tokens(), [257]);
}

#[test]
fn a_turn_may_have_an_end_of_its_own() {
    let text = Text::from_gguf(&GgufVocabulary { eot: Some(258), ..small() }).unwrap();
    assert_eq!(**text.stop_tokens(), [257, 258]);
}

/// One that the template writes is not written again.
#[test]
fn a_file_may_ask_for_a_token_before_every_prompt() {
    let request = crate::ChatRequest::new(vec![crate::ChatMessage::new("user", "a")]);
    for (template, expected) in [("{{ messages[0].content }}", [257, 97]), ("<|end|>a", [257, 97])] {
        let template = Some(template.to_owned());
        let vocabulary = GgufVocabulary { bos: Some(257), add_bos: true, chat_template: template, ..small() };
        let text = Text::from_gguf(&vocabulary).unwrap();
        assert_eq!(text.prompt_for_completion("a", 100).unwrap().len(), 2);
        assert_eq!(text.prompt_for_completion("a", 100).unwrap()[0], 257);
        let chat = text.prompt_for_chat(&request, 100, crate::UnixSeconds(0)).unwrap();
        assert_eq!((chat.len(), chat[0]), (expected.len(), expected[0]));
        let without = Text::from_gguf(&GgufVocabulary { add_bos: false, ..vocabulary }).unwrap();
        assert_eq!(without.prompt_for_completion("a", 100).unwrap().len(), 1);
    }
    let error = Text::from_gguf(&GgufVocabulary { add_bos: true, ..small() }).unwrap_err().to_string();
    assert!(error.contains("add_bos_token is true") && error.contains("bos_token_id"), "{error}");
}

#[test]
fn a_broken_vocabulary_names_the_culprit() {
    let check = |change: fn(&mut GgufVocabulary), expected: &str| {
        let mut vocabulary = small();
        change(&mut vocabulary);
        let error = Tokenizer::from_gguf(&vocabulary).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|v| v.model = "llama".to_owned(), "tokenizer.ggml.model is `llama`");
    check(|v| v.pre = "llama-bpe".to_owned(), "tokenizer.ggml.pre is `llama-bpe`");
    check(|v| v.token_types.clear(), "260 tokens and 0 token types");
    check(|v| v.token_types[7] = 6, "token 7 is of type 6");
    check(|v| v.tokens[7] = "日".to_owned(), "token 7 is not spelled in bytes");
    check(|v| v.tokens[258] = String::new(), "token 258 is empty");
    check(|v| v.tokens[257] = "ab".to_owned(), "token 257 is the same as token 256");
    check(|v| v.token_types[65] = UNUSED, "the byte 0x41");
    check(|v| v.merges.push("ab ab".to_owned()), "merge 1 does not make a token out of two: \"ab ab\"");
    check(|v| v.merges.push("ab".to_owned()), "merge 1");
    check(|v| v.eos = Some(260), "eos_token_id is 260, but there are only 260 tokens");
    check(|v| v.eot = Some(260), "eot_token_id is 260");
    check(|v| v.merges = vec![String::new(); MAX_TOKENS + 1], "the limit is 1048576 each");
    check(|v| v.tokens[0] = "x".repeat(MAX_VOCABULARY_BYTES), "the limit is 67108864");
    let template = Text::from_gguf(&GgufVocabulary { chat_template: Some("{% if %}".to_owned()), ..small() });
    assert!(template.unwrap_err().to_string().contains("chat template"));
}
