//! Qwen's first series against its published formulas, at prompt lengths on both sides of each alpha.

use sluice_checkpoint::LoadFormat;
use sluice_core::philox::philox;
use sluice_core::{BlockHash, HashChain};

use super::checkpoint::Checkpoint;
use super::qwen_reference::{Reference, alpha};
use super::{Run, Runner, load};

/// Within one alpha, on both sides of its ends, and far into the last.
const LENGTHS: [usize; 11] = [100, 2047, 2048, 2049, 2050, 3000, 4095, 4096, 4097, 4098, 6000];
/// Computed after each prompt, whatever the logits say: with this, 2047 and 4095 pass the end of their alpha.
const ANSWER: usize = 12;
const BLOCK_TOKENS: usize = 16;
const BLOCKS: u32 = 1024;
/// More than the longest prompt, so that it can be computed in one step.
const STEP_TOKENS: u32 = 6144;
/// Ten times what was seen; another alpha is off by 0.1 and more.
const CLOSE: f64 = 1e-4;

/// The same tokens for everybody; the first `prompt` of them came as the prompt.
struct Sequence {
    tokens: Vec<u32>,
    prompt: usize,
}

impl Sequence {
    fn new(prompt: usize) -> Self {
        let token = |index: usize| philox(3, index as u128)[0] % 97;
        Self { tokens: (0..prompt + ANSWER).map(token).collect(), prompt }
    }

    /// Computes the tokens from `start` to `end` in chunks, with everything before `start` in the cache.
    fn compute(&self, runner: &mut Runner, table: &[u32], start: usize, end: usize, chunk: usize) -> Vec<f32> {
        let run = |start: usize| {
            let end = end.min(start + chunk);
            let run = Run { tokens: &self.tokens, prompt: self.prompt, start, end, table };
            runner.logits(&[run]).remove(0)
        };
        (start..end).step_by(chunk).map(run).last().unwrap()
    }

    /// The logits after the tokens up to `start`, which are computed at last, and then after every token.
    fn answer(&self, runner: &mut Runner, table: &[u32], last: Vec<f32>, start: usize) -> Vec<Vec<f32>> {
        let rest = (start..self.tokens.len()).map(|start| self.compute(runner, table, start, start + 1, 1));
        std::iter::once(last).chain(rest.collect::<Vec<_>>()).collect()
    }

    /// What lies in its blocks, as the edge hashes it.
    fn hashes(&self, runner: &Runner) -> Vec<BlockHash> {
        let variant = runner.model.info().variants.of(self.prompt as u32);
        let chain = HashChain::new(&variant.to_le_bytes(), &self.tokens[..self.prompt], BLOCK_TOKENS as u32);
        chain.hashes().to_vec()
    }
}

fn runner(checkpoint: &Checkpoint) -> Runner {
    let (_folder, files) = checkpoint.write();
    Runner::sized(load(&files, LoadFormat::Auto).unwrap(), BLOCKS, BLOCK_TOKENS as u32, STEP_TOKENS)
}

/// Two tables that share no block, each long enough for any sequence here.
fn tables() -> [Vec<u32>; 2] {
    [0, 1].map(|odd| (0..BLOCKS / 2).map(|block| block * 2 + odd).collect())
}

/// The largest; NaN where there is one.
fn difference(found: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let apart = found.iter().zip(expected).map(|(found, expected)| (f64::from(*found) - expected).abs());
    apart.max_by(f64::total_cmp).unwrap()
}

/// What the reference says after each token from a prompt's last on, for all prompts of one alpha in one pass.
fn expected(checkpoint: &Checkpoint, prompts: &[usize]) -> Vec<Vec<Vec<f64>>> {
    let (longest, alpha) = (Sequence::new(*prompts.iter().max().unwrap()), alpha(prompts[0]));
    let positions = |prompt: &usize| prompt - 1..prompt + ANSWER;
    let mut wanted: Vec<usize> = prompts.iter().flat_map(positions).collect();
    wanted.sort_unstable();
    wanted.dedup();
    let logits = Reference::new(checkpoint).logits(&longest.tokens, alpha, &wanted);
    let at = |position| logits[wanted.binary_search(&position).unwrap()].clone();
    prompts.iter().map(|prompt| positions(prompt).map(at).collect()).collect()
}

/// Whole, in chunks, and preempted twice, which neither the chunks nor the alpha may show.
fn check(runner: &mut Runner, prompt: usize, expected: &[Vec<f64>]) {
    let (sequence, [first, second]) = (Sequence::new(prompt), tables());
    let last = sequence.compute(runner, &first, 0, prompt, prompt);
    let whole = sequence.answer(runner, &first, last, prompt);
    assert_eq!(whole.len(), expected.len());
    for (more, (found, expected)) in whole.iter().zip(expected).enumerate() {
        let difference = difference(found, expected);
        assert!(difference < CLOSE, "{prompt} tokens and {more} more: off by {difference}");
    }
    let last = sequence.compute(runner, &second, 0, prompt, 700);
    assert!(sequence.answer(runner, &second, last, prompt) == whole, "{prompt} tokens in chunks");

    sequence.compute(runner, &second, 0, prompt / 2, 512);
    sequence.compute(runner, &first, 0, prompt, 512);
    // Preempted again within the answer: what was generated is computed again with the prompt.
    let again = prompt + ANSWER / 2;
    let last = sequence.compute(runner, &second, 0, again, 999);
    assert!(sequence.answer(runner, &second, last, again) == whole[ANSWER / 2..], "{prompt} tokens, preempted");
}

#[test]
fn prompts_of_every_length_whole_in_chunks_and_preempted() {
    let checkpoint = Checkpoint::qwen(1);
    let mut runner = runner(&checkpoint);
    for prompts in LENGTHS.chunk_by(|a, b| alpha(*a) == alpha(*b)) {
        for (prompt, expected) in prompts.iter().zip(expected(&checkpoint, prompts)) {
            check(&mut runner, *prompt, &expected);
        }
    }
}

/// Without it the test above would prove nothing of alpha: a prompt of 2,048 whose answer passes 2,048 tokens.
#[test]
fn another_alpha_would_show() {
    let checkpoint = Checkpoint::qwen(1);
    let (sequence, reference) = (Sequence::new(2048), Reference::new(&checkpoint));
    let last = [sequence.tokens.len() - 1];
    let [kept, chosen_anew] = [2048, sequence.tokens.len()].map(alpha);
    let [kept, chosen_anew] =
        [kept, chosen_anew].map(|alpha| reference.logits(&sequence.tokens, alpha, &last).remove(0));
    let found = sequence.compute(&mut runner(&checkpoint), &tables()[0], 0, sequence.tokens.len(), 1000);
    assert!(difference(&found, &kept) < CLOSE);
    assert!(difference(&found, &chosen_anew) > 100.0 * CLOSE);
}

/// Takes over the blocks of the longest whole prefix of another sequence.
fn from_the_blocks_of(runner: &mut Runner, other: &Sequence, sequence: &Sequence) -> Vec<f32> {
    let [table, _] = tables();
    other.compute(runner, &table, 0, other.prompt, 900);
    let cached = other.prompt / BLOCK_TOKENS * BLOCK_TOKENS;
    sequence.compute(runner, &table, cached, sequence.prompt, 900)
}

#[test]
fn a_prefix_is_shared_within_an_alpha_and_must_not_be_beyond_it() {
    let mut runner = runner(&Checkpoint::qwen(1));
    let [short, long, longer] = [2000, 2500, 3000].map(Sequence::new);
    let alone = longer.compute(&mut runner, &tables()[1], 0, longer.prompt, 900);
    assert!(from_the_blocks_of(&mut runner, &long, &longer) == alone);
    let wrong = from_the_blocks_of(&mut runner, &short, &longer);
    let wide: Vec<f64> = alone.iter().map(|logit| f64::from(*logit)).collect();
    assert!(difference(&wrong, &wide) > 100.0 * CLOSE, "keys of another alpha are other keys");

    let [short, long, longer] = [short, long, longer].map(|sequence| sequence.hashes(&runner));
    assert_eq!(long[..], longer[..long.len()]);
    assert!(short.iter().all(|hash| !longer.contains(hash)), "and are not found");
}
