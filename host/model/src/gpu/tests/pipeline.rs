//! Steps that are planned before the one ahead of them is done give what they give one at a time.

use sluice_checkpoint::Quantization;
use sluice_core::{
    Batch, BlockId, Draw, Executor, RequestId, Row, Sampled, SampledToken, SamplingParams, Score, Scored, StepOutput,
    TokenSource,
};
use sluice_kernels::Card;

use super::{on, on_cpu, options};
use crate::embedded;
use crate::gpu::{GpuExecutor, HostDevice};
use crate::step::StepLimits;

const LIMITS: StepLimits = StepLimits { blocks: 64, block_tokens: 16, max_tokens: 256, max_rows: 6 };
const PROMPTS: [&[u32]; 3] = [&[5, 70, 300, 9], &[1200, 3, 3], &[44; 20]];
const NEW_TOKENS: usize = 24;

fn executor(device: HostDevice) -> GpuExecutor<HostDevice> {
    on(device.poisoned(), &embedded(), options(&embedded(), Quantization::None), LIMITS)
}

/// One sequence's own parameters.
fn params(sequence: usize) -> SamplingParams {
    let plain = SamplingParams { seed: sequence as u64, ..SamplingParams::greedy() };
    match sequence {
        0 => plain,
        1 => SamplingParams { temperature: 0.9, top_k: 4, top_p: 0.95, logprobs: Some(3), ..plain },
        _ => SamplingParams {
            temperature: 0.7,
            top_k: 4,
            repetition_penalty: 1.3,
            frequency_penalty: 0.4,
            presence_penalty: 0.2,
            logit_bias: vec![(7, 4.0), (9, -100.0)],
            ..plain
        },
    }
}

/// A row for the tokens from `start` on: those that are known, or the one that the step before draws.
fn add(batch: &mut Batch, sequence: usize, known: &[u32], start: usize) {
    let params = params(sequence);
    let history_offset = batch.history.len();
    if params.penalises() {
        batch.history.extend(known);
    }
    let tokens = known.len().saturating_sub(start).max(1);
    let draw = Draw {
        history_offset,
        history_tokens: batch.history.len() - history_offset,
        forbidden: (start + tokens < PROMPTS[sequence].len() + 3).then(|| [0, 2].into()),
        ..Draw::new(params)
    };
    batch.rows.push(Row {
        sequence: RequestId(sequence as u64),
        start: start as u32,
        tokens: tokens as u32,
        prompt_tokens: PROMPTS[sequence].len() as u32,
        token_offset: batch.tokens.len(),
        block_offset: batch.blocks.len(),
        block_count: 4,
        draw: Some(draw),
        score: None,
    });
    let source = |place| known.get(place).map_or(TokenSource::PreviousStep, |token| TokenSource::Known(*token));
    batch.tokens.extend((start..start + tokens).map(source));
    batch.blocks.extend((sequence as u32 * 4..sequence as u32 * 4 + 4).map(BlockId));
}

fn collect(executor: &mut dyn Executor) -> StepOutput {
    executor.wait().unwrap();
    executor.collect(0).unwrap().expect("it was waited for").1
}

fn tokens(output: StepOutput) -> Vec<SampledToken> {
    let drawn = output.sampled.into_iter().map(|(_, sampled)| match sampled {
        Sampled::Token(token) => token,
        Sampled::Failed(why) => panic!("{why}"),
    });
    drawn.collect()
}

/// All sequences' answers; so many steps are in flight.
fn generate(executor: &mut dyn Executor, depth: usize) -> Vec<Vec<SampledToken>> {
    let mut known: Vec<Vec<u32>> = PROMPTS.iter().map(|prompt| prompt.to_vec()).collect();
    let mut answers = vec![Vec::new(); PROMPTS.len()];
    let (mut submitted, mut collected) = (0, 0);
    while collected < NEW_TOKENS {
        while submitted < NEW_TOKENS && submitted - collected < depth {
            let mut batch = Batch { step: submitted as u64 + 1, ..Batch::default() };
            for (sequence, known) in known.iter().enumerate() {
                let start = if submitted == 0 { 0 } else { PROMPTS[sequence].len() + submitted - 1 };
                add(&mut batch, sequence, known, start);
            }
            executor.submit(&batch, 0).unwrap();
            submitted += 1;
        }
        for (sequence, token) in tokens(collect(executor)).into_iter().enumerate() {
            known[sequence].push(token.token);
            answers[sequence].push(token);
        }
        collected += 1;
    }
    answers
}

#[test]
fn two_steps_in_flight_draw_what_one_draws() {
    let one = generate(&mut executor(HostDevice::new(Card::h200())), 1);
    let two = generate(&mut executor(HostDevice::new(Card::h200()).lagging(3)), 2);
    assert_eq!(one, two);
    assert!(one[1].iter().all(|token| token.top.len() == 3 && token.logprob.is_some()));
    assert!(one[2].iter().all(|token| token.token != 9 && token.logprob.is_none()));
}

/// The same parameters and the same seeds; where the model is sure, rounding to bf16 changes nothing.
#[test]
fn draws_follow_the_rules_of_the_cpu() {
    let files = embedded();
    let mut cpu = on_cpu(&files, options(&files, Quantization::None), LIMITS);
    let (cpu, gpu) = (generate(&mut cpu, 1), generate(&mut executor(HostDevice::new(Card::h200())), 2));
    for (sequence, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        let same = cpu.iter().zip(gpu).take_while(|(cpu, gpu)| cpu.token == gpu.token).count();
        eprintln!("sequence {sequence}: {same} of {NEW_TOKENS} tokens are the same");
        assert!(same >= NEW_TOKENS / 2, "sequence {sequence}: {same}");
    }
}

/// What was counted draw by draw is what is counted at once where nothing was.
#[test]
fn a_sequence_that_comes_back_is_counted_again() {
    let (mut kept, mut known) = (executor(HostDevice::new(Card::h200())), PROMPTS[2].to_vec());
    for place in 0..NEW_TOKENS {
        // Computed from the beginning, as after a preemption.
        let mut batch = Batch::default();
        add(&mut batch, 2, &known, 0);
        let drawn = [&mut kept, &mut executor(HostDevice::new(Card::h200()))].map(|executor| {
            executor.submit(&batch, 0).unwrap();
            tokens(collect(executor)).remove(0).token
        });
        assert_eq!(drawn[0], drawn[1], "token {place}");
        known.push(drawn[0]);
    }
}

#[test]
fn prompts_are_scored_in_groups_and_beside_draws() {
    let files = embedded();
    let score = |executor: &mut dyn Executor| {
        let mut batch = Batch::default();
        add(&mut batch, 0, PROMPTS[0], 0);
        add(&mut batch, 2, PROMPTS[2], 0);
        batch.rows[1].draw = None;
        batch.rows[1].score = Some(Score { alternatives: 2, next: Some(44) });
        batch.history.clear();
        executor.submit(&batch, 0).unwrap();
        let output = collect(executor);
        assert_eq!(output.sampled.len(), 1);
        match &output.scored[..] {
            [(RequestId(2), Scored::Tokens(tokens))] => tokens.clone(),
            other => panic!("{other:?}"),
        }
    };
    let cpu = score(&mut on_cpu(&files, options(&files, Quantization::None), LIMITS));
    let gpu = score(&mut executor(HostDevice::new(Card::h200())));
    assert_eq!((cpu.len(), gpu.len()), (20, 20));
    for (cpu, gpu) in cpu.iter().zip(&gpu) {
        assert_eq!((cpu.token, cpu.top.len()), (gpu.token, gpu.top.len()));
        assert!((cpu.logprob - gpu.logprob).abs() < 0.2, "{} {}", cpu.logprob, gpu.logprob);
    }
}

#[test]
fn what_the_engine_must_not_ask_for_is_refused_and_the_next_step_is_computed() {
    let mut executor = executor(HostDevice::new(Card::h200()));
    let mut batch = Batch::default();
    add(&mut batch, 0, PROMPTS[0], 0);
    batch.tokens[1] = TokenSource::PreviousStep;
    assert!(executor.submit(&batch, 0).unwrap_err().message.contains("not collected"));
    batch.tokens[1] = TokenSource::Known(9999);
    assert!(executor.submit(&batch, 0).unwrap_err().message.contains("vocabulary"));
    batch.tokens[1] = TokenSource::Known(1);
    batch.blocks[0] = BlockId(64);
    assert!(executor.submit(&batch, 0).unwrap_err().message.contains("block 64"));
    batch.blocks[0] = BlockId(63);
    executor.submit(&batch, 0).unwrap();
    assert_eq!(tokens(collect(&mut executor)).len(), 1);
    assert_eq!(executor.collect(0).unwrap(), None);
}
