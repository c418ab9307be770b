//! A card whose steps take what a formula says, and the executor that pretends to be one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sluice_core::view::EngineLimits;
use sluice_core::{
    Batch, Executor, ExecutorError, Nanos, RequestId, Row, Sampled, SampledToken, StepOutput, StepTimes, Ticket,
};

/// The token that ends an answer.
pub(crate) const STOP: u32 = 0;

/// Milliseconds of a step: a base, and so much for each sequence that decodes, prompt token and token of context.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Card {
    pub(crate) name: &'static str,
    pub(crate) base: f64,
    pub(crate) sequence: f64,
    pub(crate) prompt_token: f64,
    pub(crate) context_token: f64,
    pub(crate) limits: EngineLimits,
}

/// Qwen2.5-14B in 4 bits on a card of 24 GB and 1 TB/s: 6 GB are left for keys and values of 196,608 B a token, which
/// are read at 1 TB/s. Estimates: the formula is what matters.
pub(crate) const SMALL: Card = Card {
    name: "24 GB, 1 TB/s",
    base: 12.0,
    sequence: 0.1,
    prompt_token: 0.2,
    context_token: 0.0002,
    limits: EngineLimits { blocks_total: 1900, max_sequences: 64, ..LIMITS },
};

/// The same on an H200, fitted to the steps and prompts that vLLM 0.20 was measured with in 4 bits: 6.6 ms at one
/// sequence, 8.1 at 32, 13.8 at 128, 22.4 at 256; 25,800 prompt tokens a second.
pub(crate) const LARGE: Card = Card {
    name: "141 GB, 4.3 TB/s",
    base: 6.6,
    sequence: 0.034,
    prompt_token: 0.039,
    context_token: 0.000_045,
    limits: EngineLimits { blocks_total: 30_000, max_sequences: 256, ..LIMITS },
};

const LIMITS: EngineLimits = EngineLimits {
    max_sequences: 64,
    max_batched_tokens: 2048,
    block_tokens: 16,
    blocks_total: 1900,
    kv_bytes_per_token: 196_608,
    max_model_len: 8192,
};

impl Card {
    fn step(&self, batch: &Batch) -> Nanos {
        let sequences = batch.rows.iter().filter(|row| row.tokens == 1).count() as f64;
        let tokens: u32 = batch.rows.iter().map(|row| row.tokens).sum();
        let context: u64 = batch.rows.iter().map(|row| u64::from(row.start)).sum();
        let millis = self.base
            + self.sequence * sequences
            + self.prompt_token * (f64::from(tokens) - sequences)
            + self.context_token * context as f64;
        (millis * 1e6) as Nanos
    }
}

/// How long each answer will be. Only the card knows.
pub(crate) type Answers = Arc<Mutex<HashMap<RequestId, u32>>>;

/// When the step in flight ends; `u64::MAX` without one.
pub(crate) type Ends = Arc<AtomicU64>;

pub(crate) struct ModelledExecutor {
    card: Card,
    answers: Answers,
    ends: Ends,
    steps: VecDeque<(Ticket, StepOutput)>,
    submitted: u64,
}

impl ModelledExecutor {
    pub(crate) fn new(card: Card, answers: Answers, ends: Ends) -> Self {
        ends.store(u64::MAX, Ordering::SeqCst);
        Self { card, answers, ends, steps: VecDeque::new(), submitted: 0 }
    }

    fn draw(&self, row: &Row) -> (RequestId, Sampled) {
        let made = row.start + row.tokens - row.prompt_tokens;
        let last = self.answers.lock().unwrap()[&row.sequence] <= made;
        (row.sequence, Sampled::Token(SampledToken::plain(if last { STOP } else { 1 })))
    }
}

impl Executor for ModelledExecutor {
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        let device = self.card.step(batch);
        let sampled = batch.rows.iter().filter(|row| row.draw.is_some()).map(|row| self.draw(row)).collect();
        let times = StepTimes { submitted: now, finished: now + device, device, roof: None };
        self.ends.store(times.finished, Ordering::SeqCst);
        self.submitted += 1;
        self.steps.push_back((Ticket(self.submitted), StepOutput { sampled, times, ..StepOutput::default() }));
        Ok(Ticket(self.submitted))
    }

    fn collect(&mut self, now: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        let done = self.steps.front().is_some_and(|(_, output)| output.times.finished <= now);
        if !done {
            return Ok(None);
        }
        self.ends.store(u64::MAX, Ordering::SeqCst);
        Ok(self.steps.pop_front())
    }
}
