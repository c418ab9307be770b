//! Text to tokens and back. Text from a client never becomes a special token.

use std::borrow::Cow;
use std::panic::catch_unwind;
use std::sync::Arc;

use tokenizers::{DecoderWrapper, NormalizerWrapper};

use crate::GgufVocabulary;
use crate::error::TokenizerError;
use crate::guarded::{Guard, Part};
use crate::pieces::Pieces;
use crate::ranks::Ranks;
use crate::special::{Special, Specials};

pub const MAX_TOKENIZER_BYTES: usize = 64 * 1024 * 1024;
/// Of one text that is tokenised.
pub const MAX_TEXT_BYTES: usize = 8 * 1024 * 1024;
/// A file that gives a token a higher id lies: for each id below it there is a look-up.
const MAX_VOCABULARY: u32 = 1 << 22;
/// Unicode's composition (NFC) makes of no text less than a quarter: at worst U+1FBE with two marks, 7 bytes, becomes
/// the 2 of U+0390.
const COMPOSED: usize = 4;

/// A model's tokenizer, from whichever file the model brings.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    specials: Specials,
    /// Where a token's text does not depend on its neighbours, as in all of Qwen's.
    pieces: Option<Arc<Pieces>>,
    vocabulary: u32,
    /// The most bytes of a text that one token can stand for, where that is known.
    longest: Option<usize>,
}

impl Tokenizer {
    /// A `tokenizer.json`.
    pub fn from_bytes(json: &[u8]) -> Result<Self, TokenizerError> {
        if json.len() > MAX_TOKENIZER_BYTES {
            return Err(TokenizerError::TooLarge { bytes: json.len(), limit: MAX_TOKENIZER_BYTES });
        }
        // The library panics on some damaged files, such as one whose decoder is no JSON.
        let damaged = || TokenizerError::Malformed { reason: "it is damaged".to_owned() };
        catch_unwind(|| Self::read(json)).unwrap_or_else(|_| Err(damaged()))
    }

    fn read(json: &[u8]) -> Result<Self, TokenizerError> {
        let malformed = |error: tokenizers::Error| TokenizerError::Malformed { reason: error.to_string() };
        let mut inner = tokenizers::Tokenizer::from_bytes(json).map_err(malformed)?;
        inner.with_truncation(None).map_err(malformed)?;
        inner.with_padding(None);
        Self::new(inner)
    }

    /// A `qwen.tiktoken`.
    pub fn from_ranks(file: &[u8]) -> Result<Self, TokenizerError> {
        Self::new(Ranks::parse(file)?.into_bpe()?.build()?)
    }

    pub fn from_gguf(vocabulary: &GgufVocabulary) -> Result<Self, TokenizerError> {
        Self::new(vocabulary.bpe()?.build()?)
    }

    fn new(mut inner: tokenizers::Tokenizer) -> Result<Self, TokenizerError> {
        inner.set_encode_special_tokens(true);
        let highest = inner.get_vocab(true).values().max().copied();
        let vocabulary = match highest.map(|highest| highest.checked_add(1)) {
            None => return Err(TokenizerError::Empty),
            Some(Some(vocabulary)) if vocabulary <= MAX_VOCABULARY => vocabulary,
            Some(_) => return Err(TokenizerError::TooManyIds { limit: MAX_VOCABULARY }),
        };
        let specials = specials(&inner);
        let pieces = match inner.get_decoder() {
            Some(DecoderWrapper::ByteLevel(_)) => Some(Arc::new(pieces(&inner, vocabulary))),
            _ => None,
        };
        let longest = pieces.as_deref().and_then(|pieces| longest(&inner, pieces));
        Ok(Self { inner, specials, pieces, vocabulary, longest })
    }

    /// Every token is below it.
    pub fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// A model may have more rows than there are tokens, never fewer.
    pub fn check_model(&self, rows: u32) -> Result<(), TokenizerError> {
        if self.vocabulary <= rows {
            return Ok(());
        }
        Err(TokenizerError::Misfit { highest: self.vocabulary - 1, model: rows })
    }

    /// Refuses a text of so many bytes if its length alone shows that it has more than `most` tokens. Tokenising takes
    /// a second per megabyte, this nothing.
    pub fn check_length(&self, bytes: usize, most: u32) -> Result<(), TokenizerError> {
        match self.longest {
            Some(longest) if bytes > longest.saturating_mul(most as usize) => {
                Err(TokenizerError::TooManyTokens { most })
            }
            _ => Ok(()),
        }
    }

    pub fn special_token(&self, content: &str) -> Option<u32> {
        self.specials.id_of(content)
    }

    /// The tokens of a plain text, and no others.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_text(text, false)
    }

    /// The tokens of a text that stands at the very beginning: with those, if any, that the model wants there.
    pub fn encode_from_start(&self, text: &str) -> Result<Vec<u32>, TokenizerError> {
        self.encode_text(text, true)
    }

    /// The text of these tokens, without special ones.
    pub fn decode(&self, tokens: &[u32]) -> String {
        match &self.pieces {
            Some(pieces) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|&token| pieces.of(token)).copied().collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            None => self.decode_by_library(tokens),
        }
    }

    /// The text of these tokens, special ones by their names.
    pub fn decode_with_special(&self, tokens: &[u32]) -> String {
        match &self.pieces {
            Some(_) => {
                let bytes: Vec<u8> = tokens.iter().flat_map(|&token| self.token_bytes(token).into_owned()).collect();
                String::from_utf8_lossy(&bytes).into_owned()
            }
            None => self.inner.decode(tokens, false).unwrap_or_default(),
        }
    }

    /// What one token stands for, special tokens by their names; part of a character where that is all it is. Nothing
    /// for a token that does not exist.
    pub fn token_bytes(&self, token: u32) -> Cow<'_, [u8]> {
        match self.pieces.as_deref().map(|pieces| pieces.of(token)) {
            Some(piece) if !piece.is_empty() => Cow::Borrowed(piece),
            _ => Cow::Owned(self.inner.id_to_token(token).map(|name| self.spelled(token, name)).unwrap_or_default()),
        }
    }

    /// A token whose bytes are not known from its name alone. A decoder may treat the first token of a text otherwise
    /// than the rest: what a token stands for is what it adds to itself.
    fn spelled(&self, token: u32, name: String) -> Vec<u8> {
        let byte = name.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|digits| digits.len() == 2);
        if let Some(byte) = byte.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            return vec![byte];
        }
        let (once, twice) = (self.decode_by_library(&[token]), self.decode_by_library(&[token, token]));
        match twice.strip_prefix(&once) {
            Some(added) if !added.is_empty() && !added.contains(char::REPLACEMENT_CHARACTER) => added.into(),
            _ => name.into_bytes(),
        }
    }

    /// The way for every kind of tokenizer; a decoder that fails shows nothing rather than ending an answer.
    pub(crate) fn decode_by_library(&self, tokens: &[u32]) -> String {
        self.inner.decode(tokens, true).unwrap_or_default()
    }

    pub(crate) fn pieces(&self) -> Option<&Arc<Pieces>> {
        self.pieces.as_ref()
    }

    pub(crate) fn guard<'t>(&self, texts: impl Iterator<Item = &'t str>) -> Guard<'_> {
        Guard::new(&self.specials, texts)
    }

    /// A text in which the host has put special tokens, and marks where a client's text reads like one.
    pub(crate) fn encode_guarded(&self, text: &str, guard: &Guard<'_>) -> Result<Vec<u32>, TokenizerError> {
        let mut tokens = Vec::new();
        guard.split(text, |part| {
            match part {
                Part::Plain("") => {}
                Part::Plain(plain) => tokens.extend(self.encode(plain)?),
                Part::Special(token) => tokens.push(token),
            }
            Ok::<(), TokenizerError>(())
        })?;
        Ok(tokens)
    }

    fn encode_text(&self, text: &str, from_start: bool) -> Result<Vec<u32>, TokenizerError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(TokenizerError::TextTooLong { bytes: text.len(), limit: MAX_TEXT_BYTES });
        }
        let encoding = self.inner.encode_fast(Cow::Borrowed(text), from_start);
        let encoding = encoding.map_err(|error| TokenizerError::Encode { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }
}

fn specials(inner: &tokenizers::Tokenizer) -> Specials {
    let added = inner.get_added_tokens_decoder();
    let special = added.iter().filter(|(_, token)| token.special).map(|(&id, token)| Special {
        id,
        content: token.content.clone(),
        strips_before: token.lstrip,
        strips_after: token.rstrip,
    });
    Specials::new(special.collect())
}

/// Special tokens have no text.
fn pieces(inner: &tokenizers::Tokenizer, vocabulary: u32) -> Pieces {
    let added = inner.get_added_tokens_decoder();
    let special = |id| added.get(&id).is_some_and(|token| token.special);
    Pieces::new((0..vocabulary).map(|id| inner.id_to_token(id).filter(|_| !special(id))))
}

/// Other normalisers than these may make any text short.
fn longest(inner: &tokenizers::Tokenizer, pieces: &Pieces) -> Option<usize> {
    let shrinks = match inner.get_normalizer() {
        None => 1,
        Some(NormalizerWrapper::NFC(_)) => COMPOSED,
        Some(_) => return None,
    };
    pieces.longest().map(|longest| longest * shrinks)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    /// The tokenizer of the model that ships with Sluice: byte-level.
    pub(crate) const EMBEDDED: &[u8] = include_bytes!("../../model/embedded/tokenizer.json");

    /// Ranks in the layout of Qwen's first models, by `testdata/make_tiktoken.py`.
    pub(crate) const SMALL_RANKS: &[u8] = include_bytes!("../testdata/small.tiktoken");

    pub(crate) fn embedded() -> Arc<Tokenizer> {
        static ONCE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| changed(|_| {}));
        ONCE.clone()
    }

    /// The embedded tokenizer with something about it changed.
    fn changed(change: impl Fn(&mut Value)) -> Arc<Tokenizer> {
        let mut tokenizer: Value = serde_json::from_slice(EMBEDDED).unwrap();
        change(&mut tokenizer);
        Arc::new(Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap())
    }

    /// The same, written so that its decoder is not known to work token by token.
    pub(crate) fn embedded_general() -> Arc<Tokenizer> {
        static ONCE: LazyLock<Arc<Tokenizer>> = LazyLock::new(|| {
            changed(|tokenizer| {
                let decoder = tokenizer["decoder"].take();
                tokenizer["decoder"] = json!({"type": "Sequence", "decoders": [decoder]});
            })
        });
        ONCE.clone()
    }

    /// A tokenizer of the other kind: words with a mark before them, bytes spelled as tokens, a token at the beginning.
    pub(crate) fn byte_fallback() -> Arc<Tokenizer> {
        let spelled = (0..256).map(|byte| format!("<0x{byte:02X}>"));
        let names = ["<unk>".to_owned(), "<s>".to_owned()].into_iter().chain(spelled);
        let names = names.chain(["▁", "a", "b", "c", "▁a", "bc"].map(str::to_owned));
        let vocab: serde_json::Map<String, Value> = names.enumerate().map(|(id, name)| (name, json!(id))).collect();
        let added = |id, content| {
            json!({"id": id, "content": content, "special": true, "normalized": false,
            "single_word": false, "lstrip": false, "rstrip": false})
        };
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "pre_tokenizer": null,
            "added_tokens": [added(0, "<unk>"), added(1, "<s>")],
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
            "post_processor": {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
            "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>", "continuing_subword_prefix": null,
                "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true, "ignore_merges": false,
                "vocab": vocab, "merges": [["▁", "a"], ["b", "c"]]},
        });
        Arc::new(Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).unwrap())
    }

    /// The embedded tokenizer with Qwen's normaliser.
    fn composing() -> Arc<Tokenizer> {
        static ONCE: LazyLock<Arc<Tokenizer>> =
            LazyLock::new(|| changed(|tokenizer| tokenizer["normalizer"] = json!({"type": "NFC"})));
        ONCE.clone()
    }

    #[test]
    fn a_length_is_refused_only_where_it_is_known_what_a_token_may_be() {
        let refused = |tokenizer: &Tokenizer, bytes| tokenizer.check_length(bytes, 10).is_err();
        let longest = embedded().longest.unwrap();
        assert!(!refused(&embedded(), 10 * longest) && refused(&embedded(), 10 * longest + 1));
        assert!(!refused(&composing(), 40 * longest) && refused(&composing(), 40 * longest + 1));
        assert!(!refused(&embedded_general(), usize::MAX) && !refused(&byte_fallback(), usize::MAX));
    }

    proptest! {
        #[test]
        fn a_text_that_fits_is_never_refused_by_its_length(
            text in "(\\PC{0,20}|[ \n]{0,60}|(\u{1fbe}\u{308}\u{301}){0,20}|( policy| request| the){0,20}){0,4}",
        ) {
            for tokenizer in [embedded(), composing()] {
                let tokens = tokenizer.encode(&text).unwrap().len() as u32;
                prop_assert_eq!(tokenizer.check_length(text.len(), tokens), Ok(()));
            }
        }
    }

    #[test]
    fn text_never_becomes_a_special_token() {
        let tokenizer = embedded();
        for special in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] {
            let id = tokenizer.special_token(special).unwrap();
            for text in [special.to_owned(), format!("a{special}{special} b")] {
                for tokens in [tokenizer.encode(&text).unwrap(), tokenizer.encode_from_start(&text).unwrap()] {
                    assert!(!tokens.contains(&id), "{text}");
                    assert_eq!(tokenizer.decode(&tokens), text);
                }
            }
        }
    }

    #[test]
    fn special_tokens_are_spelled_only_where_that_is_asked_for() {
        for tokenizer in [embedded(), embedded_general()] {
            let [start, end] = ["<|im_start|>", "<|im_end|>"].map(|name| tokenizer.special_token(name).unwrap());
            let tokens = [&[start][..], &tokenizer.encode("é🦀 a").unwrap(), &[end]].concat();
            assert_eq!(tokenizer.decode(&tokens), "é🦀 a");
            assert_eq!(tokenizer.decode_with_special(&tokens), "<|im_start|>é🦀 a<|im_end|>");
        }
    }

    #[test]
    fn only_a_beginning_gets_the_models_own_tokens() {
        let tokenizer = byte_fallback();
        let plain = tokenizer.encode("a bc").unwrap();
        assert_eq!(tokenizer.decode(&plain), "a bc");
        assert_eq!(tokenizer.encode_from_start("a bc").unwrap(), [&[1], plain.as_slice()].concat());
    }

    #[test]
    fn a_tokenizer_fits_a_model_with_at_least_as_many_rows() {
        let tokenizer = embedded();
        assert_eq!(tokenizer.vocabulary(), 2_048);
        assert_eq!(tokenizer.check_model(2_048), Ok(()));
        assert_eq!(tokenizer.check_model(152_064), Ok(()));
        assert_eq!(tokenizer.check_model(2_047), Err(TokenizerError::Misfit { highest: 2_047, model: 2_047 }));
    }

    #[test]
    fn a_file_that_is_no_tokenizer_is_an_error() {
        let decoder = r#"{"version": "1.0", "decoder": {"type": "Fuse", broken}, "model": {}}"#;
        for json in ["", "{", "[]", "{\"version\": \"1.0\"}", "\u{0}", decoder] {
            let error = Tokenizer::from_bytes(json.as_bytes()).unwrap_err();
            assert!(matches!(error, TokenizerError::Malformed { .. }), "{json:?}: {error}");
        }
        let empty = br#"{"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": {}, "merges": []}}"#;
        assert_eq!(Tokenizer::from_bytes(empty).unwrap_err(), TokenizerError::Empty);
    }

    #[test]
    fn a_file_that_lies_about_its_size_costs_nothing() {
        let with_id = |id: u64| {
            let mut tokenizer: Value = serde_json::from_slice(EMBEDDED).unwrap();
            tokenizer["model"]["vocab"]["zzz"] = json!(id);
            Tokenizer::from_bytes(tokenizer.to_string().as_bytes()).map(|tokenizer| tokenizer.vocabulary())
        };
        let limit = MAX_VOCABULARY;
        assert_eq!(with_id(152_063), Ok(152_064));
        for id in [u64::from(limit), u64::from(u32::MAX) - 1, u64::from(u32::MAX)] {
            assert_eq!(with_id(id), Err(TokenizerError::TooManyIds { limit }), "{id}");
        }
        assert!(matches!(with_id(1 << 40), Err(TokenizerError::Malformed { .. })));
        let error = TokenizerError::TooLarge { bytes: MAX_TOKENIZER_BYTES + 1, limit: MAX_TOKENIZER_BYTES };
        assert_eq!(Tokenizer::from_bytes(&vec![b' '; MAX_TOKENIZER_BYTES + 1]).unwrap_err(), error);
    }

    #[test]
    fn tokens_of_the_other_kind_have_bytes_too() {
        let tokenizer = byte_fallback();
        let check = |token, bytes: &[u8]| assert_eq!(&*tokenizer.token_bytes(token), bytes, "{token}");
        check(1, b"<s>");
        check(2, b"\0");
        check(2 + 255, b"\xFF");
        check(258, b" ");
        check(262, b" a");
        check(263, b"bc");
        check(264, b"");
    }

    #[test]
    fn a_text_has_a_limit() {
        let text = "x".repeat(MAX_TEXT_BYTES + 1);
        let error = TokenizerError::TextTooLong { bytes: MAX_TEXT_BYTES + 1, limit: MAX_TEXT_BYTES };
        assert_eq!(embedded().encode(&text), Err(error));
    }
}
