//! Draws on the device against the sampler itself, from counts instead of the tokens before.

use proptest::prelude::*;
use sluice_core::{SampledToken, SamplingParams};
use sluice_kernels::Address;
use sluice_kernels::Card;
use sluice_kernels::op::{Count, Op, Sample};
use sluice_kernels::sampling::{
    ALL_FORBIDDEN, CountSpan, DRAWN, IN_PROMPT, NOT_A_NUMBER, SampleResult, SampleRow, TOP,
};

use super::{Rig, noise, rounded};
use crate::logprobs::score;
use crate::sampling::{Drawing, Sampler};

const VOCAB: usize = 61;
const STRIDE: usize = 72;

/// Four slots; rows draw with slots of their own.
const SLOTS: usize = 4;

struct Step {
    op: Sample,
    counts: Address,
}

/// What a row is asked for, in the sampler's words.
#[derive(Clone, Debug)]
struct Ask {
    params: SamplingParams,
    prompt: Vec<u32>,
    answer: Vec<u32>,
    forbidden: Vec<u32>,
    position: u32,
}

/// Counts what came before, then draws. Row r has slot r where it penalises.
fn step(rig: &mut Rig, logits: &[f32], asks: &[Ask], change: impl Fn(usize, &mut SampleRow)) -> Step {
    let counts = rig.room::<u32>(SLOTS * VOCAB);
    count(rig, counts, asks);
    let mut bias: Vec<(u32, f32)> = Vec::new();
    let (mut forbidden, mut draws) = (Vec::new(), Vec::new());
    for (row, ask) in asks.iter().enumerate() {
        let Ask { params, .. } = ask;
        let mut draw = SampleRow {
            temperature: params.temperature,
            top_p: params.top_p,
            min_p: params.min_p,
            repetition_penalty: params.repetition_penalty,
            presence_penalty: params.presence_penalty,
            frequency_penalty: params.frequency_penalty,
            top_k: params.top_k as i32,
            logprobs: params.logprobs.map_or(-1, i32::from),
            seed: params.seed,
            bias_first: bias.len() as i32,
            bias_count: params.logit_bias.len() as i32,
            forbidden_first: forbidden.len() as i32,
            forbidden_count: ask.forbidden.len() as i32,
            slot: if params.penalises() { row as i32 } else { -1 },
            ..SampleRow::greedy()
        };
        change(row, &mut draw);
        draws.push(draw);
        bias.extend(&params.logit_bias);
        forbidden.extend(ask.forbidden.iter().map(|token| *token as i32));
    }
    let rows: Vec<f32> =
        logits.chunks(VOCAB).flat_map(|row| row.iter().copied().chain([f32::NAN; STRIDE - VOCAB])).collect();
    let positions: Vec<i32> = asks.iter().map(|ask| ask.position as i32 - 1).collect();
    let op = Sample {
        logits: rig.put_bf16(&rows),
        stride: STRIDE as u32,
        vocab: VOCAB as u32,
        draws: rig.put(&draws),
        positions: rig.put(&positions),
        bias_tokens: rig.put(&bias.iter().map(|(token, _)| *token as i32).collect::<Vec<_>>()),
        bias_values: rig.put(&bias.iter().map(|(_, value)| *value).collect::<Vec<_>>()),
        forbidden: rig.put(&forbidden),
        counts,
        drawn: rig.put(&vec![-7i32; asks.len()]),
        results: rig.room::<SampleResult>(asks.len()),
        top_tokens: rig.room::<[i32; TOP]>(asks.len()),
        top_logprobs: rig.room::<[f32; TOP]>(asks.len()),
        rows: asks.len() as u32,
    };
    rig.run(Op::Sample(op)).unwrap();
    Step { op, counts }
}

fn count(rig: &mut Rig, counts: Address, asks: &[Ask]) {
    let (mut tokens, mut spans) = (vec![i32::MAX], Vec::new());
    for (row, ask) in asks.iter().enumerate().filter(|(_, ask)| ask.params.penalises()) {
        let (first, prompt) = (tokens.len() as i32, ask.prompt.len() as i32);
        spans.push(CountSpan { first, prompt, answer: ask.answer.len() as i32, slot: row as i32 });
        tokens.extend(ask.prompt.iter().chain(&ask.answer).map(|token| *token as i32));
    }
    let (tokens, span_count) = (rig.put(&tokens), spans.len() as u32);
    let spans = rig.put(&spans);
    rig.run(Op::Count(Count { tokens, spans, span_count, counts, vocab: VOCAB as u32 })).unwrap();
}

fn check(rig: &mut Rig, step: &Step, row: usize, ask: &Ask, expected: &SampledToken) {
    let rows = step.op.rows as usize;
    let result = rig.get::<SampleResult>(step.op.results, rows)[row];
    let logprob = expected.logprob.unwrap_or(0.0);
    assert_eq!((result.status, result.token as u32, result.logprob), (DRAWN, expected.token, logprob), "{ask:?}");
    assert_eq!(rig.get::<i32>(step.op.drawn, rows)[row], result.token);
    let tokens = rig.get::<[i32; TOP]>(step.op.top_tokens, rows)[row];
    let logprobs = rig.get::<[f32; TOP]>(step.op.top_logprobs, rows)[row];
    for (place, top) in expected.top.iter().enumerate() {
        assert_eq!((tokens[place] as u32, logprobs[place]), (top.token, top.logprob), "{ask:?}");
    }
    if ask.params.penalises() {
        let counts = rig.get::<u32>(step.counts, SLOTS * VOCAB)[row * VOCAB..][..VOCAB].to_vec();
        for (token, count) in (0u32..).zip(counts) {
            let times = ask.answer.iter().chain([&expected.token]).filter(|of| **of == token).count() as u32;
            assert_eq!(count, times | if ask.prompt.contains(&token) { IN_PROMPT } else { 0 }, "token {token}");
        }
    }
}

fn tokens(most: usize) -> impl Strategy<Value = Vec<u32>> {
    // Some are not in the vocabulary.
    prop::collection::vec(0..VOCAB as u32 + 5, 0..most)
}

fn ask() -> impl Strategy<Value = Ask> {
    let truncations =
        (prop_oneof![Just(0.0f32), 0.1f32..2.0], 0.3f32..1.1, 0u32..70, prop_oneof![Just(0.0), 0f32..0.3]);
    let penalties = (prop_oneof![Just(1.0f32), 0.5f32..2.0], prop_oneof![Just(0.0f32), -1f32..1.0], 0f32..0.5);
    let bias = prop::sample::subsequence((0..VOCAB as u32).collect::<Vec<_>>(), 0..6);
    let before = (tokens(9), tokens(9), tokens(9), 1u32..5000);
    (truncations, penalties, bias, before, any::<u64>(), prop::option::of(0u8..=20)).prop_map(
        |((temperature, top_p, top_k, min_p), (repetition, presence, frequency), bias, before, seed, logprobs)| {
            let params = SamplingParams {
                temperature,
                top_p,
                top_k,
                min_p,
                repetition_penalty: repetition,
                presence_penalty: presence,
                frequency_penalty: if presence == 0.0 { 0.0 } else { frequency },
                logit_bias: bias.into_iter().map(|token| (token, (token as f32 - 30.0) / 9.0)).collect(),
                seed,
                logprobs,
            };
            let (prompt, answer, forbidden, position) = before;
            Ask { params, prompt, answer, forbidden, position }
        },
    )
}

fn plain() -> Ask {
    let params = SamplingParams::greedy();
    Ask { params, prompt: Vec::new(), answer: Vec::new(), forbidden: Vec::new(), position: 1 }
}

fn random_logits(seed: u64, rows: usize) -> Vec<f32> {
    noise(seed, rows * VOCAB).iter().map(|number| rounded(number * 6.0)).collect()
}

proptest! {
    #[test]
    fn draws_are_the_samplers(asks in prop::collection::vec(ask(), 1..=SLOTS), seed in 0u64..1000) {
        let mut rig = Rig::new(Card::h200());
        let logits = random_logits(seed, asks.len());
        let step = step(&mut rig, &logits, &asks, |_, _| {});
        for (row, (ask, logits)) in asks.iter().zip(logits.chunks(VOCAB)).enumerate() {
            let Ask { params, prompt, answer, forbidden, position } = ask;
            let drawing = Drawing { params, position: *position, prompt, answer, forbidden };
            let expected = Sampler::default().sample(logits, &drawing).unwrap();
            check(&mut rig, &step, row, ask, &expected);
        }
    }
}

#[test]
fn a_given_token_is_scored_and_not_counted() {
    let mut rig = Rig::new(Card::h200());
    let penalising = SamplingParams { presence_penalty: 2.0, logprobs: Some(7), ..SamplingParams::greedy() };
    let asks = [Ask { params: penalising, answer: vec![3, 3], forbidden: vec![5], ..plain() }, plain()];
    let logits = random_logits(3, 2);
    let step = step(&mut rig, &logits, &asks, |_, draw| draw.given = 5);
    let results = rig.get::<SampleResult>(step.op.results, 2);
    for (logits, result) in logits.chunks(VOCAB).zip(results) {
        let expected = score(logits, 5, 0);
        assert_eq!((result.status, result.token, result.logprob), (DRAWN, 5, expected.logprob));
    }
    let top = score(&logits[..VOCAB], 5, 7).top;
    let found = rig.get::<[i32; TOP]>(step.op.top_tokens, 1)[0];
    assert!(top.iter().zip(found).all(|(top, found)| top.token == found as u32));
    let counts = rig.get::<u32>(step.counts, VOCAB);
    assert_eq!((counts[3], counts.iter().sum::<u32>()), (2, 2));
}

#[test]
fn what_cannot_be_drawn_says_why_and_spoils_no_other_row() {
    let mut rig = Rig::new(Card::h200());
    let all: Vec<u32> = (0..VOCAB as u32).collect();
    let asks = [plain(), Ask { forbidden: all, ..plain() }, plain()];
    let mut logits = random_logits(4, 3);
    (logits[17], logits[20]) = (f32::INFINITY, f32::NAN);
    let step = step(&mut rig, &logits, &asks, |_, _| {});
    let results = rig.get::<SampleResult>(step.op.results, 3);
    assert_eq!((results[0].status, results[0].token), (NOT_A_NUMBER, 17));
    assert_eq!(results[1].status, ALL_FORBIDDEN);
    assert_eq!(results[2].status, DRAWN);
    assert_eq!(rig.get::<i32>(step.op.drawn, 3), [-7, -7, results[2].token]);
}
