//! The executor of the CPU: a step is computed within `submit`, on all cores, and collected right after.

use std::sync::Arc;

use sluice_core::{Batch, Clock, Executor, ExecutorError, Nanos, Sampled, StepOutput, StepTimes, Ticket};

use crate::kv::KvCache;
use crate::memory::NoMemory;
use crate::model::Model;
use crate::sampling::Sampler;
use crate::scratch::Scratch;
use crate::step::{ModelLimits, Step, StepLimits};

/// One replica's: its own cache, a model that others may share.
pub struct CpuExecutor {
    model: Arc<dyn Model>,
    clock: Arc<dyn Clock>,
    limits: StepLimits,
    model_limits: ModelLimits,
    cache: KvCache,
    scratch: Scratch,
    step: Step,
    sampler: Sampler,
    submitted: u64,
    finished: Option<(Ticket, StepOutput)>,
}

impl CpuExecutor {
    /// Reserves all the memory that it will ever use.
    pub fn new(model: Arc<dyn Model>, limits: StepLimits, clock: Arc<dyn Clock>) -> Result<Self, NoMemory> {
        let info = model.info();
        let size = info.dimensions;
        let limits = StepLimits { block_tokens: limits.block_tokens.max(1), ..limits };
        Ok(Self {
            clock,
            limits,
            model_limits: ModelLimits { vocab: size.vocab as u32, max_model_len: info.max_model_len },
            cache: KvCache::new(&size, limits.blocks, limits.block_tokens)?,
            scratch: Scratch::new(&size, limits.max_tokens, limits.max_rows)?,
            step: Step::new(&limits),
            sampler: Sampler::default(),
            submitted: 0,
            finished: None,
            model,
        })
    }

    fn sample(&mut self, batch: &Batch) -> StepOutput {
        let rows = batch.rows.iter().filter_map(|row| Some((row, row.draw.as_ref()?)));
        let draws = rows.zip(self.scratch.logits()).map(|((row, draw), logits)| {
            let drawn = self.sampler.sample(logits, &draw.params, row.start + row.tokens);
            (row.sequence, drawn.map_or_else(|error| Sampled::Failed(error.to_string()), Sampled::Token))
        });
        StepOutput { sampled: draws.collect(), ..StepOutput::default() }
    }
}

impl Executor for CpuExecutor {
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        let failed = |message: String| ExecutorError { message };
        if self.finished.is_some() {
            return Err(failed("a step was submitted before the one ahead of it was collected".to_owned()));
        }
        let filled = self.step.fill(batch, &self.limits, &self.model_limits);
        filled.map_err(|error| failed(error.to_string()))?;
        let started = self.clock.now();
        // Within the pool, so that a layer's parts are handed over by work stealing and no thread sleeps in between.
        rayon::scope(|_| self.model.forward(&self.step, &mut self.cache, &mut self.scratch));
        let mut output = self.sample(batch);
        let finished = self.clock.now();
        output.times = StepTimes { submitted: now, finished, device: finished.saturating_sub(started) };
        self.submitted += 1;
        let ticket = Ticket(self.submitted);
        self.finished = Some((ticket, output));
        Ok(ticket)
    }

    fn collect(&mut self, _now: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        Ok(self.finished.take())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use sluice_core::{BlockId, Draw, PromptVariants, RequestId, Row, SampledToken, SamplingParams, TokenSource};

    use super::*;
    use crate::kv::KvTooLarge;
    use crate::model::{Dimensions, ModelInfo};

    /// Moves on by ten whenever it is read.
    struct Ticking(AtomicU64);

    impl Clock for Ticking {
        fn now(&self) -> Nanos {
            self.0.fetch_add(10, Ordering::Relaxed)
        }
    }

    /// Knows one answer per token: the token itself, or no number for token 3.
    struct Echo(ModelInfo);

    impl Model for Echo {
        fn info(&self) -> &ModelInfo {
            &self.0
        }

        fn forward(&self, step: &Step, _cache: &mut KvCache, scratch: &mut Scratch) {
            let logits = scratch.logits.rows_mut(step.sampled.len());
            logits.fill(0.0);
            for (row, token) in logits.chunks_exact_mut(self.0.dimensions.vocab).zip(&step.sampled) {
                let token = step.tokens[*token];
                row[token as usize] = if token == 3 { f32::NAN } else { 1.0 };
            }
        }
    }

    fn executor() -> CpuExecutor {
        let dimensions = Dimensions { vocab: 8, hidden: 1, layers: 1, heads: 1, kv_heads: 1, head_dim: 2, ffn: 1 };
        let info = ModelInfo {
            architecture: "Echo",
            parameters: 0,
            max_model_len: 64,
            dimensions,
            variants: PromptVariants::default(),
        };
        let limits = StepLimits { blocks: 8, block_tokens: 4, max_tokens: 16, max_rows: 4 };
        CpuExecutor::new(Arc::new(Echo(info)), limits, Arc::new(Ticking(AtomicU64::new(100)))).unwrap()
    }

    /// One row of one token per entry; sampled from where it says so.
    fn batch(rows: &[(TokenSource, bool)]) -> Batch {
        let row = |(index, (_, sample)): (usize, &(TokenSource, bool))| Row {
            sequence: RequestId(index as u64),
            start: 0,
            tokens: 1,
            prompt_tokens: 1,
            token_offset: index,
            block_offset: index,
            block_count: 1,
            draw: sample.then(|| Draw::new(SamplingParams::greedy())),
            score: None,
        };
        Batch {
            step: 1,
            rows: rows.iter().enumerate().map(row).collect(),
            tokens: rows.iter().map(|(token, _)| *token).collect(),
            blocks: (0..rows.len() as u32).map(BlockId).collect(),
            history: Vec::new(),
        }
    }

    #[test]
    fn a_row_fails_alone_and_rows_that_do_not_sample_say_nothing() {
        let mut executor = executor();
        let known = |token, sample| (TokenSource::Known(token), sample);
        let ticket =
            executor.submit(&batch(&[known(5, true), known(2, false), known(3, true), known(1, true)]), 7).unwrap();
        let (collected, output) = executor.collect(8).unwrap().unwrap();
        assert_eq!(collected, ticket);
        let token = |token| Sampled::Token(SampledToken::plain(token));
        assert_eq!(output.sampled[0], (RequestId(0), token(5)));
        assert!(matches!(&output.sampled[1], (RequestId(2), Sampled::Failed(why)) if why.contains("NaN")));
        assert_eq!(output.sampled[2..], [(RequestId(3), token(1))]);
        assert_eq!(output.times, StepTimes { submitted: 7, finished: 110, device: 10 });
        assert_eq!(executor.collect(9).unwrap(), None);
    }

    #[test]
    fn a_bad_batch_is_an_error_and_the_next_one_is_computed() {
        let mut executor = executor();
        let error = executor.submit(&batch(&[(TokenSource::PreviousStep, true)]), 0).unwrap_err();
        assert!(error.message.contains("not collected"), "{error}");
        let good = batch(&[(TokenSource::Known(1), true)]);
        let first = executor.submit(&good, 0).unwrap();
        assert!(executor.submit(&good, 0).unwrap_err().message.contains("before the one ahead"));
        assert_eq!(executor.collect(0).unwrap().unwrap().0, first);
        assert!(executor.submit(&good, 0).unwrap() > first);
    }

    #[test]
    fn a_cache_beyond_memory_is_refused() {
        let info = executor().model.info().clone();
        let limits = StepLimits { blocks: u32::MAX, block_tokens: 1 << 30, max_tokens: 1, max_rows: 1 };
        let refused = CpuExecutor::new(Arc::new(Echo(info)), limits, Arc::new(Ticking(AtomicU64::new(0)))).err();
        assert_eq!(refused, Some(KvTooLarge { blocks: u32::MAX, block_tokens: 1 << 30 }.into()));
    }
}
