//! Batching: holds the time per output token, and the KV cache, by what steps and answers have cost so far.
//!
//! A step that computes prompts holds up every sequence that decodes, and memory that runs out throws away what was
//! computed. So each step is given as many prompt tokens as it has time for (chunked prefills that do not stall a
//! decode: Agrawal et al., Sarathi-Serve, arXiv 2403.02310), where an answer that was fast so far can spare more (the
//! slack of a token's time line: Liu et al., Andes, arXiv 2404.16283). And a sequence is started only if neither the
//! target nor, at the worst moment to come, the cache stands against it (memory and latency as feedback for the
//! batch's size: arXiv 2503.05248). What a step costs is learnt from the steps, how long answers become from the
//! answers; both outlive a swap.
//!
//! The target is the same for all: a request's own is not among what a batching policy sees. A sequence that runs is
//! never preempted for it, prompts always get on by a chunk, and one sequence always runs, so nobody starves.

mod lengths;
mod memory;
mod step_model;

use sluice_sdk::batching::{Batching, LastStep, Phase, Schedule, Sequence, View};
use sluice_sdk::host::metric;
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Events, FinishReason, FinishedRequest, MILLISECOND, Nanos, Policy, config, export_batching};

use lengths::Lengths;
use memory::{Future, Memory};
use step_model::{StepModel, Work};

config! {
    pub struct Config {
        /// Milliseconds from one token of an answer to the next, on average over the answer.
        pub tpot_target_ms: f64 = 50.0, 0.1..=60_000.0;
        /// The share of the target that is planned with: the rest is for what was not foreseen.
        pub headroom: f64 = 0.95, 0.1..=1.0;
        /// Milliseconds that one step may take while somebody waits for a token, if no answer's average suffers.
        pub max_step_ms: f64 = 200.0, 0.1..=60_000.0;
        /// Prompt tokens that a step computes at least, if any wait.
        pub min_chunk: u32 = 32, 1..=65_536;
        /// The probability with which an answer is no longer than what is kept free for it.
        pub length_quantile: f64 = 0.7, 0.05..=0.99;
        /// Tokens of an answer to expect until enough have ended.
        pub expected_output: u32 = 256, 1..=1_048_576;
        /// The share of the blocks that is planned with.
        pub kv_share: f64 = 0.97, 0.1..=1.0;
        /// Sequences that run at most; the engine's own limit where it is lower or this is null.
        pub max_running: Option<u32> = None, 1..=65_536;
    }
}

/// Sequences beyond those that wait here that are asked for at once.
const ASKED_FOR: u32 = 8;
/// Where one sequence alone takes longer than the target, so many times its time is the target.
const STRETCH: f64 = 2.0;
/// How fast a mean follows its values.
const FOLLOW: f64 = 0.05;
/// A longer pause between two steps was not the host's work, but that there was none.
const LONGEST_GAP: f64 = 5.0;

pub struct StepTime {
    config: Config,
    model: StepModel,
    lengths: Lengths,
    means: Means,
    /// The last step that was learnt from.
    learnt: Option<LastStep>,
}

/// What a request is like on average.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Means {
    /// Milliseconds from the end of a step to the start of the next.
    gap: f64,
    /// Milliseconds of a step in which somebody waits for a token, with the gap before it.
    step: f64,
    /// Prompt tokens that had to be computed.
    prompt: f64,
    output: f64,
}

export_batching!(StepTime);

impl Policy for StepTime {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "step-time/2";

    fn new(config: Config) -> Result<Self, String> {
        let lengths = Lengths::new(config.expected_output, config.length_quantile);
        let output = config.expected_output.into();
        let means = Means { gap: 0.0, step: 0.0, prompt: output, output };
        Ok(Self { model: StepModel::new(), lengths, means, learnt: None, config })
    }

    /// Learns from answers that came to their end. One that its client gave up, or that failed, would have been longer:
    /// taken for a short one, it would let more start than the cache holds.
    fn observe(&mut self, events: &Events) {
        let whole = |ended: &FinishedRequest| matches!(ended.reason, FinishReason::Stop | FinishReason::Length);
        for ended in events.finished.rows().filter(whole) {
            self.lengths.add(ended.generated_tokens);
            follow(&mut self.means.prompt, ended.prompt_tokens.saturating_sub(ended.cached_tokens).into());
            follow(&mut self.means.output, ended.generated_tokens.max(1).into());
        }
        if !events.finished.number.is_empty() {
            self.lengths.tabulate();
        }
    }

    fn export_state(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.model.export(&mut state);
        self.lengths.export(&mut state);
        self.means.export(&mut state);
        state.finish()
    }

    fn import_state(&mut self, bytes: &[u8]) -> bool {
        let mut state = Reader::new(bytes);
        let mut lengths = Lengths::new(self.config.expected_output, self.config.length_quantile);
        let Some(model) = StepModel::import(&mut state) else { return false };
        let read = lengths.import(&mut state).and_then(|()| Means::import(&mut state));
        let Some(means) = read.filter(|_| state.is_empty()) else { return false };
        (self.model, self.lengths, self.means) = (model, lengths, means);
        true
    }
}

impl Batching for StepTime {
    fn plan(&mut self, view: &View) -> Schedule {
        if let Some(step) = &view.last_step {
            self.learn(step);
        }
        let batch = Batch::of(view);
        let target = self.target(&batch);
        let chunk = self.chunk(&batch, target, view);
        let most = self.most_running(view).min(self.running_within(&batch, target));
        let starting = self.starting(&batch, most, view);
        metric("target_ms", target);
        metric("step_ms", self.model.millis(&batch.decoding));
        metric("chunk_tokens", chunk.into());
        let budget = (batch.decoding.decode_sequences as u32).saturating_add(chunk);
        Schedule::limits((batch.running + starting).max(1), budget.min(view.limits.max_batched_tokens))
    }
}

/// The sequences of a replica, as far as they matter here.
struct Batch {
    /// What a step costs without any prompt.
    decoding: Work,
    running: u32,
    runners: Vec<Sequence>,
    /// In order of arrival, which is the order in which they start.
    waiting: Vec<Sequence>,
}

impl Batch {
    fn of(view: &View) -> Self {
        let is_waiting = |it: &Sequence| matches!(it.phase, Phase::Waiting | Phase::Preempted);
        let (waiting, runners): (Vec<_>, Vec<_>) = view.sequences().partition(is_waiting);
        let mut decoding = Work::default();
        for sequence in runners.iter().filter(|sequence| sequence.phase == Phase::Decode) {
            decoding.decode_sequences += 1.0;
            decoding.context_tokens += f64::from(sequence.computed_tokens);
        }
        Self { decoding, running: runners.len() as u32, runners, waiting }
    }
}

impl StepTime {
    /// A step that was seen already says nothing new.
    fn learn(&mut self, step: &LastStep) {
        if self.learnt.as_ref() == Some(step) {
            return;
        }
        self.learnt = Some(*step);
        let work = Work {
            decode_sequences: step.decode_sequences.into(),
            prefill_tokens: step.prefill_tokens.into(),
            context_tokens: step.context_tokens as f64,
        };
        let taken = if step.device > 0 { step.device } else { step.wall };
        self.model.learn(&work, millis(taken));
        let gap = millis(step.host_gap).min(LONGEST_GAP);
        follow(&mut self.means.gap, gap);
        if step.decode_sequences > 0 {
            follow(&mut self.means.step, millis(taken) + gap);
        }
    }

    /// Milliseconds that a step may take. Where even one sequence alone takes longer than the target, holding to it
    /// would cost throughput and reach nothing.
    fn target(&self, batch: &Batch) -> f64 {
        let context = batch.decoding.context_tokens / batch.decoding.decode_sequences.max(1.0);
        let alone = self.model.millis(&Work { decode_sequences: 1.0, prefill_tokens: 0.0, context_tokens: context });
        (self.config.tpot_target_ms * self.config.headroom - self.means.gap).max(alone * STRETCH)
    }

    /// Prompt tokens for the next step: as many as it has time for, or all that the engine takes where nobody waits
    /// for a token.
    fn chunk(&self, batch: &Batch, target: f64, view: &View) -> u32 {
        if batch.decoding.decode_sequences == 0.0 {
            return view.limits.max_batched_tokens;
        }
        let decoding = self.model.millis(&batch.decoding);
        let left = self.allowance(batch, target, decoding, view.now) - decoding;
        ((left / self.model.each().prefill_tokens) as u32).max(self.config.min_chunk)
    }

    /// Milliseconds that the next step may take without any answer's average coming out above the target, if what
    /// follows goes on as lately. Answers that were fast so far, and those that have long to go, leave more than the
    /// target. One that is late beyond repair does not hold up the prompts of others.
    fn allowance(&self, batch: &Batch, target: f64, least: f64, now: Nanos) -> f64 {
        let later = self.means.step.min(target);
        let answers = batch.runners.iter().filter_map(|it| Some((it, it.first_token_time?)));
        let allowed = answers.map(|(it, first)| {
            let made = f64::from(it.generated_tokens.saturating_sub(1));
            let remaining = f64::from(self.lengths.remaining(it.generated_tokens, it.max_new_tokens));
            let used = millis(now.saturating_sub(first)) + (remaining - 1.0) * later;
            target * (made + remaining) - used
        });
        let allowed = allowed.filter(|allowed| *allowed >= least).fold(f64::INFINITY, f64::min);
        let most = self.config.max_step_ms.max(target);
        if allowed.is_finite() { allowed.clamp(target, most) } else { target }
    }

    fn most_running(&self, view: &View) -> u32 {
        self.config.max_running.unwrap_or(u32::MAX).min(view.limits.max_sequences)
    }

    /// How many can decode within the target for ever: while one answers, the prompts of those that follow have to be
    /// computed, too. With n sequences and outputs of `output` tokens, n / `output` prompts start at each step.
    fn running_within(&self, batch: &Batch, target: f64) -> u32 {
        let each = self.model.each();
        let decoding = batch.decoding.decode_sequences;
        let context = if decoding > 0.0 {
            batch.decoding.context_tokens / decoding
        } else {
            self.means.prompt + self.means.output / 2.0
        };
        let prompts = each.prefill_tokens * self.means.prompt / self.means.output.max(1.0);
        let sequence = each.decode_sequences + each.context_tokens * context + prompts;
        ((target - self.model.millis(&Work::default())) / sequence.max(f64::MIN_POSITIVE)) as u32
    }

    /// How many more than run now may start: those that wait here, first to come first, and some that the pool may
    /// have, while the cache will hold them all at the worst moment to come.
    fn starting(&self, batch: &Batch, most: u32, view: &View) -> u32 {
        let room = most.saturating_sub(batch.running);
        if room == 0 {
            return 0;
        }
        let blocks = f64::from(view.limits.blocks_total) * self.config.kv_share;
        let mut memory = self.memory(batch, view);
        let mut starting = 0;
        for sequence in batch.waiting.iter().take(room as usize) {
            if !memory.admit(self.future(sequence, 0.0), blocks) {
                return starting;
            }
            starting += 1;
        }
        let typical = Future { tokens: self.means.prompt, remaining: self.lengths.remaining(0, u32::MAX) };
        let asked_for = ASKED_FOR.min(room - starting);
        starting + (0..asked_for).take_while(|_| memory.admit(typical, blocks)).count() as u32
    }

    /// What those that run will hold. Blocks that are held by several count once, and as long as any runs.
    fn memory(&self, batch: &Batch, view: &View) -> Memory {
        let available = f64::from(view.engine.blocks_free);
        let exclusive: f64 = batch.runners.iter().map(|it| f64::from(it.blocks_exclusive)).sum();
        let shared = (f64::from(view.limits.blocks_total) - available - exclusive).max(0.0);
        let block_tokens = f64::from(view.limits.block_tokens);
        let others = |it: &Sequence| f64::from(it.blocks_held.saturating_sub(it.blocks_exclusive)) * block_tokens;
        let futures = batch.runners.iter().map(|it| self.future(it, others(it))).collect();
        Memory::new(futures, view.limits.block_tokens, shared)
    }

    fn future(&self, sequence: &Sequence, shared_tokens: f64) -> Future {
        let length = f64::from(sequence.prompt_tokens) + f64::from(sequence.generated_tokens);
        Future {
            tokens: (length - shared_tokens).max(0.0),
            remaining: self.lengths.remaining(sequence.generated_tokens, sequence.max_new_tokens),
        }
    }
}

impl Means {
    fn export(&self, state: &mut Writer) {
        [self.gap, self.step, self.prompt, self.output].into_iter().for_each(|mean| state.f64(mean));
    }

    fn import(state: &mut Reader<'_>) -> Option<Self> {
        let mut mean = || state.f64().filter(|mean| mean.is_finite() && *mean >= 0.0);
        Some(Self { gap: mean()?, step: mean()?, prompt: mean()?, output: mean()? })
    }
}

fn follow(mean: &mut f64, value: f64) {
    *mean += (value - *mean) * FOLLOW;
}

fn millis(nanos: Nanos) -> f64 {
    nanos as f64 / MILLISECOND as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> StepTime {
        StepTime::new(Config::default()).unwrap()
    }

    fn sequence(id: u64, phase: Phase, prompt_tokens: u32) -> Sequence {
        let decodes = phase == Phase::Decode;
        let blocks = if phase == Phase::Waiting { 0 } else { prompt_tokens.div_ceil(16) };
        Sequence {
            id,
            tenant: 0,
            priority: 0,
            phase,
            prompt_tokens,
            computed_tokens: if decodes { prompt_tokens } else { 0 },
            generated_tokens: u32::from(decodes),
            max_new_tokens: 1000,
            blocks_held: blocks,
            blocks_exclusive: blocks,
            preemptions: 0,
            arrival: 0,
            first_token_time: None,
            last_token_time: None,
            deadline: None,
        }
    }

    fn view(sequences: impl IntoIterator<Item = Sequence>) -> View {
        let sequences: Vec<_> = sequences.into_iter().collect();
        let mut view = View::default();
        view.limits.max_sequences = 256;
        view.limits.max_batched_tokens = 2048;
        view.limits.block_tokens = 16;
        view.limits.blocks_total = 2000;
        view.engine.blocks_free = 2000 - sequences.iter().map(|it| it.blocks_held).sum::<u32>();
        view.sequences = sequences.into_iter().collect();
        view
    }

    /// A card on which a step takes 12 ms, 0.1 for a sequence, 0.2 for a prompt token and 0.2 for 1,000 of context.
    fn trained() -> StepTime {
        let mut policy = policy();
        for step in 0..400_u32 {
            let decode = 1 + step * 7 % 40;
            let prefill = if step % 3 == 0 { step * 37 % 400 } else { 0 };
            let context = u64::from(decode * (600 + step * 13 % 500));
            let millis = 12.0 + 0.1 * f64::from(decode) + 0.2 * f64::from(prefill) + 0.0002 * context as f64;
            let device = (millis * MILLISECOND as f64) as u64;
            policy.learn(&LastStep {
                wall: device,
                device,
                prefill_tokens: prefill,
                decode_sequences: decode,
                context_tokens: context,
                ..LastStep::default()
            });
        }
        policy
    }

    fn ended(policy: &mut StepTime, answers: &[(FinishReason, u32)]) {
        let row = |&(reason, generated_tokens): &(FinishReason, u32)| FinishedRequest {
            number: 1,
            id: 1,
            tenant: 0,
            replica: 0,
            reason,
            arrival: 0,
            scheduled: Some(1),
            first_token: None,
            finished: 0,
            prompt_tokens: 500,
            cached_tokens: 0,
            generated_tokens,
        };
        let finished = answers.iter().map(row).collect();
        policy.observe(&Events { finished, ..Events::default() });
    }

    fn decoding(count: u64, prompt_tokens: u32) -> impl Iterator<Item = Sequence> {
        (0..count).map(move |id| sequence(id, Phase::Decode, prompt_tokens))
    }

    #[test]
    fn a_step_with_decodes_is_given_the_prompt_tokens_that_the_target_leaves() {
        let mut policy = trained();
        // 47.5 - 12 - 1.6 - 16 * 501 * 0.0002 = 32.3 ms, at 0.2 each.
        let budget = policy.plan(&view(decoding(16, 500))).token_budget;
        assert!((150..=190).contains(&budget), "{budget}");
    }

    #[test]
    fn answers_that_were_fast_so_far_spare_time_for_prompts_up_to_the_longest_step() {
        let mut policy = trained();
        ended(&mut policy, &[(FinishReason::Stop, 250); 50]);
        let mut budget = |millis: u64| {
            let made = |it| Sequence { first_token_time: Some(0), generated_tokens: 101, ..it };
            let mut view = view(decoding(16, 500).map(made));
            view.now = millis * MILLISECOND;
            policy.plan(&view).token_budget
        };
        let (fast, even, late, lost) = (budget(2000), budget(4700), budget(7000), budget(60_000));
        assert!((850..=1000).contains(&fast), "200 ms hold that many: {fast}");
        assert!(even > late && late >= 150, "{even}, {late}");
        assert!((150..=190).contains(&lost), "{lost}");
    }

    #[test]
    fn without_decodes_prompts_get_all_that_the_engine_takes() {
        let mut policy = trained();
        assert_eq!(policy.plan(&view([sequence(1, Phase::Waiting, 4000)])).token_budget, 2048);
        assert_eq!(policy.plan(&view([sequence(1, Phase::Prefill, 4000)])).token_budget, 2048);
    }

    #[test]
    fn prompts_get_on_however_late_a_step_is() {
        let mut policy = StepTime { config: Config { tpot_target_ms: 13.0, ..Config::default() }, ..trained() };
        let schedule = policy.plan(&view(decoding(100, 300).chain([sequence(100, Phase::Prefill, 4000)])));
        assert_eq!(schedule.token_budget, 132);
        assert_eq!(schedule.max_running, 101, "nothing starts, and nothing is preempted");
        assert!(schedule.victims.is_empty());
    }

    #[test]
    fn as_many_run_as_can_decode_while_the_prompts_of_those_that_follow_are_computed() {
        let mut policy = trained();
        ended(&mut policy, &[(FinishReason::Stop, 250); 200]);
        // (47.5 - 12) ms / (0.1 + 0.1 + 0.2 * 500 / 250) = 59.
        let full = (0..80).find(|&count| {
            let mut view = view(decoding(count, 500));
            (view.limits.blocks_total, view.engine.blocks_free) = (100_000, 90_000);
            policy.plan(&view).max_running == count as u32
        });
        assert!(full.is_some_and(|full| (52..=66).contains(&full)), "{full:?}");
    }

    #[test]
    fn a_target_out_of_reach_is_stretched_instead_of_starving_the_batch() {
        let mut policy = StepTime { config: Config { tpot_target_ms: 1.0, ..Config::default() }, ..trained() };
        assert!(policy.plan(&view(decoding(4, 100))).max_running > 4);
    }

    #[test]
    fn nobody_starts_whom_the_cache_will_not_hold_to_the_end() {
        let mut policy = trained();
        ended(&mut policy, &[(FinishReason::Stop, 250); 50]);
        // Each comes to (900 + 255) / 16 + 1 = 73 blocks; 1,940 are planned with.
        let starts = |policy: &mut StepTime, running: u64| {
            let waiting = (100..104).map(|id| sequence(id, Phase::Waiting, 900));
            policy.plan(&view(decoding(running, 900).chain(waiting))).max_running - running as u32
        };
        assert!(starts(&mut policy, 10) >= 4);
        assert_eq!(starts(&mut policy, 25), 1);
        assert_eq!(starts(&mut policy, 30), 0);
    }

    #[test]
    fn one_sequence_always_runs() {
        let mut policy = trained();
        let mut full = view([sequence(1, Phase::Waiting, 50_000)]);
        assert_eq!(policy.plan(&full).max_running, 1);
        full.limits = Default::default();
        full.engine.blocks_free = 0;
        assert_eq!(policy.plan(&full).max_running, 1);
    }

    #[test]
    fn a_shared_prefix_is_counted_once() {
        let mut policy = trained();
        ended(&mut policy, &[(FinishReason::Stop, 250); 50]);
        let shared = |it: Sequence| Sequence { blocks_exclusive: it.blocks_held - 50, ..it };
        let mut view = view(decoding(30, 900).map(shared).chain([sequence(99, Phase::Waiting, 900)]));
        view.engine.blocks_free = 2000 - 50 - 30 * 7;
        assert!(policy.plan(&view).max_running > 30);
    }

    #[test]
    fn answers_that_were_cut_short_say_nothing_about_answers() {
        for reason in [FinishReason::Failed, FinishReason::Cancelled] {
            let mut policy = policy();
            let before = (policy.lengths.clone(), policy.means);
            ended(&mut policy, &[(reason, 1); 50]);
            assert_eq!((policy.lengths, policy.means), before, "{reason:?}");
        }
    }

    #[test]
    fn a_successor_plans_as_its_predecessor_would_have() {
        let mut old = trained();
        ended(&mut old, &[(FinishReason::Stop, 250), (FinishReason::Length, 90), (FinishReason::Cancelled, 3)]);
        let mut new = policy();
        assert!(new.import_state(&old.export_state()));
        let view = view(decoding(20, 700).chain([sequence(99, Phase::Waiting, 900)]));
        assert_eq!(new.plan(&view), old.plan(&view));
        let bytes = old.export_state();
        assert!(!policy().import_state(&bytes[..bytes.len() - 1]));
        assert!(!policy().import_state(&[bytes, vec![0]].concat()));
    }
}
