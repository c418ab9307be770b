//! Turns one answer's tokens into text as they come, holding back a character until it is whole.

use std::sync::Arc;

use crate::Tokenizer;
use crate::pieces::Pieces;

/// Tokens that a decoder of the general kind may hold back: no character and no word mark is longer.
const MAX_HELD_TOKENS: usize = 16;

/// One per answer. All that it appends, joined, is what the tokenizer makes of all tokens at once.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    ByteLevel(ByteLevel),
    General(General),
}

/// A token is its bytes, whatever stands before it.
#[derive(Clone, Debug)]
struct ByteLevel {
    pieces: Arc<Pieces>,
    /// The beginning of a character; at most three bytes between tokens.
    pending: Vec<u8>,
}

/// Where a token's text depends on its neighbours, the last tokens are decoded again with the new one, and what they
/// have become longer by is new. As many as it takes to make a whole character: a bounded window.
#[derive(Clone, Debug)]
struct General {
    tokenizer: Arc<Tokenizer>,
    window: Vec<u32>,
    /// Of the window, the tokens whose text is out.
    shown: usize,
    /// The text of these.
    shown_text: String,
}

impl Detokenizer {
    pub fn new(tokenizer: &Arc<Tokenizer>) -> Self {
        let way = match tokenizer.pieces() {
            Some(pieces) => Way::ByteLevel(ByteLevel { pieces: pieces.clone(), pending: Vec::new() }),
            None => Way::General(General {
                tokenizer: tokenizer.clone(),
                window: Vec::new(),
                shown: 0,
                shown_text: String::new(),
            }),
        };
        Self { way }
    }

    /// Appends what this token adds to the text, if that is certain.
    pub fn push(&mut self, token: u32, out: &mut String) {
        match &mut self.way {
            Way::ByteLevel(way) => way.push(token, out),
            Way::General(way) => way.push(token, out),
        }
    }

    /// Appends what was held back; called once, at the end.
    pub fn finish(&mut self, out: &mut String) {
        match &mut self.way {
            Way::ByteLevel(way) => way.finish(out),
            Way::General(way) => way.flush(out),
        }
    }
}

impl ByteLevel {
    fn push(&mut self, token: u32, out: &mut String) {
        let bytes = self.pieces.of(token);
        if self.pending.is_empty() {
            let rest = append(bytes, out);
            self.pending.extend_from_slice(rest);
        } else {
            self.pending.extend_from_slice(bytes);
            let rest = append(&self.pending, out).len();
            self.pending.drain(..self.pending.len() - rest);
        }
    }

    fn finish(&mut self, out: &mut String) {
        if !self.pending.is_empty() {
            out.push(char::REPLACEMENT_CHARACTER);
            self.pending.clear();
        }
    }
}

/// Appends the whole characters, with a replacement character for each invalid sequence; returns the beginning of one
/// that is not whole yet.
fn append<'b>(mut bytes: &'b [u8], out: &mut String) -> &'b [u8] {
    loop {
        match std::str::from_utf8(bytes) {
            Ok(text) => {
                out.push_str(text);
                return &[];
            }
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                out.push_str(std::str::from_utf8(valid).unwrap_or_default());
                let Some(invalid) = error.error_len() else { return rest };
                out.push(char::REPLACEMENT_CHARACTER);
                bytes = &rest[invalid..];
            }
        }
    }
}

impl General {
    fn push(&mut self, token: u32, out: &mut String) {
        self.window.push(token);
        let text = self.tokenizer.decode(&self.window);
        let whole = !text.ends_with(char::REPLACEMENT_CHARACTER);
        if (whole && text.len() > self.shown_text.len()) || self.window.len() - self.shown > MAX_HELD_TOKENS {
            self.show(&text, out);
        }
    }

    fn flush(&mut self, out: &mut String) {
        let text = self.tokenizer.decode(&self.window);
        self.show(&text, out);
    }

    /// The tokens shown last stay in the window, so that the next are decoded in their company.
    fn show(&mut self, text: &str, out: &mut String) {
        out.push_str(text.get(self.shown_text.len()..).unwrap_or_default());
        self.window.drain(..self.shown);
        self.shown = self.window.len();
        self.shown_text = self.tokenizer.decode(&self.window);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;
    use crate::tokenizer::tests::{SMALL_RANKS, byte_fallback, embedded, embedded_general};

    /// Composed already. Marks that stand on the letter before, emoji of several characters, letters of many bytes.
    const SCRIPTS: [&str; 12] = [
        "The quick brown fox, 1234.",
        "Ærøskøbing, naïve façade, Łódź",
        "Привет, мир! Καλημέρα κόσμε.",
        "你好，世界。こんにちは、カタカナ。안녕하세요",
        "مرحبا بالعالم بِسْمِ שָׁלוֹם",
        "नमस्ते क्षत्रिय தமிழ் ภาษาไทย",
        "👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪 1️⃣ 🧑🏿‍🚀",
        "q\u{323}\u{307} Z\u{351}\u{36b}\u{313} \u{1F600}\u{FE0F}",
        "\u{0}\u{7F}\u{80}\u{200B}\u{FEFF}\u{2028}\u{10FFFD}",
        "\r\n\t  \u{3000}\n\n",
        "𝕏𝕳 𠀀𠀁 𒀀",
        "",
    ];

    fn from_ranks() -> Arc<Tokenizer> {
        static ONCE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| Arc::new(Tokenizer::from_ranks(SMALL_RANKS).unwrap()));
        ONCE.clone()
    }

    fn streamed(tokenizer: &Arc<Tokenizer>, tokens: &[u32]) -> Vec<String> {
        let mut detokenizer = Detokenizer::new(tokenizer);
        let mut chunks: Vec<String> = Vec::new();
        for &token in tokens {
            let mut chunk = String::new();
            detokenizer.push(token, &mut chunk);
            chunks.push(chunk);
        }
        let mut last = String::new();
        detokenizer.finish(&mut last);
        chunks.push(last);
        chunks
    }

    #[test]
    fn a_character_comes_out_whole() {
        for tokenizer in [embedded(), embedded_general(), byte_fallback()] {
            let tokens = tokenizer.encode("é🦀!").unwrap();
            let chunks = streamed(&tokenizer, &tokens);
            assert_eq!(chunks.concat().trim_start(), "é🦀!");
            assert!(chunks.iter().all(|chunk| !chunk.contains(char::REPLACEMENT_CHARACTER)), "{chunks:?}");
            assert!(chunks.iter().any(String::is_empty), "the crab takes more than one token: {chunks:?}");
        }
    }

    #[test]
    fn an_unfinished_character_is_replaced_at_the_end() {
        for tokenizer in [embedded(), embedded_general(), byte_fallback()] {
            let mut tokens = tokenizer.encode("a🦀").unwrap();
            tokens.pop();
            assert!(streamed(&tokenizer, &tokens).concat().ends_with(char::REPLACEMENT_CHARACTER));
        }
    }

    #[test]
    fn texts_of_many_scripts_survive_the_way_there_and_back() {
        for tokenizer in [embedded(), embedded_general(), from_ranks()] {
            for text in SCRIPTS {
                let tokens = tokenizer.encode(text).unwrap();
                assert_eq!(tokenizer.decode(&tokens), text);
                assert_eq!(streamed(&tokenizer, &tokens).concat(), text);
                let pieces = tokens.iter().map(|&token| tokenizer.token_bytes(token));
                // Without knowing the decoder, part of a character has no bytes.
                if tokenizer.pieces().is_some() || text.is_ascii() {
                    assert_eq!(pieces.collect::<Vec<_>>().concat(), text.as_bytes());
                }
            }
        }
    }

    #[test]
    fn special_and_unknown_tokens_have_no_text() {
        let tokenizer = embedded();
        assert_eq!(streamed(&tokenizer, &[0, 1, 2, 2_048, u32::MAX]).concat(), "");
    }

    proptest! {
        #[test]
        fn streaming_gives_the_text_of_the_whole(tokens in prop::collection::vec(0_u32..2_100, 0..64)) {
            let tokenizer = embedded();
            prop_assert_eq!(streamed(&tokenizer, &tokens).concat(), tokenizer.decode_by_library(&tokens));
            prop_assert_eq!(tokenizer.decode(&tokens), tokenizer.decode_by_library(&tokens));
        }

        #[test]
        fn broken_bytes_are_replaced_as_in_the_whole(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), 0x80..0xC0_u8, 0xC0..=0xFF_u8], 0..40),
        ) {
            let tokenizer = from_ranks();
            let byte_of: std::collections::HashMap<Vec<u8>, u32> =
                (0..2_045).map(|token| (tokenizer.token_bytes(token).into_owned(), token)).collect();
            let tokens: Vec<u32> = bytes.iter().map(|byte| byte_of[[*byte].as_slice()]).collect();
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert_eq!(&streamed(&tokenizer, &tokens).concat(), &whole);
            prop_assert_eq!(&tokenizer.decode(&tokens), &whole);
        }

        #[test]
        fn any_text_survives_the_way_there_and_back(text in any::<String>()) {
            let tokenizer = embedded();
            let tokens = tokenizer.encode(&text).unwrap();
            prop_assert_eq!(streamed(&tokenizer, &tokens).concat(), text);
        }

        #[test]
        fn the_general_way_gives_the_text_of_the_whole(text in "[a-c é🦀日]{0,24}") {
            for tokenizer in [byte_fallback(), embedded_general()] {
                let tokens = tokenizer.encode(&text).unwrap();
                prop_assert_eq!(streamed(&tokenizer, &tokens).concat(), tokenizer.decode(&tokens));
            }
        }
    }
}
