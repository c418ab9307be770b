//! Holds one executor's answers against another's: both are told the same tokens, and say after each how likely the next
//! ones are.

use sluice_core::{
    Batch, BlockId, Draw, Executor, ExecutorError, RequestId, Row, Sampled, SampledToken, SamplingParams, TokenSource,
    philox,
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
    /// Draws that were compared.
    pub draws: usize,
    /// The largest and the mean difference of a log-probability that both report.
    pub worst: f32,
    pub mean: f32,
    /// Draws of another token, although the best two are further apart than the tolerance.
    pub disagreements: usize,
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
            score: None,
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
            let (one, other) = (draws(one, &batch)?, draws(other, &batch)?);
            for (one, other) in one.iter().zip(&other) {
                agreement.draws += 1;
                for difference in differences(one, other) {
                    agreement.worst = agreement.worst.max(difference);
                    sum += f64::from(difference);
                    compared += 1;
                }
                let apart = one.top.len() > 1 && one.top[0].logprob - one.top[1].logprob > tolerance;
                agreement.disagreements += usize::from(apart && one.token != other.token);
            }
        }
        agreement.mean = (sum / f64::from(compared.max(1))) as f32;
        Ok(agreement)
    }
}

/// Of the tokens that both report.
fn differences(one: &SampledToken, other: &SampledToken) -> impl Iterator<Item = f32> {
    one.top.iter().filter_map(|one| {
        let other = other.top.iter().find(|other| other.token == one.token)?;
        Some((one.logprob - other.logprob).abs())
    })
}

fn draws(executor: &mut dyn Executor, batch: &Batch) -> Result<Vec<SampledToken>, ExecutorError> {
    executor.submit(batch, 0)?;
    executor.wait()?;
    let Some((_, output)) = executor.collect(0)? else {
        return Err(ExecutorError { message: "a step that was waited for has not finished".to_owned() });
    };
    let drawn = output.sampled.into_iter().map(|(_, sampled)| match sampled {
        Sampled::Token(token) => Ok(token),
        Sampled::Failed(message) => Err(ExecutorError { message }),
    });
    drawn.collect()
}
