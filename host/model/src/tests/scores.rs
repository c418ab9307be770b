//! A token of a prompt is as likely as it was when it was drawn, to the last bit: whole or in chunks, alone or beside
//! others.

use std::sync::Arc;

use sluice_checkpoint::{LoadFormat, ModelFiles};
use sluice_core::{
    Batch, BlockId, Clock, Draw, Executor, Nanos, RequestId, Row, Sampled, SampledToken, SamplingParams, Score, Scored,
    ScoredToken, StepOutput, TokenSource,
};

use super::checkpoint::Checkpoint;
use super::load;
use crate::cpu::CpuExecutor;
use crate::step::StepLimits;

const PROMPT: [u32; 9] = [3, 14, 15, 92, 65, 35, 89, 79, 32];
const NEW_TOKENS: usize = 20;
const ALTERNATIVES: u8 = 4;

struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Nanos {
        0
    }
}

/// Sequence `of` has blocks of its own.
struct Run<'a> {
    of: u32,
    tokens: &'a [u32],
    start: usize,
    end: usize,
    draw: Option<Draw>,
    score: bool,
}

fn executor(files: &ModelFiles) -> CpuExecutor {
    let model = load(files, LoadFormat::Auto).unwrap();
    // Fewer rows than tokens: scores are computed in groups.
    let limits = StepLimits { blocks: 16, block_tokens: 8, max_tokens: 64, max_rows: 3 };
    CpuExecutor::new(model, limits, Arc::new(Stopped)).unwrap()
}

fn step(executor: &mut CpuExecutor, runs: &[Run<'_>]) -> StepOutput {
    let mut batch = Batch::default();
    for run in runs {
        let next = run.tokens.get(run.end).copied();
        batch.rows.push(Row {
            sequence: RequestId(run.of.into()),
            start: run.start as u32,
            tokens: (run.end - run.start) as u32,
            prompt_tokens: PROMPT.len() as u32,
            token_offset: batch.tokens.len(),
            block_offset: batch.blocks.len(),
            block_count: 8,
            draw: run.draw.clone(),
            score: run.score.then_some(Score { alternatives: ALTERNATIVES, next }),
        });
        batch.tokens.extend(run.tokens[run.start..run.end].iter().copied().map(TokenSource::Known));
        batch.blocks.extend((run.of * 8..run.of * 8 + 8).map(BlockId));
    }
    executor.submit(&batch, 0).unwrap();
    executor.collect(0).unwrap().unwrap().1
}

/// The answer, each token with its log-probabilities.
fn generate(executor: &mut CpuExecutor) -> Vec<SampledToken> {
    let params = SamplingParams { temperature: 1.0, seed: 7, logprobs: Some(ALTERNATIVES), ..SamplingParams::greedy() };
    let draw = Draw::new(params);
    let (mut tokens, mut start, mut drawn) = (PROMPT.to_vec(), 0, Vec::new());
    while drawn.len() < NEW_TOKENS {
        let end = tokens.len();
        let run = Run { of: 0, tokens: &tokens, start, end, draw: Some(draw.clone()), score: false };
        let Sampled::Token(token) = step(executor, &[run]).sampled.remove(0).1 else { panic!("no token") };
        start = end;
        tokens.push(token.token);
        drawn.push(token);
    }
    drawn
}

/// What is said of `tokens` but the first, in steps of so many of them.
fn scores(executor: &mut CpuExecutor, tokens: &[u32], chunk: usize, company: bool) -> Vec<ScoredToken> {
    let mut all = Vec::new();
    for start in (0..tokens.len()).step_by(chunk) {
        let end = tokens.len().min(start + chunk);
        let mut runs = vec![Run { of: 0, tokens, start, end, draw: None, score: true }];
        if company {
            let draw = Some(Draw::new(SamplingParams::greedy()));
            runs.insert(0, Run { of: 1, tokens: &PROMPT, start: 0, end: 5, draw, score: true });
        }
        let scored = step(executor, &runs).scored.pop().unwrap();
        let (RequestId(0), Scored::Tokens(scored)) = scored else { panic!("{scored:?}") };
        all.extend(scored);
    }
    all
}

fn check(files: &ModelFiles) {
    let mut executor = executor(files);
    let drawn = generate(&mut executor);
    let tokens: Vec<u32> = PROMPT.into_iter().chain(drawn.iter().map(|token| token.token)).collect();
    let whole = scores(&mut executor, &tokens, tokens.len(), false);
    assert_eq!(whole.iter().map(|scored| scored.token).collect::<Vec<_>>(), tokens[1..]);
    for (scored, drawn) in whole[PROMPT.len() - 1..].iter().zip(&drawn) {
        assert_eq!((scored.token, Some(scored.logprob)), (drawn.token, drawn.logprob));
        assert_eq!(scored.top, drawn.top);
    }
    for (chunk, company) in [(1, false), (7, false), (7, true), (tokens.len(), true)] {
        assert_eq!(scores(&mut executor, &tokens, chunk, company), whole, "in chunks of {chunk}");
    }
}

#[test]
fn a_prompt_is_scored_as_an_answer_is() {
    check(&crate::embedded());
    for checkpoint in [Checkpoint::qwen(3), Checkpoint::qwen2(3, true), Checkpoint::qwen3(3, false)] {
        check(&checkpoint.write().1);
    }
}
