//! One step's work for an executor, and what comes back.

use std::sync::Arc;

use crate::{BlockId, Nanos, RequestId, SampledToken, SamplingParams, ScoredToken};

/// Sequences of different lengths side by side, without padding. Rows are contiguous runs of tokens.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    pub step: u64,
    pub rows: Vec<Row>,
    /// The tokens of all rows, row after row.
    pub tokens: Vec<TokenSource>,
    /// The block tables of all rows, row after row.
    pub blocks: Vec<BlockId>,
    /// What the rows that penalise tokens have had so far, row after row.
    pub history: Vec<u32>,
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
    pub draw: Option<Draw>,
    /// Set where the client wants to know how likely its prompt is.
    pub score: Option<Score>,
}

/// How the next token is drawn.
#[derive(Clone, Debug)]
pub struct Draw {
    pub params: Arc<SamplingParams>,
    /// Where the sequence's known tokens lie in `Batch::history`, and how many they are: the prompt, then what was
    /// drawn. None unless [`SamplingParams::penalises`]. A token of [`TokenSource::PreviousStep`] counts too, and is
    /// not among them.
    pub history_offset: usize,
    pub history_tokens: usize,
    /// Tokens that must not be drawn yet: those that would end the answer before it has its least length.
    pub forbidden: Option<Arc<[u32]>>,
}

/// The run's logits say how likely each token after one of the run's was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Score {
    /// How many alternatives to report with each token.
    pub alternatives: u8,
    /// The prompt's token behind the run; `None` where the prompt ends with it.
    pub next: Option<u32>,
}

/// Where a token to compute comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TokenSource {
    Known(u32),
    /// Drawn for this sequence by the step before, which has not been collected yet.
    PreviousStep,
}

/// What came of a step.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StepOutput {
    /// One entry per row that had `draw` set, in the order of the rows.
    pub sampled: Vec<(RequestId, Sampled)>,
    /// One entry per row that had `score` set, in the order of the rows: the run's tokens but its first, then `next`.
    pub scored: Vec<(RequestId, Scored)>,
    pub times: StepTimes,
}

/// A row's outcome. A row can fail alone, its logits not being numbers.
#[derive(Clone, PartialEq, Debug)]
pub enum Sampled {
    Token(SampledToken),
    Failed(String),
}

#[derive(Clone, PartialEq, Debug)]
pub enum Scored {
    Tokens(Vec<ScoredToken>),
    Failed(String),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StepTimes {
    /// When it was submitted; where it waited behind another step, when it began.
    pub submitted: Nanos,
    pub finished: Nanos,
    /// Time that the device computed.
    pub device: Nanos,
    /// What the roofline model makes of its bandwidth and arithmetic, where they are known.
    pub roof: Option<Nanos>,
}

impl Draw {
    /// Tokens that may be forbidden: executors make room for so many.
    pub const MOST_FORBIDDEN: usize = 256;

    /// By the logits and the parameters alone.
    pub fn new(params: SamplingParams) -> Self {
        Self { params: Arc::new(params), history_offset: 0, history_tokens: 0, forbidden: None }
    }
}

impl Batch {
    pub fn tokens_of(&self, row: &Row) -> &[TokenSource] {
        &self.tokens[row.token_offset..row.token_offset + row.tokens as usize]
    }

    pub fn blocks_of(&self, row: &Row) -> &[BlockId] {
        &self.blocks[row.block_offset..row.block_offset + row.block_count]
    }
}
