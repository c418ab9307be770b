//! Greedy answers of one length to prompts of one length, two steps in flight: what the peers' figures were measured on.

use std::time::{Duration, Instant};

use sluice_core::{
    Batch, BlockId, Draw, Executor, ExecutorError, RequestId, Row, Sampled, SamplingParams, StepOutput, StepTimes,
    TokenSource,
};

const BLOCK_TOKENS: u32 = 16;

/// So many sequences side by side.
#[derive(Clone, Copy, Debug)]
pub struct Generation {
    pub sequences: u32,
    /// Tokens of each prompt.
    pub prompt: u32,
    /// Tokens of each answer.
    pub answer: u32,
    /// Tokens that are computed in a step at most.
    pub max_tokens: u32,
    pub vocab: u32,
}

/// How long the steps took.
#[derive(Clone, Debug, Default)]
pub struct Timed {
    /// Of all prompts, the first token of each answer included.
    pub prefill: Duration,
    /// From one step's end to the next one's, in order.
    pub decode: Vec<Duration>,
    /// Of those steps, that the device computed.
    pub device: Vec<Duration>,
    /// And that its bandwidth and arithmetic allow; none where they are not known.
    pub roof: Vec<Duration>,
    /// The answers' tokens, the first excepted.
    pub tokens: Vec<Vec<u32>>,
}

impl Generation {
    /// Blocks that it takes.
    pub fn blocks(&self) -> u32 {
        self.sequences * self.blocks_each()
    }

    pub fn run(&self, executor: &mut dyn Executor) -> Result<Timed, ExecutorError> {
        let mut timed = Timed { tokens: vec![Vec::new(); self.sequences as usize], ..Timed::default() };
        let began = Instant::now();
        let mut last = self.prefill(executor)?;
        timed.prefill = began.elapsed();
        let mut ended = Instant::now();
        let (mut submitted, mut collected) = (0, 0);
        // The first of them was drawn with the prompts.
        let steps = self.answer - 1;
        while collected < steps {
            while submitted < steps && submitted - collected < executor.depth() as u32 {
                executor.submit(&self.decode(submitted, &last), 0)?;
                submitted += 1;
            }
            let output = finish(executor)?;
            timed.decode.push(ended.elapsed());
            timed.device.push(Duration::from_nanos(output.times.device));
            timed.roof.extend(output.times.roof.map(Duration::from_nanos));
            ended = Instant::now();
            last = tokens(output)?;
            timed.tokens.iter_mut().zip(&last).for_each(|(tokens, token)| tokens.push(*token));
            collected += 1;
        }
        Ok(timed)
    }

    /// One step in which each sequence but the last is given a token, and the last as many of its prompt.
    pub fn mixed(&self, executor: &mut dyn Executor, run: u32) -> Result<StepTimes, ExecutorError> {
        let last = self.sequences - 1;
        let mut batch = self.decode(0, &vec![0; last as usize]);
        let prompt = (0..run).map(|place| TokenSource::Known(self.token(last, place)));
        self.add(&mut batch, last, 0, prompt.collect(), true);
        executor.submit(&batch, 0)?;
        let output = finish(executor)?;
        let times = output.times;
        tokens(output).map(|_| times)
    }

    /// Whole prompts, as many at once as there may be. Gives the first token of each answer.
    fn prefill(&self, executor: &mut dyn Executor) -> Result<Vec<u32>, ExecutorError> {
        let at_once = (self.max_tokens / self.prompt).max(1);
        let mut drawn = Vec::new();
        for first in (0..self.sequences).step_by(at_once as usize) {
            let mut start = 0;
            while start < self.prompt {
                let run = self.max_tokens.min(self.prompt - start);
                let mut batch = Batch::default();
                for sequence in first..(first + at_once).min(self.sequences) {
                    let prompt = (start..start + run).map(|place| TokenSource::Known(self.token(sequence, place)));
                    self.add(&mut batch, sequence, start, prompt.collect(), start + run == self.prompt);
                }
                executor.submit(&batch, 0)?;
                drawn.extend(tokens(finish(executor)?)?);
                start += run;
            }
        }
        Ok(drawn)
    }

    fn decode(&self, step: u32, first: &[u32]) -> Batch {
        let mut batch = Batch { step: u64::from(step) + 1, ..Batch::default() };
        for (sequence, token) in (0..).zip(first) {
            let token = if step == 0 { TokenSource::Known(*token) } else { TokenSource::PreviousStep };
            self.add(&mut batch, sequence, self.prompt + step, vec![token], true);
        }
        batch
    }

    fn add(&self, batch: &mut Batch, sequence: u32, start: u32, run: Vec<TokenSource>, draws: bool) {
        let each = self.blocks_each();
        batch.rows.push(Row {
            sequence: RequestId(sequence.into()),
            start,
            tokens: run.len() as u32,
            prompt_tokens: self.prompt,
            token_offset: batch.tokens.len(),
            block_offset: batch.blocks.len(),
            block_count: each as usize,
            draw: draws.then(|| Draw::new(SamplingParams::greedy())),
            score: None,
        });
        batch.tokens.extend(run);
        batch.blocks.extend((sequence * each..(sequence + 1) * each).map(BlockId));
    }

    /// Each prompt is another one.
    fn token(&self, sequence: u32, place: u32) -> u32 {
        (sequence.wrapping_mul(0x9e37_79b9) ^ place.wrapping_mul(0x85eb_ca6b)) % self.vocab
    }

    fn blocks_each(&self) -> u32 {
        (self.prompt + self.answer).div_ceil(BLOCK_TOKENS)
    }
}

impl Timed {
    /// The mean step between the 16th and the last token, which leaves out what a start costs.
    pub fn step(&self) -> Duration {
        mean(&self.decode)
    }

    /// The same of the time that the device computed.
    pub fn device_step(&self) -> Duration {
        mean(&self.device)
    }

    pub fn roof_step(&self) -> Duration {
        mean(&self.roof)
    }
}

/// Steps that are not counted.
const WARM_UP: usize = 15;

fn mean(steps: &[Duration]) -> Duration {
    let counted = steps.get(WARM_UP..).unwrap_or_default();
    counted.iter().sum::<Duration>() / counted.len().max(1) as u32
}

fn finish(executor: &mut dyn Executor) -> Result<StepOutput, ExecutorError> {
    executor.wait()?;
    let finished = executor.collect(0)?;
    finished.map(|(_, output)| output).ok_or_else(|| ExecutorError { message: "a step did not finish".to_owned() })
}

fn tokens(output: StepOutput) -> Result<Vec<u32>, ExecutorError> {
    let token = |sampled| match sampled {
        Sampled::Token(token) => Ok(token.token),
        Sampled::Failed(message) => Err(ExecutorError { message }),
    };
    output.sampled.into_iter().map(|(_, sampled)| token(sampled)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_checkpoint::{LoadOptions, Silent};
    use sluice_core::{Clock, Nanos};
    use sluice_kernels::Card;
    use sluice_model::gpu::{Dequantized, GpuModel, HostDevice};
    use sluice_model::{StepLimits, embedded};

    use super::*;

    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Nanos {
            0
        }
    }

    #[test]
    fn what_is_timed_is_a_whole_answer_however_the_prompts_are_computed() {
        let whole = Generation { sequences: 3, prompt: 20, answer: 18, max_tokens: 60, vocab: 2048 };
        let answers = [whole, Generation { max_tokens: 7, ..whole }].map(|generation| {
            let limits = StepLimits { blocks: generation.blocks(), block_tokens: 16, max_tokens: 60, max_rows: 3 };
            let model = GpuModel::read(embedded(), LoadOptions::default(), None).unwrap();
            let device = HostDevice::new(Card::h200()).lagging(2);
            let mut executor =
                model.load(device, limits, Dequantized::Anew, Box::new(Silent), Arc::new(Stopped)).unwrap();
            let timed = generation.run(&mut executor).unwrap();
            assert_eq!((timed.decode.len(), timed.device.len()), (17, 17));
            timed.tokens
        });
        assert!(answers[0].iter().all(|answer| answer.len() == 17));
        assert_eq!(answers[0], answers[1]);
    }
}
