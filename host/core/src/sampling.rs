//! How the next token is drawn, and what was drawn.

/// One request's sampling parameters, with the meanings and ranges of vLLM's.
#[derive(Clone, PartialEq, Debug)]
pub struct SamplingParams {
    /// 0 is greedy.
    pub temperature: f32,
    /// 1 keeps every token.
    pub top_p: f32,
    /// 0 keeps every token.
    pub top_k: u32,
    /// 0 keeps every token.
    pub min_p: f32,
    /// Together with the position it decides every draw, whatever else is in the batch.
    pub seed: u64,
    /// How many alternatives to report with each token; `None` reports no log-probabilities.
    pub logprobs: Option<u8>,
}

impl SamplingParams {
    pub fn greedy() -> Self {
        Self { temperature: 0.0, top_p: 1.0, top_k: 0, min_p: 0.0, seed: 0, logprobs: None }
    }
}

/// A token and the natural logarithm of its probability before temperature and truncation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Logprob {
    pub token: u32,
    pub logprob: f32,
}

#[derive(Clone, PartialEq, Debug)]
pub struct SampledToken {
    pub token: u32,
    /// Of the chosen token, where the request asked for it.
    pub logprob: Option<f32>,
    /// The most likely tokens, best first.
    pub top: Vec<Logprob>,
}

impl SampledToken {
    pub fn plain(token: u32) -> Self {
        Self { token, logprob: None, top: Vec::new() }
    }
}
