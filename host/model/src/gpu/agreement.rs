//! Holds one executor's answers against another's: both are told the same tokens, and say after each how likely the next
//! ones are.

use sluice_core::{
    Batch, BlockId, Draw, Executor, ExecutorError, Logprob, RequestId, Row, Sampled, SamplingParams, Score, Scored,
    TokenSource, philox,
};

/// Sequences that are computed side by side: first in runs of a prompt, then token by token.
#[derive(Clone, Debug)]
pub struct Script {
    pub sequences: Vec<Told>,
    /// Of a block of the cache.
    pub block_tokens: u32,
}

/// All of a sequence's tokens are given.
#[derive(Clone, Debug)]
pub struct Told {
    pub tokens: Vec<u32>,
    /// How many of them are computed in each of the steps, until none is left; after the last, one at a time.
    pub runs: Vec<usize>,
}

/// How far two executors agree about the most likely tokens.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Agreement {
    /// Tokens after which they were compared.
    pub positions: usize,
    /// The largest and the mean difference of a log-probability that both report.
    pub worst: f32,
    pub mean: f32,
    /// Positions where another token is the most likely one, although the best two are further apart than the tolerance;
    /// and those where the two hardly speak of the same tokens.
    pub disagreements: usize,
}

/// What one executor says of the next token, best first.
struct Answer {
    top: Vec<Logprob>,
}

/// Alternatives that are compared.
const ALTERNATIVES: u8 = 20;

impl Script {
    /// Random tokens: so many sequences of each of the lengths, cut into runs of every size.
    pub fn random(vocab: u32, lengths: &[(usize, &[usize])], block_tokens: u32, seed: u64) -> Self {
        let told = |(index, (length, runs)): (usize, &(usize, &[usize]))| {
            let token = |place: usize| {
                let word = philox::philox(seed, ((index as u128) << 64) | place as u128)[0];
                ((u64::from(word) * u64::from(vocab)) >> 32) as u32
            };
            Told { tokens: (0..*length).map(token).collect(), runs: runs.to_vec() }
        };
        Self { sequences: lengths.iter().enumerate().map(told).collect(), block_tokens }
    }

    /// Tokens of all sequences, after each of which the two are asked.
    pub fn positions(&self) -> usize {
        self.sequences.iter().map(|told| told.tokens.len()).sum()
    }

    /// Blocks that all sequences take.
    pub fn blocks(&self) -> u32 {
        self.sequences.iter().map(|told| self.blocks_of(told)).sum()
    }

    /// Every step's batch: one run of each sequence that has tokens left, after which a token is drawn.
    pub fn batches(&self) -> Vec<Batch> {
        let mut done = vec![0; self.sequences.len()];
        let mut batches = Vec::new();
        loop {
            let mut batch = Batch { step: batches.len() as u64 + 1, ..Batch::default() };
            for (index, told) in self.sequences.iter().enumerate() {
                let run = told.runs.get(batches.len()).copied().unwrap_or(1).min(told.tokens.len() - done[index]);
                if run > 0 {
                    self.add(&mut batch, index, done[index], run);
                    done[index] += run;
                }
            }
            if batch.rows.is_empty() {
                return batches;
            }
            batches.push(batch);
        }
    }

    fn add(&self, batch: &mut Batch, index: usize, start: usize, run: usize) {
        let told = &self.sequences[index];
        let before: u32 = self.sequences[..index].iter().map(|told| self.blocks_of(told)).sum();
        let params = SamplingParams { logprobs: Some(ALTERNATIVES), ..SamplingParams::greedy() };
        batch.rows.push(Row {
            sequence: RequestId(index as u64),
            start: start as u32,
            tokens: run as u32,
            prompt_tokens: told.tokens.len() as u32,
            token_offset: batch.tokens.len(),
            block_offset: batch.blocks.len(),
            block_count: self.blocks_of(told) as usize,
            draw: Some(Draw::new(params)),
            // A single token is decoded, as it would be served.
            score: (run > 1).then(|| Score { alternatives: ALTERNATIVES, next: told.tokens.get(start + run).copied() }),
        });
        batch.tokens.extend(told.tokens[start..start + run].iter().copied().map(TokenSource::Known));
        // Backwards: neighbours in a table are none in the cache.
        batch.blocks.extend((before..before + self.blocks_of(told)).rev().map(BlockId));
    }

    fn blocks_of(&self, told: &Told) -> u32 {
        (told.tokens.len() as u32).div_ceil(self.block_tokens)
    }
}

impl Agreement {
    /// Runs a script through both; differences within `tolerance` decide nothing.
    pub fn of(
        script: &Script,
        one: &mut dyn Executor,
        other: &mut dyn Executor,
        tolerance: f32,
    ) -> Result<Self, ExecutorError> {
        let (mut agreement, mut sum, mut compared) = (Self::default(), 0.0, 0);
        for batch in script.batches() {
            let (one, other) = (answers(one, &batch)?, answers(other, &batch)?);
            if one.len() != other.len() {
                let message =
                    format!("step {}: one gives {} answers, the other {}", batch.step, one.len(), other.len());
                return Err(ExecutorError { message });
            }
            for (one, other) in one.iter().zip(&other) {
                agreement.positions += 1;
                let mut shared = 0;
                for difference in one.differences(other) {
                    agreement.worst = agreement.worst.max(difference);
                    sum += f64::from(difference);
                    shared += 1;
                }
                compared += shared;
                agreement.disagreements += usize::from(2 * shared < one.top.len() || one.differs(other, tolerance));
            }
        }
        agreement.mean = (sum / compared.max(1) as f64) as f32;
        Ok(agreement)
    }
}

impl Answer {
    /// Of what both report. What is no number is infinitely far away.
    fn differences(&self, other: &Self) -> impl Iterator<Item = f32> {
        self.top.iter().filter_map(|one| {
            let other = other.top.iter().find(|other| other.token == one.token)?;
            let difference = (one.logprob - other.logprob).abs();
            Some(if difference.is_nan() { f32::INFINITY } else { difference })
        })
    }

    /// Whether another token is the most likely one, although the best two are not close to each other.
    fn differs(&self, other: &Self, tolerance: f32) -> bool {
        match self.top[..] {
            [best, second, ..] if best.logprob - second.logprob > tolerance => {
                other.top.first().is_none_or(|other| other.token != best.token)
            }
            _ => false,
        }
    }
}

/// After each of a batch's tokens.
fn answers(executor: &mut dyn Executor, batch: &Batch) -> Result<Vec<Answer>, ExecutorError> {
    executor.submit(batch, 0)?;
    executor.wait()?;
    let Some((_, output)) = executor.collect(0)? else {
        return Err(ExecutorError { message: "a step that was waited for has not finished".to_owned() });
    };
    let failed = |message: String| ExecutorError { message };
    let mut answers = Vec::new();
    for (_, sampled) in output.sampled {
        match sampled {
            Sampled::Token(token) => answers.push(Answer { top: token.top }),
            Sampled::Failed(message) => return Err(failed(message)),
        }
    }
    for (_, scored) in output.scored {
        match scored {
            Scored::Tokens(tokens) => answers.extend(tokens.into_iter().map(|token| Answer { top: token.top })),
            Scored::Failed(message) => return Err(failed(message)),
        }
    }
    Ok(answers)
}
