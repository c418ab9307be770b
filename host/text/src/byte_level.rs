//! The tokenizer of all of Qwen's models, built from its tokens and merges, wherever these were written down.

use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior};

use crate::error::TokenizerError;

/// Where Qwen's models cut a text before merging: contractions, words, single digits, punctuation, line breaks, spaces.
pub(crate) const QWEN_SPLIT: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Tokens are spelled in GPT-2's alphabet.
#[derive(Debug, Default)]
pub(crate) struct ByteLevelBpe {
    /// Added tokens are in it too, spelled as they are.
    pub(crate) vocab: Vocab,
    /// The most urgent first; each merges two tokens of `vocab` to a third.
    pub(crate) merges: Vec<(String, String)>,
    pub(crate) added: Vec<Added>,
}

/// A token that no merge makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Added {
    pub(crate) content: String,
    /// It has a meaning beyond its text, and a client's text never becomes it.
    pub(crate) special: bool,
}

impl ByteLevelBpe {
    pub(crate) fn build(self) -> Result<tokenizers::Tokenizer, TokenizerError> {
        let fault = |error: tokenizers::Error| TokenizerError::Build { reason: error.to_string() };
        let model = BPE::builder().vocab_and_merges(self.vocab, self.merges).build().map_err(fault)?;
        let pattern = SplitPattern::Regex(QWEN_SPLIT.to_owned());
        let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false).map_err(fault)?;
        let bytes = ByteLevel::new(false, false, false);
        let steps = vec![PreTokenizerWrapper::Split(split), PreTokenizerWrapper::ByteLevel(bytes)];
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(NFC));
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        tokenizer.with_decoder(Some(bytes));
        let added = self.added.into_iter();
        let added = added.map(|token| AddedToken::from(token.content, token.special).normalized(false));
        tokenizer.add_tokens(&added.collect::<Vec<_>>());
        Ok(tokenizer)
    }
}
