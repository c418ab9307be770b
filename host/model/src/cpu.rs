//! The executor of the CPU: a step is computed within `submit`, on all cores, and collected right after.

use std::sync::Arc;

use rayon::prelude::*;
use sluice_core::{
    Batch, Clock, Draw, Executor, ExecutorError, Nanos, RequestId, Row, Sampled, Score, Scored, ScoredToken,
    StepOutput, StepTimes, Ticket,
};

use crate::kv::KvCache;
use crate::logprobs::{NotANumber, check_finite, score};
use crate::memory::NoMemory;
use crate::model::Model;
use crate::sampling::{Drawing, Sampler};
use crate::scratch::Scratch;
use crate::step::{ModelLimits, ScoredPlace, Step, StepLimits};

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
    /// Tokens whose logits are computed at a time.
    group: Vec<usize>,
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
            group: Vec::with_capacity(limits.max_rows as usize),
            submitted: 0,
            finished: None,
            model,
        })
    }

    /// Within the pool, so that a layer's parts are handed over by work stealing and no thread sleeps in between.
    fn compute(&mut self, batch: &Batch) -> StepOutput {
        rayon::scope(|_| {
            self.model.forward(&self.step, &mut self.cache, &mut self.scratch);
            self.model.logits(&self.step.sampled, &mut self.scratch);
            let sampled = self.sample(batch);
            StepOutput { sampled, scored: self.score(batch), ..StepOutput::default() }
        })
    }

    fn sample(&mut self, batch: &Batch) -> Vec<(RequestId, Sampled)> {
        let rows = batch.rows.iter().filter_map(|row| Some((row, row.draw.as_ref()?)));
        let draws = rows.zip(self.scratch.logits()).map(|((row, draw), logits)| {
            let drawn = self.sampler.sample(logits, &drawing(batch, row, draw));
            (row.sequence, drawn.map_or_else(|error| Sampled::Failed(error.to_string()), Sampled::Token))
        });
        draws.collect()
    }

    /// Group by group, as many as `scratch` has rows of logits for.
    fn score(&mut self, batch: &Batch) -> Vec<(RequestId, Scored)> {
        let mut scores = Vec::with_capacity(self.step.scored.len());
        for places in self.step.scored.chunks(self.limits.max_rows.max(1) as usize) {
            self.group.clear();
            self.group.extend(places.iter().map(|place| place.after));
            self.model.logits(&self.group, &mut self.scratch);
            let rows: Vec<_> = places.iter().zip(self.scratch.logits()).collect();
            scores.par_extend(rows.into_par_iter().map(|(place, logits)| score_place(place, logits)));
        }
        let mut scores = scores.into_iter();
        let rows = batch.rows.iter().filter_map(|row| Some((row, row.score?)));
        rows.map(|(row, score)| (row.sequence, scored(scores.by_ref().take(count(row, score)).collect()))).collect()
    }
}

/// What the engine says of a draw; [`Step::fill`] has checked where its history lies.
fn drawing<'a>(batch: &'a Batch, row: &Row, draw: &'a Draw) -> Drawing<'a> {
    let history = &batch.history[draw.history_offset..][..draw.history_tokens];
    let (prompt, answer) = history.split_at(history.len().min(row.prompt_tokens as usize));
    let forbidden = draw.forbidden.as_deref().unwrap_or_default();
    Drawing { params: &draw.params, position: row.start + row.tokens, prompt, answer, forbidden }
}

fn score_place(place: &ScoredPlace, logits: &[f32]) -> Result<ScoredToken, NotANumber> {
    check_finite(logits, place.position)?;
    Ok(score(logits, place.token, place.alternatives))
}

/// How many tokens of a row are scored: all but its first, and the one behind it.
fn count(row: &Row, score: Score) -> usize {
    row.tokens as usize - 1 + usize::from(score.next.is_some())
}

/// One place without a number fails its row.
fn scored(places: Vec<Result<ScoredToken, NotANumber>>) -> Scored {
    let tokens: Result<_, _> = places.into_iter().collect();
    tokens.map_or_else(|error: NotANumber| Scored::Failed(error.to_string()), Scored::Tokens)
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
        let mut output = self.compute(batch);
        let finished = self.clock.now();
        output.times = StepTimes { submitted: now, finished, device: finished.saturating_sub(started), roof: None };
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
            let hidden = scratch.hidden.rows_mut(step.tokens.len());
            hidden.iter_mut().zip(&step.tokens).for_each(|(hidden, token)| *hidden = *token as f32);
        }

        fn logits(&self, tokens: &[usize], scratch: &mut Scratch) {
            scratch.gather(tokens);
            let Scratch { branch, logits, .. } = scratch;
            let logits = logits.rows_mut(tokens.len());
            logits.fill(0.0);
            for (row, token) in logits.chunks_exact_mut(self.0.dimensions.vocab).zip(branch.rows(tokens.len())) {
                row[*token as usize] = if *token == 3.0 { f32::NAN } else { 1.0 };
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
        assert_eq!(output.times, StepTimes { submitted: 7, finished: 110, device: 10, roof: None });
        assert_eq!(executor.collect(9).unwrap(), None);
    }

    /// What is drawn after token 5 by these parameters, where this was drawn before and these are forbidden.
    fn draw_after_5(change: fn(&mut SamplingParams), history: &[u32], forbidden: &[u32]) -> u32 {
        let mut params = SamplingParams::greedy();
        change(&mut params);
        let mut batch = batch(&[(TokenSource::Known(2), false), (TokenSource::Known(5), true)]);
        batch.history = [&[5, 5, 5], history].concat();
        let draw = Draw { history_offset: 3, history_tokens: history.len(), ..Draw::new(params) };
        batch.rows[1].draw = Some(Draw { forbidden: Some(forbidden.into()), ..draw });
        let mut executor = executor();
        executor.submit(&batch, 0).unwrap();
        match executor.collect(0).unwrap().unwrap().1.sampled.remove(0).1 {
            Sampled::Token(token) => token.token,
            Sampled::Failed(why) => panic!("{why}"),
        }
    }

    #[test]
    fn a_draw_knows_its_own_history_and_what_it_must_not_give() {
        let present: fn(&mut SamplingParams) = |params| params.presence_penalty = 2.0;
        assert_eq!(draw_after_5(present, &[1, 2], &[]), 5);
        assert_eq!(draw_after_5(present, &[5, 2], &[]), 5, "the prompt is one token long");
        assert_eq!(draw_after_5(present, &[2, 5], &[]), 0);
        assert_eq!(draw_after_5(|params| params.repetition_penalty = 0.5, &[5], &[]), 5);
        assert_eq!(draw_after_5(|_| {}, &[], &[5, 0]), 1);
    }

    /// One row of these tokens, scored.
    fn scored_batch(tokens: &[u32], next: Option<u32>) -> Batch {
        let mut batch = batch(&[(TokenSource::Known(1), false)]);
        batch.tokens = tokens.iter().copied().map(TokenSource::Known).collect();
        batch.blocks = (0..3).map(BlockId).collect();
        batch.rows[0].tokens = tokens.len() as u32;
        batch.rows[0].block_count = 3;
        batch.rows[0].score = Some(Score { alternatives: 1, next });
        batch
    }

    #[test]
    fn a_prompt_is_scored_in_groups_and_fails_alone() {
        let mut executor = executor();
        let tokens = [1, 1, 2, 2, 4, 4, 5, 5, 6];
        let mut batch = scored_batch(&tokens, Some(6));
        let other = scored_batch(&[3, 7], None);
        batch.rows.push(Row { sequence: RequestId(1), token_offset: 9, block_offset: 3, ..other.rows[0].clone() });
        batch.tokens.extend(other.tokens);
        batch.blocks.extend((3..6).map(BlockId));
        executor.submit(&batch, 0).unwrap();
        let scored = executor.collect(0).unwrap().unwrap().1.scored;
        let [(RequestId(0), Scored::Tokens(first)), (RequestId(1), Scored::Failed(second))] = &scored[..] else {
            panic!("{scored:?}");
        };
        assert_eq!(first.iter().map(|scored| scored.token).collect::<Vec<_>>(), [1, 2, 2, 4, 4, 5, 5, 6, 6]);
        let likely: Vec<bool> = first.iter().map(|scored| scored.top[0].token == scored.token).collect();
        assert_eq!(likely, [true, false, true, false, true, false, true, false, true]);
        assert!(second.contains("NaN") && second.contains("position 1"), "{second}");
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
