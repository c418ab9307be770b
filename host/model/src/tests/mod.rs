//! Whole models against candle's own, against themselves in other company, and against damaged files.

mod checkpoint;
mod configurations;
mod invariance;
mod loading;
mod quantised;
mod qwen;
mod qwen_reference;
mod reference;
mod scores;
mod transformers;

use std::sync::Arc;

use sluice_checkpoint::{LoadError, LoadFormat, LoadOptions, ModelFiles, Silent};
use sluice_core::{Batch, BlockId, Draw, RequestId, Row, SamplingParams, TokenSource};

use crate::kv::KvCache;
use crate::model::Model;
use crate::scratch::Scratch;
use crate::step::{ModelLimits, Step, StepLimits};

/// As the files have it, and nobody watches.
fn load(files: &ModelFiles, format: LoadFormat) -> Result<Arc<dyn Model>, LoadError> {
    crate::load(files, LoadOptions { format, ..LoadOptions::default() }, Box::new(Silent))
}

/// A model with a cache, asked for logits.
struct Runner {
    model: Arc<dyn Model>,
    limits: StepLimits,
    cache: KvCache,
    scratch: Scratch,
    step: Step,
}

/// Some of a sequence's tokens: those from `start` to `end`.
struct Run<'a> {
    tokens: &'a [u32],
    /// How many of them are the prompt.
    prompt: usize,
    start: usize,
    end: usize,
    table: &'a [u32],
}

impl Runner {
    fn new(model: Arc<dyn Model>, blocks: u32, block_tokens: u32) -> Self {
        Self::sized(model, blocks, block_tokens, 512)
    }

    fn sized(model: Arc<dyn Model>, blocks: u32, block_tokens: u32, max_tokens: u32) -> Self {
        let limits = StepLimits { blocks, block_tokens, max_tokens, max_rows: 16 };
        let size = model.info().dimensions;
        Self {
            cache: KvCache::new(&size, blocks, block_tokens).unwrap(),
            scratch: Scratch::new(&size, max_tokens, 16).unwrap(),
            step: Step::new(&limits),
            limits,
            model,
        }
    }

    /// The logits after the last token of each run.
    fn logits(&mut self, runs: &[Run<'_>]) -> Vec<Vec<f32>> {
        let info = self.model.info();
        let limits = ModelLimits { vocab: info.dimensions.vocab as u32, max_model_len: info.max_model_len };
        self.step.fill(&batch(runs), &self.limits, &limits).unwrap();
        self.model.forward(&self.step, &mut self.cache, &mut self.scratch);
        self.model.logits(&self.step.sampled, &mut self.scratch);
        self.scratch.logits().take(runs.len()).map(<[f32]>::to_vec).collect()
    }
}

fn batch(runs: &[Run<'_>]) -> Batch {
    let mut batch = Batch::default();
    for (index, run) in runs.iter().enumerate() {
        batch.rows.push(Row {
            sequence: RequestId(index as u64),
            start: run.start as u32,
            tokens: (run.end - run.start) as u32,
            prompt_tokens: run.prompt as u32,
            token_offset: batch.tokens.len(),
            block_offset: batch.blocks.len(),
            block_count: run.table.len(),
            draw: Some(Draw::new(SamplingParams::greedy())),
            score: None,
        });
        batch.tokens.extend(run.tokens[run.start..run.end].iter().copied().map(TokenSource::Known));
        batch.blocks.extend(run.table.iter().copied().map(BlockId));
    }
    batch
}

fn argmax(logits: &[f32]) -> u32 {
    logits.iter().enumerate().fold(0, |best, (token, logit)| if *logit > logits[best] { token } else { best }) as u32
}
