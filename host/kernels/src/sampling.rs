//! What a draw is told, and what it answers, byte for byte as the kernels read and write them.

use bytemuck::{Pod, Zeroable};

/// How the token after one row of logits is drawn.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
pub struct SampleRow {
    /// Below 1e-5 the most likely token is taken.
    pub temperature: f32,
    /// 1 keeps everything.
    pub top_p: f32,
    /// 0 keeps everything.
    pub min_p: f32,
    pub repetition_penalty: f32,
    pub presence_penalty: f32,
    pub frequency_penalty: f32,
    /// 0 keeps everything.
    pub top_k: i32,
    /// How many alternatives to report, at most [`TOP`]; -1: no log-probabilities at all.
    pub logprobs: i32,
    pub seed: u64,
    /// Into the lists of biases.
    pub bias_first: i32,
    pub bias_count: i32,
    /// Into the list of forbidden tokens.
    pub forbidden_first: i32,
    pub forbidden_count: i32,
    /// Where the tokens so far are counted; -1 where nothing is penalised.
    pub slot: i32,
    /// A token that is not drawn but only scored: its log-probability is what is asked for. -1: a token is drawn.
    pub given: i32,
}

/// What came of a draw.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Debug, Pod, Zeroable)]
pub struct SampleResult {
    /// One of [`DRAWN`], [`NOT_A_NUMBER`] and [`ALL_FORBIDDEN`].
    pub status: i32,
    /// The token, or the index of the first logit that is no number.
    pub token: i32,
    /// Of the token, by the logits as they came.
    pub logprob: f32,
    pub unused: i32,
}

pub const DRAWN: i32 = 0;
pub const NOT_A_NUMBER: i32 = 1;
pub const ALL_FORBIDDEN: i32 = 2;

/// Alternatives that a row has room for.
pub const TOP: usize = 20;

/// The top bit of a count: the token is in the prompt. The others: how often it is in the answer.
pub const IN_PROMPT: u32 = 1 << 31;

/// A sequence whose tokens are counted anew: `prompt` tokens of the list from `first` on, then `answer`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Pod, Zeroable)]
pub struct CountSpan {
    pub first: i32,
    pub prompt: i32,
    pub answer: i32,
    pub slot: i32,
}

impl SampleRow {
    /// The most likely token, and nothing else.
    pub fn greedy() -> Self {
        Self { top_p: 1.0, repetition_penalty: 1.0, logprobs: -1, slot: -1, given: -1, ..Self::zeroed() }
    }
}
