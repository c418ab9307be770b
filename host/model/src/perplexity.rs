//! How well a model foretells a text: the measure by which quantisations are compared.

use std::ops::Range;
use std::sync::Arc;

use sluice_core::{Batch, BlockId, RequestId, Row, TokenSource};

use crate::kv::KvCache;
use crate::logprobs::log_sum_exp;
use crate::memory::NoMemory;
use crate::model::Model;
use crate::scratch::Scratch;
use crate::step::{ModelLimits, Step, StepLimits};

/// Positions that are computed in one step.
const CHUNK: u32 = 64;
const BLOCK_TOKENS: u32 = 16;

/// exp(−Σ ln p(token | all before it) / tokens) over every token that was scored.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Perplexity {
    pub tokens: u64,
    negative_log_likelihood: f64,
}

/// Scores texts with one model. A text longer than the window is scored in windows that overlap by half, so that each
/// token but the first ones sees at least half a window of what came before it.
pub struct Scorer {
    model: Arc<dyn Model>,
    window: usize,
    limits: StepLimits,
    model_limits: ModelLimits,
    cache: KvCache,
    scratch: Scratch,
    step: Step,
    /// The indices of a step's tokens: all of them have logits.
    tokens: Vec<usize>,
}

/// Why a text has no perplexity.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ScoreError {
    #[error(
        "the model's scores after token {position} are not numbers: the weights are damaged, or a format overflowed"
    )]
    NotANumber { position: usize },
    #[error("token {token} at {position} is not in the vocabulary of {vocab}: the tokenizer is another model's")]
    Token { token: u32, position: usize, vocab: u32 },
}

impl Perplexity {
    /// None where nothing was scored.
    pub fn value(&self) -> Option<f64> {
        (self.tokens > 0).then(|| (self.negative_log_likelihood / self.tokens as f64).exp())
    }
}

impl Scorer {
    /// `window` is bounded by the model's length.
    pub fn new(model: Arc<dyn Model>, window: u32) -> Result<Self, NoMemory> {
        let info = model.info();
        let size = info.dimensions;
        let window = window.clamp(2, info.max_model_len.max(2));
        let limits = StepLimits {
            blocks: window.div_ceil(BLOCK_TOKENS),
            block_tokens: BLOCK_TOKENS,
            max_tokens: CHUNK,
            max_rows: CHUNK,
        };
        Ok(Self {
            window: window as usize,
            model_limits: ModelLimits { vocab: size.vocab as u32, max_model_len: info.max_model_len },
            cache: KvCache::new(&size, limits.blocks, limits.block_tokens)?,
            scratch: Scratch::new(&size, CHUNK, CHUNK)?,
            step: Step::new(&limits),
            tokens: (0..CHUNK as usize).collect(),
            limits,
            model,
        })
    }

    /// Adds one text's tokens, all but the first, to `sum`.
    pub fn score(&mut self, tokens: &[u32], sum: &mut Perplexity) -> Result<(), ScoreError> {
        let vocab = self.model_limits.vocab;
        if let Some(position) = tokens.iter().position(|token| *token >= vocab) {
            return Err(ScoreError::Token { token: tokens[position], position, vocab });
        }
        let mut scored = 1;
        while scored < tokens.len() {
            let end = tokens.len().min(if scored == 1 { self.window } else { scored + self.window / 2 });
            let start = end.saturating_sub(self.window);
            let losses = self.losses(&tokens[start..end], scored - start);
            let loss = losses.map_err(|position| ScoreError::NotANumber { position: start + position })?;
            sum.negative_log_likelihood += loss;
            sum.tokens += (end - scored) as u64;
            scored = end;
        }
        Ok(())
    }

    /// Of the tokens from `first` on, by what comes before them in the window; or the position without a number.
    fn losses(&mut self, window: &[u32], first: usize) -> Result<f64, usize> {
        let mut sum = 0.0;
        for start in (0..window.len() - 1).step_by(CHUNK as usize) {
            let end = (start + CHUNK as usize).min(window.len() - 1);
            let batch = batch(window, start..end, self.limits.blocks);
            let filled = self.step.fill(&batch, &self.limits, &self.model_limits);
            filled.expect("the window fits the model, and its tokens the vocabulary");
            self.model.forward(&self.step, &mut self.cache, &mut self.scratch);
            self.model.logits(&self.tokens[..end - start], &mut self.scratch);
            let scores = self.scratch.logits().zip(start..end).filter(|(_, position)| position + 1 >= first);
            for (logits, position) in scores {
                sum += negative_log_likelihood(logits, window[position + 1]).ok_or(position)?;
            }
        }
        Ok(sum)
    }
}

/// One row of these positions, of which nothing is drawn.
fn batch(window: &[u32], positions: Range<usize>, blocks: u32) -> Batch {
    let row = Row {
        sequence: RequestId(0),
        start: positions.start as u32,
        tokens: positions.len() as u32,
        prompt_tokens: window.len() as u32,
        token_offset: 0,
        block_offset: 0,
        block_count: blocks as usize,
        draw: None,
        score: None,
    };
    Batch {
        step: 0,
        rows: vec![row],
        tokens: window[positions].iter().copied().map(TokenSource::Known).collect(),
        blocks: (0..blocks).map(BlockId).collect(),
        history: Vec::new(),
    }
}

fn negative_log_likelihood(logits: &[f32], token: u32) -> Option<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let loss = log_sum_exp(logits, max) - f64::from(logits[token as usize]);
    loss.is_finite().then_some(loss)
}

#[cfg(test)]
mod tests {
    use sluice_core::PromptVariants;

    use super::*;
    use crate::model::{Dimensions, ModelInfo};

    const VOCAB: usize = 8;

    /// Expects the number after the one it reads, the more surely the more of the window it has seen.
    struct Counting(ModelInfo);

    impl Model for Counting {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        fn forward(&self, step: &Step, _cache: &mut KvCache, scratch: &mut Scratch) {
            let hidden = scratch.hidden.rows_mut(step.tokens.len());
            for (hidden, (token, position)) in hidden.chunks_exact_mut(2).zip(step.tokens.iter().zip(&step.positions)) {
                hidden.copy_from_slice(&[*token as f32, *position as f32]);
            }
        }

        fn logits(&self, tokens: &[usize], scratch: &mut Scratch) {
            scratch.gather(tokens);
            let Scratch { branch, logits, .. } = scratch;
            let logits = logits.rows_mut(tokens.len());
            logits.fill(0.0);
            for (row, hidden) in logits.chunks_exact_mut(VOCAB).zip(branch.rows(tokens.len()).chunks_exact(2)) {
                let token = hidden[0] as usize;
                row[(token + 1) % VOCAB] = if token == 7 { f32::NAN } else { hidden[1] };
            }
        }
    }

    fn scorer(window: u32) -> Scorer {
        let dimensions = Dimensions { vocab: VOCAB, hidden: 2, layers: 1, heads: 1, kv_heads: 1, head_dim: 2, ffn: 1 };
        let info = ModelInfo {
            architecture: "Counting",
            parameters: 0,
            max_model_len: 200,
            dimensions,
            variants: PromptVariants::default(),
        };
        Scorer::new(Arc::new(Counting(info)), window).unwrap()
    }

    /// −ln of the probability of the number that was expected at this position of a window, or of another.
    fn loss(position: usize, expected: bool) -> f64 {
        let logit = position as f64;
        (logit.exp() + 7.0).ln() - if expected { logit } else { 0.0 }
    }

    fn check(window: u32, tokens: &[u32], losses: &[f64]) {
        let mut sum = Perplexity::default();
        scorer(window).score(tokens, &mut sum).unwrap();
        assert_eq!(sum.tokens, losses.len() as u64);
        let expected = (losses.iter().sum::<f64>() / losses.len() as f64).exp();
        let value = sum.value().unwrap();
        assert!((value / expected - 1.0).abs() < 1e-6, "{value} against {expected}");
    }

    #[test]
    fn each_token_is_scored_once_and_sees_half_a_window() {
        check(100, &[3, 4, 5, 1], &[loss(0, true), loss(1, true), loss(2, false)]);
        let tokens: Vec<u32> = (0..150).map(|index| index % 7).collect();
        let expected = |index: usize| tokens[index + 1] == tokens[index] + 1;
        // The first window scores 99 tokens, the second, from 50 on, the 50 that follow.
        let first = (0..99).map(|index| loss(index, expected(index)));
        let second = (99..149).map(|index| loss(index - 50, expected(index)));
        check(100, &tokens, &first.chain(second).collect::<Vec<_>>());
        check(1000, &tokens, &(0..149).map(|index| loss(index, expected(index))).collect::<Vec<_>>());
        check(2, &tokens, &(0..149).map(|index| loss(0, expected(index))).collect::<Vec<_>>());
    }

    #[test]
    fn one_token_has_nothing_to_be_scored_by() {
        let mut sum = Perplexity::default();
        scorer(8).score(&[3], &mut sum).unwrap();
        scorer(8).score(&[], &mut sum).unwrap();
        assert_eq!((sum.tokens, sum.value()), (0, None));
    }

    #[test]
    fn what_cannot_be_scored_is_named() {
        let score = |tokens: &[u32]| scorer(4).score(tokens, &mut Perplexity::default()).unwrap_err();
        assert_eq!(score(&[1, 9]), ScoreError::Token { token: 9, position: 1, vocab: 8 });
        assert_eq!(score(&[1, 2, 3, 4, 5, 7, 1]), ScoreError::NotANumber { position: 5 });
    }
}
