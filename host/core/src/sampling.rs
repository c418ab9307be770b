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
    /// 1 changes nothing; divides or multiplies the logits of all tokens of the prompt and the answer.
    pub repetition_penalty: f32,
    /// 0 changes nothing; taken from the logit of every token that the answer has.
    pub presence_penalty: f32,
    /// 0 changes nothing; taken from a token's logit as often as the answer has it.
    pub frequency_penalty: f32,
    /// Added to the logits of these tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Together with the position it decides every draw, whatever else is in the batch.
    pub seed: u64,
    /// How many alternatives to report with each token; `None` reports no log-probabilities.
    pub logprobs: Option<u8>,
}

impl SamplingParams {
    /// Entries that `logit_bias` may have: executors make room for so many.
    pub const MOST_BIASES: usize = 1024;

    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
            logprobs: None,
        }
    }

    /// Whether a draw depends on which tokens came before.
    pub fn penalises(&self) -> bool {
        self.repetition_penalty != 1.0 || self.presence_penalty != 0.0 || self.frequency_penalty != 0.0
    }
}

/// A token and the natural logarithm of its probability before temperature and truncation.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Logprob {
    pub token: u32,
    pub logprob: f32,
}

/// A token that was given, and how likely the model held it where it stands.
#[derive(Clone, PartialEq, Debug)]
pub struct ScoredToken {
    pub token: u32,
    pub logprob: f32,
    /// The most likely tokens in its place, best first.
    pub top: Vec<Logprob>,
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
