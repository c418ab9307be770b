//! A sequence's logits are the same bits alone and in any batch, chunk, block table, cache hit and recompute.

use std::sync::Arc;

use proptest::prelude::*;
use safetensors::Dtype;
use serde_json::json;
use sluice_checkpoint::{LoadOptions, ModelFiles, Quantization, Silent};

use super::checkpoint::Checkpoint;
use super::{Run, Runner};
use crate::model::Model;

const BLOCKS: u32 = 64;
const LENGTH: usize = 40;
const SEQUENCES: usize = 4;

/// Of the sequences' tokens, how many came as their prompts: what a model chooses by the prompt differs between them.
const PROMPTS: [usize; SEQUENCES] = [LENGTH, LENGTH - 3, 8, 17];

/// One sequence's part in a schedule.
struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
    computed: usize,
    table: Vec<u32>,
}

/// What happens to one sequence in one step.
#[derive(Clone, Debug)]
enum Action {
    Rest,
    Compute(usize),
    /// Gives its blocks back, and starts over in others.
    Preempt,
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        2 => Just(Action::Rest),
        6 => (1usize..20).prop_map(Action::Compute),
        3 => Just(Action::Compute(1)),
        1 => Just(Action::Preempt),
    ]
}

/// Logits after every token, computed alone and one token at a time.
fn alone(runner: &mut Runner, Sequence { tokens, prompt, .. }: &Sequence, table: &[u32]) -> Vec<Vec<f32>> {
    let one = |end| runner.logits(&[Run { tokens, prompt: *prompt, start: end - 1, end, table }]).remove(0);
    (1..=tokens.len()).map(one).collect()
}

type Make = fn(u64, bool) -> Checkpoint;

/// Made for so short a context that the prompts are of three variants.
fn of_first_series(seed: u64, tied: bool) -> Checkpoint {
    let mut checkpoint = Checkpoint::qwen(seed);
    for (key, value) in [("seq_length", json!(8)), ("tie_word_embeddings", json!(tied))] {
        checkpoint.config[key] = value;
    }
    checkpoint
}

/// With widths that quantisation has blocks for.
fn wide(checkpoint: Checkpoint) -> Checkpoint {
    let mut wide = checkpoint;
    for (key, value) in [("hidden_size", 64), ("num_attention_heads", 4), ("intermediate_size", 128)] {
        wide.config[key] = json!(value);
    }
    wide
}

fn load(files: &ModelFiles, quantization: Quantization) -> Arc<dyn Model> {
    crate::load(files, LoadOptions { quantization, ..LoadOptions::default() }, Box::new(Silent)).unwrap()
}

/// Free blocks in an order that looks random.
struct FreeBlocks(Vec<u32>);

impl FreeBlocks {
    fn new(seed: u64) -> Self {
        let mut blocks: Vec<u32> = (0..BLOCKS).collect();
        blocks.sort_by_key(|block| sluice_core::philox::philox(seed, u128::from(*block)));
        Self(blocks)
    }

    fn table(&mut self, length: usize) -> Vec<u32> {
        self.0.split_off(self.0.len() - length)
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_sequence_does_not_notice_its_company(
        seed: u64,
        model in prop::sample::select(vec![Checkpoint::qwen2 as Make, Checkpoint::qwen3, of_first_series]),
        tied: bool,
        dtype in prop::sample::select(vec![Dtype::F32, Dtype::F16, Dtype::BF16]),
        quantization in prop::sample::select(vec![Quantization::None, Quantization::Int8, Quantization::Nf4]),
        block_tokens in prop::sample::select(vec![4u32, 16, 24]),
        shared_blocks in 0usize..3,
        schedule in prop::collection::vec(prop::collection::vec(action(), SEQUENCES), 1..30),
    ) {
        let (_folder, files) = Checkpoint { dtype, ..wide(model(seed, tied)) }.write();
        let mut runner = Runner::new(load(&files, quantization), BLOCKS, block_tokens);
        let per_table = LENGTH.div_ceil(block_tokens as usize);
        let shared = (shared_blocks * block_tokens as usize).min(LENGTH / 2) / block_tokens as usize;
        let mut sequences = sequences(seed, shared * block_tokens as usize);
        let straight: Vec<u32> = (0..per_table as u32).collect();
        let expected: Vec<_> = sequences.iter().map(|s| alone(&mut runner, s, &straight)).collect();

        let mut free = FreeBlocks::new(seed);
        for sequence in &mut sequences {
            sequence.table = free.table(per_table);
        }
        hit_prefix(&mut runner, &mut sequences, shared, block_tokens as usize);
        for step in schedule {
            preempt(&step, &mut sequences, &mut free);
            let (rows, runs) = plan(&step, &sequences);
            let ends: Vec<usize> = runs.iter().map(|run| run.end).collect();
            let logits = runner.logits(&runs);
            for ((row, end), logits) in rows.into_iter().zip(ends).zip(logits) {
                prop_assert_eq!(&logits, &expected[row][end - 1], "sequence {} after {} tokens", row, end);
                sequences[row].computed = end;
            }
        }
    }
}

/// The first two begin alike.
fn sequences(seed: u64, shared: usize) -> Vec<Sequence> {
    let token = |row: usize, index: usize| {
        let row = if index < shared && row == 1 { 0 } else { row };
        sluice_core::philox::philox(seed, (row * LENGTH + index) as u128)[0] % 97
    };
    let tokens = |row| (0..LENGTH).map(|index| token(row, index)).collect();
    let sequence = |row| Sequence { tokens: tokens(row), prompt: PROMPTS[row], computed: 0, table: Vec::new() };
    (0..SEQUENCES).map(sequence).collect()
}

/// The first computes the prefix; the second finds it in the first one's blocks.
fn hit_prefix(runner: &mut Runner, sequences: &mut [Sequence], blocks: usize, block_tokens: usize) {
    let prefix = blocks * block_tokens;
    if prefix == 0 {
        return;
    }
    let Sequence { tokens, prompt, table, .. } = &sequences[0];
    runner.logits(&[Run { tokens, prompt: *prompt, start: 0, end: prefix, table }]);
    let shared = table[..blocks].to_vec();
    sequences[1].table[..blocks].copy_from_slice(&shared);
    sequences[0].computed = prefix;
    sequences[1].computed = prefix;
}

/// One that starts over gets other blocks, and what is left in them is another sequence's.
fn preempt(step: &[Action], sequences: &mut [Sequence], free: &mut FreeBlocks) {
    for (sequence, action) in sequences.iter_mut().zip(step) {
        if matches!(action, Action::Preempt) {
            sequence.computed = 0;
            if free.0.len() >= sequence.table.len() {
                sequence.table = free.table(sequence.table.len());
            }
        }
    }
}

fn plan<'a>(step: &[Action], sequences: &'a [Sequence]) -> (Vec<usize>, Vec<Run<'a>>) {
    let run = |(row, (sequence, action)): (usize, (&'a Sequence, &Action))| match action {
        Action::Compute(count) if sequence.computed < LENGTH => {
            let Sequence { tokens, prompt, computed, table } = sequence;
            let end = LENGTH.min(computed + count);
            Some((row, Run { tokens, prompt: *prompt, start: *computed, end, table }))
        }
        _ => None,
    };
    sequences.iter().zip(step).enumerate().filter_map(run).unzip()
}
