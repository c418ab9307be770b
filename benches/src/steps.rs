//! Steps of a model on the CPU, as the engine would submit them.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use sluice_core::{Batch, BlockId, Clock, Draw, Executor, Nanos, RequestId, Row, SamplingParams, TokenSource};
use sluice_model::{CpuExecutor, Model, StepLimits};

const BLOCK_TOKENS: u32 = 16;

struct Monotonic(Instant);

impl Clock for Monotonic {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

/// Room for so many tokens in its cache.
pub fn executor(model: Arc<dyn Model>, cache_tokens: u32) -> CpuExecutor {
    let blocks = cache_tokens.div_ceil(BLOCK_TOKENS);
    let limits = StepLimits { blocks, block_tokens: BLOCK_TOKENS, max_tokens: 2048, max_rows: 256 };
    CpuExecutor::new(model, limits, Arc::new(Monotonic(Instant::now()))).expect("the cache fits")
}

/// `sequences` rows that compute `tokens` each after `context` that are in the cache.
pub fn batch(sequences: u32, context: u32, tokens: u32, vocab: u32) -> Batch {
    let per_sequence = (context + tokens).div_ceil(BLOCK_TOKENS);
    let draw = Some(Draw::new(SamplingParams::greedy()));
    let row = |index: u32| Row {
        sequence: RequestId(index.into()),
        start: context,
        tokens,
        prompt_tokens: context,
        token_offset: (index * tokens) as usize,
        block_offset: (index * per_sequence) as usize,
        block_count: per_sequence as usize,
        draw: draw.clone(),
        score: None,
    };
    let token = |index: u32| TokenSource::Known(index.wrapping_mul(7919) % vocab);
    Batch {
        step: 0,
        rows: (0..sequences).map(row).collect(),
        tokens: (0..sequences * tokens).map(token).collect(),
        blocks: (0..sequences * per_sequence).map(BlockId).collect(),
        history: Vec::new(),
    }
}

pub fn run(executor: &mut CpuExecutor, batch: &Batch) {
    executor.submit(black_box(batch), 0).expect("the batch is sound");
    black_box(executor.collect(0).expect("the step is done"));
}
