//! The tokenizer that a GGUF file brings in its metadata, as plain data: whoever parses the file fills it in.

use crate::alphabet;
use crate::byte_level::{Added, ByteLevelBpe};
use crate::error::GgufError;

/// Qwen's have 152,064.
const MAX_TOKENS: usize = 1 << 20;
const MAX_VOCABULARY_BYTES: usize = 64 * 1024 * 1024;

/// Not trusted: everything is checked when a tokenizer is made of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GgufVocabulary {
    /// `tokenizer.ggml.model`.
    pub model: String,
    /// `tokenizer.ggml.pre`: how a text is cut before merging.
    pub pre: String,
    /// `tokenizer.ggml.tokens`, spelled in GPT-2's alphabet.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.merges`: two tokens with a space between, the most urgent first.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.token_type`, one for each token: 1 normal, 3 control, 4 user defined, 5 unused.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`: the end of a text.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.eot_token_id`: the end of a turn.
    pub eot: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`: whether `bos` stands before every prompt.
    pub add_bos: bool,
    /// `tokenizer.chat_template`.
    pub chat_template: Option<String>,
}

/// What a token is, in llama.cpp's numbers.
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

impl GgufVocabulary {
    /// A token's text, for the chat template; nothing if there is no such token.
    pub(crate) fn name(&self, token: Option<u32>) -> &str {
        token.and_then(|token| self.tokens.get(token as usize)).map_or("", String::as_str)
    }

    pub(crate) fn bpe(&self) -> Result<ByteLevelBpe, GgufError> {
        self.check_kind()?;
        self.check_size()?;
        let mut bpe = ByteLevelBpe::default();
        for (id, (name, &kind)) in (0_u32..).zip(self.tokens.iter().zip(&self.token_types)) {
            match kind {
                NORMAL if alphabet::read(name).is_none() => return Err(GgufError::Spelling { id, name: name.clone() }),
                NORMAL => {}
                CONTROL | USER_DEFINED => {
                    bpe.added.push(Added { content: name.clone(), special: kind == CONTROL });
                }
                // It stands where the model has a row and the tokenizer no token.
                UNUSED => continue,
                kind => return Err(GgufError::Kind { id, kind }),
            }
            if name.is_empty() {
                return Err(GgufError::Nameless { id });
            }
            if let Some(first) = bpe.vocab.insert(name.clone(), id) {
                return Err(GgufError::Duplicate { id, first, name: name.clone() });
            }
        }
        if let Some(byte) = alphabet::missing_byte(|name| bpe.vocab.contains_key(name)) {
            return Err(GgufError::MissingByte { byte });
        }
        let merges = self.merges.iter().enumerate().map(|(index, merge)| pair(&bpe, index, merge));
        bpe.merges = merges.collect::<Result<_, _>>()?;
        Ok(bpe)
    }

    /// The token that stands before every prompt.
    pub(crate) fn first(&self) -> Result<Option<u32>, GgufError> {
        match self.bos {
            None if self.add_bos => Err(GgufError::NoFirst),
            bos => Ok(bos.filter(|_| self.add_bos)),
        }
    }

    fn check_kind(&self) -> Result<(), GgufError> {
        if self.model != "gpt2" {
            return Err(GgufError::Model { model: self.model.clone() });
        }
        if self.pre != "qwen2" {
            return Err(GgufError::Pre { pre: self.pre.clone() });
        }
        Ok(())
    }

    fn check_size(&self) -> Result<(), GgufError> {
        let (tokens, types, merges) = (self.tokens.len(), self.token_types.len(), self.merges.len());
        if tokens != types {
            return Err(GgufError::Types { tokens, types });
        }
        if tokens > MAX_TOKENS || merges > MAX_TOKENS {
            return Err(GgufError::TooMany { tokens, merges, limit: MAX_TOKENS });
        }
        let bytes = self.tokens.iter().chain(&self.merges).map(String::len).sum();
        if bytes > MAX_VOCABULARY_BYTES {
            return Err(GgufError::TooLarge { bytes, limit: MAX_VOCABULARY_BYTES });
        }
        for (key, id) in [("bos_token_id", self.bos), ("eos_token_id", self.eos), ("eot_token_id", self.eot)] {
            if let Some(id) = id.filter(|&id| id as usize >= tokens) {
                return Err(GgufError::NoSuchToken { key, id, tokens });
            }
        }
        Ok(())
    }
}

/// Both tokens of a merge and what it makes must be tokens.
fn pair(bpe: &ByteLevelBpe, index: usize, merge: &str) -> Result<(String, String), GgufError> {
    let unknown = || GgufError::Merge { index, merge: merge.to_owned() };
    let (left, right) = merge.split_once(' ').ok_or_else(unknown)?;
    let known = [left, right, &format!("{left}{right}")].into_iter().all(|name| bpe.vocab.contains_key(name));
    if known { Ok((left.to_owned(), right.to_owned())) } else { Err(unknown()) }
}

#[cfg(test)]
pub(crate) mod tests;
