//! Reads `qwen.tiktoken`, the tokenizer of Qwen's first models: on each line a token in base64 and its rank.

use std::collections::HashMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::alphabet::spell;
use crate::byte_level::{Added, ByteLevelBpe};
use crate::error::RanksError;
use crate::merges::parents;

/// Qwen's has 2.6 million.
pub const MAX_RANKS_BYTES: usize = 8 * 1024 * 1024;
/// Qwen's longest has 128; what it takes to find a token's parents grows with the square.
const MAX_TOKEN_BYTES: usize = 256;
/// Special tokens that follow the ranks and have no meaning yet: `<|extra_0|>` and so on.
const EXTRAS: usize = 205;
/// The special tokens that follow the ranks and have one.
const SPECIALS: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];

/// In the order of their ranks, which are their ids too.
#[derive(Debug)]
pub(crate) struct Ranks {
    tokens: Vec<Vec<u8>>,
}

impl Ranks {
    pub(crate) fn parse(file: &[u8]) -> Result<Self, RanksError> {
        if file.len() > MAX_RANKS_BYTES {
            return Err(RanksError::TooLarge { bytes: file.len(), limit: MAX_RANKS_BYTES });
        }
        let file = file.trim_ascii_end();
        if file.is_empty() {
            return Err(RanksError::Empty);
        }
        let lines = file.split(|&byte| byte == b'\n').enumerate();
        let tokens = lines.map(|(rank, line)| token(rank, line.trim_ascii())).collect::<Result<_, _>>()?;
        Ok(Self { tokens })
    }

    /// The same tokenizer, with the merges that the ranks stand for.
    pub(crate) fn into_bpe(self) -> Result<ByteLevelBpe, RanksError> {
        let ranks = self.by_token()?;
        let names: Vec<String> = self.tokens.iter().map(|token| spell(token)).collect();
        let mut merges = Vec::with_capacity(names.len());
        for (rank, token) in self.tokens.iter().enumerate().filter(|(_, token)| token.len() > 1) {
            let (left, right) =
                parents(token, rank as u32, &ranks).ok_or(RanksError::Orphan { line: rank as u64 + 1 })?;
            merges.push((names[left as usize].clone(), names[right as usize].clone()));
        }
        let added: Vec<Added> = specials().map(|content| Added { content, special: true }).collect();
        let all = names.into_iter().chain(added.iter().map(|token| token.content.clone()));
        Ok(ByteLevelBpe { vocab: all.zip(0..).collect(), merges, added })
    }

    /// No token is there twice, every byte is one, and none is also the name of a special token.
    fn by_token(&self) -> Result<HashMap<&[u8], u32>, RanksError> {
        let mut ranks = HashMap::with_capacity(self.tokens.len());
        for (token, rank) in self.tokens.iter().zip(0_u32..) {
            if let Some(first) = ranks.insert(token.as_slice(), rank) {
                return Err(RanksError::Duplicate { line: u64::from(rank) + 1, first: u64::from(first) + 1 });
            }
        }
        if let Some(byte) = (0..=255).find(|byte| !ranks.contains_key([*byte].as_slice())) {
            return Err(RanksError::MissingByte { byte });
        }
        for name in specials() {
            if let Some(rank) = ranks.get(name.as_bytes()) {
                return Err(RanksError::Special { line: u64::from(*rank) + 1, name });
            }
        }
        Ok(ranks)
    }
}

/// In the order of their ids.
fn specials() -> impl Iterator<Item = String> {
    let extras = (0..EXTRAS).map(|extra| format!("<|extra_{extra}|>"));
    SPECIALS.into_iter().map(str::to_owned).chain(extras)
}

/// The token of the line on which this rank is expected.
fn token(expected: usize, line: &[u8]) -> Result<Vec<u8>, RanksError> {
    let number = expected as u64 + 1;
    let fields: Option<(&str, &str)> = std::str::from_utf8(line).ok().and_then(|line| line.split_once([' ', '\t']));
    let (token, rank) = fields.ok_or(RanksError::NoPair { line: number })?;
    let rank: u64 = rank.trim().parse().map_err(|_| RanksError::NoPair { line: number })?;
    if rank != expected as u64 {
        return Err(RanksError::Order { line: number, rank, expected: expected as u64 });
    }
    let token = BASE64.decode(token).map_err(|_| RanksError::NotBase64 { line: number })?;
    match token.len() {
        1..=MAX_TOKEN_BYTES => Ok(token),
        bytes => Err(RanksError::Length { line: number, bytes, limit: MAX_TOKEN_BYTES }),
    }
}

#[cfg(test)]
mod tests;
