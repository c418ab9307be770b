//! One step's work for an executor, and what comes back.

use std::sync::Arc;

use crate::{BlockId, Nanos, RequestId, SampledToken, SamplingParams};

/// Sequences of different lengths side by side, without padding. Rows are contiguous runs of tokens.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub step: u64,
    pub rows: Vec<Row>,
    /// The tokens of all rows, row after row.
    pub tokens: Vec<TokenSource>,
    /// The block tables of all rows, row after row.
    pub blocks: Vec<BlockId>,
}

/// A run of one sequence's tokens: `tokens` of them, from position `start` on.
#[derive(Clone, Debug)]
pub struct Row {
    pub sequence: RequestId,
    /// The first token's position; everything before it is in the cache.
    pub start: u32,
    pub tokens: u32,
    /// Tokens of the prompt that the request came with: what a model chose by it stays, however much was generated
    /// since, and when all of it is computed again.
    pub prompt_tokens: u32,
    /// Where this row's tokens begin in `Batch::tokens`.
    pub token_offset: usize,
    /// Where this row's block table begins in `Batch::blocks`, and how long it is. It covers `start + tokens`.
    pub block_offset: usize,
    pub block_count: usize,
    /// Set when the run ends with the last token that is known: the next one is drawn from its logits.
    pub sample: Option<Arc<SamplingParams>>,
}

/// Where a token to compute comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenSource {
    Known(u32),
    /// Drawn for this sequence by the step before, which has not been collected yet.
    PreviousStep,
}

/// What a step drew, one entry per row that had `sample` set, in the order of the rows.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StepOutput {
    pub sampled: Vec<(RequestId, Sampled)>,
    pub times: StepTimes,
}

/// A row's outcome. A row can fail alone, its logits not being numbers.
#[derive(Clone, PartialEq, Debug)]
pub enum Sampled {
    Token(SampledToken),
    Failed(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StepTimes {
    pub submitted: Nanos,
    pub finished: Nanos,
    /// Time that the device computed.
    pub device: Nanos,
}

impl Batch {
    pub fn tokens_of(&self, row: &Row) -> &[TokenSource] {
        &self.tokens[row.token_offset..row.token_offset + row.tokens as usize]
    }

    pub fn blocks_of(&self, row: &Row) -> &[BlockId] {
        &self.blocks[row.block_offset..row.block_offset + row.block_count]
    }
}
