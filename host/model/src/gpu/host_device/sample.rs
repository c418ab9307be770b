//! Draws of tokens by the rules of this crate's sampler, and the counts of tokens that they penalise.

use rayon::prelude::*;
use sluice_core::{Logprob, SampledToken, SamplingParams};
use sluice_kernels::Address;
use sluice_kernels::op::{Count, Sample};
use sluice_kernels::sampling::{
    ALL_FORBIDDEN, CountSpan, DRAWN, IN_PROMPT, NOT_A_NUMBER, SampleResult, SampleRow, TOP,
};

use super::fault::{Fault, expect, index, natural};
use super::memory::{Memory, element};
use super::numbers::widen;
use crate::logprobs::{check_finite, score};
use crate::sampling::{Drawing, NoDraw, Sampler};

/// Tokens that a sequence may have; more of them were never counted.
const LONGEST: usize = 1 << 24;

pub(super) fn count(op: &Count, memory: &mut Memory) -> Result<(), Fault> {
    let spans: Vec<CountSpan> = memory.read("spans", op.spans, op.span_count as usize)?.to_vec();
    for span in spans {
        let prompt = index("spans", span.prompt, LONGEST)?;
        let tokens =
            list::<i32>(memory, "tokens", op.tokens, span.first, prompt + index("spans", span.answer, LONGEST)?)?;
        let counts = slot(memory, op.counts, span.slot, op.vocab)?;
        counts.fill(0);
        for (place, token) in tokens.into_iter().enumerate() {
            // What is not in the vocabulary is never drawn.
            let Some(count) = usize::try_from(token).ok().and_then(|token| counts.get_mut(token)) else { continue };
            *count = if place < prompt { *count | IN_PROMPT } else { count.wrapping_add(1) };
        }
    }
    Ok(())
}

pub(super) fn sample(op: &Sample, memory: &mut Memory) -> Result<(), Fault> {
    let (rows, stride) = (op.rows as usize, op.stride as usize);
    let right = op.stride >= op.vocab && op.vocab > 0 && stride.is_multiple_of(8);
    expect(right, "stride", || format!("is {stride}, expected a multiple of 8 that has room for {} logits", op.vocab))?;
    let draws: Vec<SampleRow> = memory.read("draws", op.draws, rows)?.to_vec();
    let positions: &[i32] = memory.read("positions", op.positions, rows)?;
    let logits: &[u16] = memory.read_many("logits", op.logits, rows.saturating_mul(stride))?;
    let work = draws.par_iter().zip(positions).zip(logits.par_chunks_exact(stride));
    let outcomes = work.map_init(Sampler::default, |sampler, ((draw, position), logits)| {
        let logits: Vec<f32> = logits[..op.vocab as usize].iter().map(|bits| widen(*bits)).collect();
        Draw::read(op, memory, draw)?.make(sampler, &logits, *position)
    });
    let outcomes = outcomes.collect::<Result<Vec<_>, _>>()?;
    draws.iter().zip(outcomes).enumerate().try_for_each(|(row, (draw, outcome))| write(op, memory, row, draw, &outcome))
}

/// A row's parameters, in the sampler's words.
struct Draw {
    params: SamplingParams,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    forbidden: Vec<u32>,
    given: Option<u32>,
}

impl Draw {
    fn read(op: &Sample, memory: &Memory, row: &SampleRow) -> Result<Self, Fault> {
        let biases = index("draws", row.bias_count, LONGEST)?;
        let bias_tokens = list::<i32>(memory, "bias_tokens", op.bias_tokens, row.bias_first, biases)?;
        let bias_values = list::<f32>(memory, "bias_values", op.bias_values, row.bias_first, biases)?;
        let forbidden = index("draws", row.forbidden_count, LONGEST)?;
        let forbidden = list::<i32>(memory, "forbidden", op.forbidden, row.forbidden_first, forbidden)?;
        let counts: Vec<u32> = match row.slot {
            ..0 => Vec::new(),
            _ => memory.read("counts", slot_at(op.counts, row.slot, op.vocab)?, op.vocab as usize)?.to_vec(),
        };
        let given = if row.given >= 0 { Some(index("draws", row.given, op.vocab as usize)? as u32) } else { None };
        let params = SamplingParams {
            temperature: row.temperature,
            top_p: row.top_p,
            top_k: row.top_k.max(0) as u32,
            min_p: row.min_p,
            repetition_penalty: row.repetition_penalty,
            presence_penalty: row.presence_penalty,
            frequency_penalty: row.frequency_penalty,
            logit_bias: bias_tokens.into_iter().map(|token| token as u32).zip(bias_values).collect(),
            seed: row.seed,
            logprobs: u8::try_from(row.logprobs.min(TOP as i32)).ok(),
        };
        let forbidden = forbidden.into_iter().map(|token| token as u32).collect();
        Ok(Self { params, prompt: in_prompt(&counts), answer: in_answer(&counts)?, forbidden, given })
    }

    fn make(&self, sampler: &mut Sampler, logits: &[f32], position: i32) -> Result<Outcome, Fault> {
        let Self { params, prompt, answer, forbidden, .. } = self;
        let position = position.wrapping_add(1) as u32;
        let drawn = match self.given {
            Some(token) => check_finite(logits, position).map(|()| scored(logits, token, params)).map_err(NoDraw::from),
            None => sampler.sample(logits, &Drawing { params, position, prompt, answer, forbidden }),
        };
        Ok(match drawn {
            Ok(SampledToken { token, logprob, top }) => {
                Outcome { status: DRAWN, token: token as i32, logprob: logprob.unwrap_or(0.0), top }
            }
            Err(NoDraw::NotANumber(found)) => Outcome::nothing(NOT_A_NUMBER, found.token as i32),
            Err(NoDraw::AllForbidden { .. }) => Outcome::nothing(ALL_FORBIDDEN, 0),
        })
    }
}

/// A token that nobody draws.
fn scored(logits: &[f32], token: u32, params: &SamplingParams) -> SampledToken {
    let scored = score(logits, token, params.logprobs.unwrap_or(0));
    SampledToken { token, logprob: Some(scored.logprob), top: scored.top }
}

struct Outcome {
    status: i32,
    token: i32,
    logprob: f32,
    top: Vec<Logprob>,
}

impl Outcome {
    fn nothing(status: i32, token: i32) -> Self {
        Self { status, token, logprob: 0.0, top: Vec::new() }
    }
}

fn write(op: &Sample, memory: &mut Memory, row: usize, draw: &SampleRow, outcome: &Outcome) -> Result<(), Fault> {
    let Outcome { status, token, logprob, top } = outcome;
    let result = SampleResult { status: *status, token: *token, logprob: *logprob, unused: 0 };
    memory.write("results", element::<SampleResult>(op.results, row), 1)?[0] = result;
    let tokens = memory.write("top_tokens", element::<[i32; TOP]>(op.top_tokens, row), top.len())?;
    tokens.iter_mut().zip(top).for_each(|(token, top): (&mut i32, _)| *token = top.token as i32);
    let logprobs = memory.write("top_logprobs", element::<[f32; TOP]>(op.top_logprobs, row), top.len())?;
    logprobs.iter_mut().zip(top).for_each(|(logprob, top): (&mut f32, _)| *logprob = top.logprob);
    if *status != DRAWN {
        return Ok(());
    }
    memory.write("drawn", element::<i32>(op.drawn, row), 1)?[0] = *token;
    if draw.slot >= 0 && draw.given < 0 {
        let count = &mut slot(memory, op.counts, draw.slot, op.vocab)?[*token as usize];
        *count = count.wrapping_add(1);
    }
    Ok(())
}

fn in_prompt(counts: &[u32]) -> Vec<u32> {
    (0..).zip(counts).filter(|(_, count)| **count & IN_PROMPT != 0).map(|(token, _)| token).collect()
}

/// Each token as often as it was counted.
fn in_answer(counts: &[u32]) -> Result<Vec<u32>, Fault> {
    let times = counts.iter().map(|count| (count & !IN_PROMPT) as usize);
    let total: usize = times.clone().sum();
    expect(total <= LONGEST, "counts", || format!("hold {total} tokens of an answer, expected at most {LONGEST}"))?;
    Ok((0..).zip(times).flat_map(|(token, times)| std::iter::repeat_n(token, times)).collect())
}

fn slot(memory: &mut Memory, counts: Address, slot: i32, vocab: u32) -> Result<&mut [u32], Fault> {
    memory.write("counts", slot_at(counts, slot, vocab)?, vocab as usize)
}

fn slot_at(counts: Address, slot: i32, vocab: u32) -> Result<Address, Fault> {
    let slot = natural("slot", slot)?;
    Ok(element::<u32>(counts, slot * vocab as usize))
}

/// So many numbers of a list, from the first one's index on; none, whatever that is, where there are none.
fn list<T: bytemuck::Pod>(
    memory: &Memory,
    field: &'static str,
    at: Address,
    first: i32,
    count: usize,
) -> Result<Vec<T>, Fault> {
    if count == 0 {
        return Ok(Vec::new());
    }
    let first = natural(field, first)?;
    Ok(memory.read(field, element::<T>(at, first), count)?.to_vec())
}
