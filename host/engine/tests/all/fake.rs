//! A virtual clock, an executor whose tokens prove the KV cache right, sinks that keep what they get, and policies
//! made of a closure.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sluice_core::view::BatchingView;
use sluice_core::{
    Batch, BatchingDecision, BatchingPolicy, CallCost, Clock, Digest, Draw, Events, Executor, ExecutorError, FaultKind,
    Instantiate, Logprob, MILLISECOND, Nanos, Policy, PolicyFault, RequestId, RevisionId, Row, Sampled, SampledToken,
    Score, Scored, ScoredToken, SinkClosed, Slot, State, StepOutput, StepTimes, Ticket, TokenEvent, TokenSink,
    TokenSource,
};

pub(crate) const VOCABULARY: u64 = 1000;

/// A prompt that has it cannot be scored.
pub(crate) const NO_NUMBER: u32 = u32::MAX;

#[derive(Default)]
pub(crate) struct VirtualClock(AtomicU64);

impl VirtualClock {
    pub(crate) fn advance(&self, by: Nanos) {
        self.0.fetch_add(by, Ordering::SeqCst);
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// The token that follows these: a hash of all of them, so that one wrong position anywhere shows. As with a model that
/// turns positions by the prompt's length, it depends on how many of them came as the prompt.
pub(crate) fn next_token(prompt_tokens: u32, context: &[u32]) -> u32 {
    let seed = 0xcbf2_9ce4_8422_2325_u64 ^ u64::from(prompt_tokens);
    let hash = context
        .iter()
        .fold(seed, |hash, &token| (hash ^ u64::from(token)).wrapping_mul(0x0100_0000_01b3).rotate_left(5));
    (hash % VOCABULARY) as u32
}

/// The same, past the tokens that must not be drawn.
fn allowed_token(prompt_tokens: u32, context: &[u32], forbidden: &[u32]) -> u32 {
    let mut token = next_token(prompt_tokens, context);
    while forbidden.contains(&token) {
        token = (token + 1) % VOCABULARY as u32;
    }
    token
}

/// What a request must be answered, whatever else happens.
pub(crate) fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    expected_until(prompt, count, &[], 0).0
}

/// As far as the first stop token after so many others, and whether one came.
pub(crate) fn expected_until(prompt: &[u32], count: usize, stop_tokens: &[u32], least: usize) -> (Vec<u32>, bool) {
    let mut tokens = prompt.to_vec();
    for index in 0..count {
        let forbidden = if index < least { stop_tokens } else { &[] };
        let token = allowed_token(prompt.len() as u32, &tokens, forbidden);
        if stop_tokens.contains(&token) {
            return (tokens.split_off(prompt.len()), true);
        }
        tokens.push(token);
    }
    (tokens.split_off(prompt.len()), false)
}

/// How likely the last of these tokens is after the others.
fn score(tokens: &[u32], alternatives: u8) -> ScoredToken {
    let logprob = -(next_token(0, tokens) as f32);
    let token = tokens[tokens.len() - 1];
    ScoredToken { token, logprob, top: vec![Logprob { token, logprob }; usize::from(alternatives)] }
}

/// What is said of a prompt's tokens but the first.
pub(crate) fn expected_scores(prompt: &[u32], alternatives: u8) -> Vec<ScoredToken> {
    (2..=prompt.len()).map(|end| score(&prompt[..end], alternatives)).collect()
}

/// Keeps, instead of keys and values, the tokens themselves in the blocks, and reads every context back from them.
pub(crate) struct FakeExecutor {
    depth: usize,
    block_tokens: usize,
    memory: HashMap<(u32, usize), u32>,
    drawn: HashMap<RequestId, u32>,
    in_flight: VecDeque<(Ticket, StepOutput)>,
    tickets: u64,
    /// Fails the next submission.
    pub(crate) broken: Arc<std::sync::atomic::AtomicBool>,
}

impl FakeExecutor {
    pub(crate) fn new(depth: usize, block_tokens: u32) -> Self {
        Self {
            depth,
            block_tokens: block_tokens as usize,
            memory: HashMap::new(),
            drawn: HashMap::new(),
            in_flight: VecDeque::new(),
            tickets: 0,
            broken: Arc::default(),
        }
    }

    fn compute(&mut self, batch: &Batch) -> StepOutput {
        let (mut drawn, mut scored) = (Vec::new(), Vec::new());
        for row in &batch.rows {
            let blocks = batch.blocks_of(row);
            for (offset, source) in batch.tokens_of(row).iter().enumerate() {
                let position = row.start as usize + offset;
                let token = match source {
                    TokenSource::Known(token) => *token,
                    TokenSource::PreviousStep => self.drawn[&row.sequence],
                };
                self.memory.insert((blocks[position / self.block_tokens].0, position % self.block_tokens), token);
            }
            if row.draw.is_none() && row.score.is_none() {
                continue;
            }
            let context: Vec<u32> = (0..(row.start + row.tokens) as usize)
                .map(|position| self.memory[&(blocks[position / self.block_tokens].0, position % self.block_tokens)])
                .collect();
            if let Some(asked) = row.score {
                let scores = Scored::Tokens(scores_of(row, asked, &context));
                let fails = context.contains(&NO_NUMBER);
                scored.push((row.sequence, if fails { Scored::Failed("no number".into()) } else { scores }));
            }
            if let Some(draw) = &row.draw {
                check_history(batch, row, draw, &context);
                let forbidden = draw.forbidden.as_deref().unwrap_or_default();
                drawn.push((row.sequence, allowed_token(row.prompt_tokens, &context, forbidden)));
            }
        }
        self.drawn = drawn.iter().copied().collect();
        let token = |(id, token)| (id, Sampled::Token(SampledToken::plain(token)));
        StepOutput { sampled: drawn.into_iter().map(token).collect(), scored, ..StepOutput::default() }
    }
}

fn scores_of(row: &Row, asked: Score, context: &[u32]) -> Vec<ScoredToken> {
    assert!(context.len() <= row.prompt_tokens as usize, "what was drawn is not scored");
    assert_eq!(
        asked.next.is_none(),
        context.len() == row.prompt_tokens as usize,
        "something follows within the prompt"
    );
    let given: Vec<u32> = context.iter().copied().chain(asked.next).collect();
    (row.start as usize + 2..=given.len()).map(|end| score(&given[..end], asked.alternatives)).collect()
}

/// A draw that penalises is told all that is known, and no other is told anything.
fn check_history(batch: &Batch, row: &Row, draw: &Draw, context: &[u32]) {
    let unknown = batch.tokens_of(row).iter().filter(|source| **source == TokenSource::PreviousStep).count();
    let known = &context[..context.len() - unknown];
    let history = &batch.history[draw.history_offset..][..draw.history_tokens];
    assert_eq!(history, if draw.params.penalises() { known } else { &[] });
}

impl Executor for FakeExecutor {
    fn depth(&self) -> usize {
        self.depth
    }

    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(ExecutorError { message: "broken for a test".into() });
        }
        assert!(self.in_flight.len() < self.depth, "more steps in flight than the executor takes");
        let output = self.compute(batch);
        let times = StepTimes { submitted: now, finished: now + MILLISECOND, device: MILLISECOND, roof: None };
        self.tickets += 1;
        self.in_flight.push_back((Ticket(self.tickets), StepOutput { times, ..output }));
        Ok(Ticket(self.tickets))
    }

    fn collect(&mut self, now: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError> {
        let done = self.in_flight.front().is_some_and(|(_, output)| output.times.finished <= now);
        Ok(if done { self.in_flight.pop_front() } else { None })
    }
}

/// Keeps everything; closed by a test, or after so many tokens.
#[derive(Default)]
pub(crate) struct KeepingSink {
    pub(crate) events: Mutex<Vec<TokenEvent>>,
    pub(crate) close_after: Option<usize>,
}

impl KeepingSink {
    pub(crate) fn tokens(&self) -> Vec<u32> {
        let events = self.events.lock().unwrap();
        events
            .iter()
            .filter_map(|event| if let TokenEvent::Token(token) = event { Some(token.token) } else { None })
            .collect()
    }

    /// What was said of the prompt, after checking that all of it came before the first token.
    pub(crate) fn scores(&self) -> Vec<ScoredToken> {
        let events = self.events.lock().unwrap();
        let is_score = |event: &TokenEvent| matches!(event, TokenEvent::Prompt(_));
        let first = events.iter().take_while(|event| is_score(event)).count();
        assert!(!events[first..].iter().any(is_score), "scores come before the answer");
        let scores =
            events.iter().filter_map(|event| if let TokenEvent::Prompt(scores) = event { Some(scores) } else { None });
        scores.flatten().cloned().collect()
    }

    /// The last event, after checking that it is the only one of its kind.
    pub(crate) fn end(&self) -> Option<TokenEvent> {
        let events = self.events.lock().unwrap();
        let ends = events.iter().filter(|event| is_end(event)).count();
        assert!(ends <= 1, "a request ended {ends} times");
        events.last().filter(|event| is_end(event)).cloned()
    }
}

impl TokenSink for KeepingSink {
    fn send(&self, event: TokenEvent) -> Result<(), SinkClosed> {
        let mut events = self.events.lock().unwrap();
        let full = self.close_after.is_some_and(|after| events.len() >= after);
        if full && !is_end(&event) {
            return Err(SinkClosed);
        }
        events.push(event);
        Ok(())
    }
}

fn is_end(event: &TokenEvent) -> bool {
    matches!(event, TokenEvent::End(_) | TokenEvent::Rejected(_))
}

pub(crate) type PlanFn = dyn FnMut(&BatchingView, u64) -> Result<BatchingDecision, FaultKind> + Send;

/// A batching policy made of a closure; its state is how often it was asked.
pub(crate) struct Scripted {
    id: RevisionId,
    plan: Box<PlanFn>,
    calls: u64,
    faults_in: Faults,
    observed: Arc<Mutex<Vec<Events>>>,
}

/// Where, besides its decision, a scripted policy faults.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Faults {
    pub(crate) observe: bool,
    pub(crate) export: bool,
    pub(crate) import: bool,
    pub(crate) refuse_import: bool,
}

impl Policy for Scripted {
    fn observe(&mut self, events: &Events) -> Result<(), PolicyFault> {
        self.observed.lock().unwrap().push(events.clone());
        if self.faults_in.observe { Err(self.fault(FaultKind::Trap("observe".into()))) } else { Ok(()) }
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        if self.faults_in.export {
            return Err(self.fault(FaultKind::Trap("export".into())));
        }
        Ok(State { schema: "calls".into(), bytes: self.calls.to_le_bytes().to_vec() })
    }

    fn import_state(&mut self, state: &State) -> Result<bool, PolicyFault> {
        if self.faults_in.import {
            return Err(self.fault(FaultKind::Trap("import".into())));
        }
        if self.faults_in.refuse_import || state.schema != "calls" {
            return Ok(false);
        }
        self.calls = u64::from_le_bytes(state.bytes.as_slice().try_into().unwrap());
        Ok(true)
    }

    fn last_cost(&self) -> CallCost {
        CallCost { nanos: 10, fuel: self.calls }
    }
}

impl BatchingPolicy for Scripted {
    fn plan(&mut self, view: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        self.calls += 1;
        (self.plan)(view, self.calls).map_err(|kind| self.fault(kind))
    }
}

impl Scripted {
    fn fault(&self, kind: FaultKind) -> PolicyFault {
        PolicyFault { policy: self.id.name.clone(), digest: self.id.digest, kind }
    }
}

/// Makes scripted policies of one name.
pub(crate) struct Script {
    id: RevisionId,
    make: Box<dyn Fn() -> Box<PlanFn> + Send + Sync>,
    faults_in: Faults,
    pub(crate) observed: Arc<Mutex<Vec<Events>>>,
    pub(crate) instances: AtomicU64,
}

impl Script {
    pub(crate) fn new(
        name: &str,
        plan: impl Fn(&BatchingView, u64) -> Result<BatchingDecision, FaultKind> + Clone + Send + Sync + 'static,
    ) -> Self {
        let id = RevisionId {
            slot: Slot::Batching,
            name: name.into(),
            version: "1".into(),
            digest: Digest::of(name.as_bytes()),
            config: "{}".into(),
        };
        let make = Box::new(move || Box::new(plan.clone()) as Box<PlanFn>);
        Self { id, make, faults_in: Faults::default(), observed: Arc::default(), instances: AtomicU64::new(0) }
    }

    pub(crate) fn faulting(self, faults_in: Faults) -> Self {
        Self { faults_in, ..self }
    }

    pub(crate) fn digest(&self) -> Digest {
        self.id.digest
    }
}

impl Instantiate<dyn BatchingPolicy> for Script {
    fn revision(&self) -> &RevisionId {
        &self.id
    }

    fn instantiate(&self) -> Result<Box<dyn BatchingPolicy>, PolicyFault> {
        self.instances.fetch_add(1, Ordering::SeqCst);
        Ok(Box::new(Scripted {
            id: self.id.clone(),
            plan: (self.make)(),
            calls: 0,
            faults_in: self.faults_in,
            observed: Arc::clone(&self.observed),
        }))
    }
}

/// Everything goes, up to the engine's limits.
pub(crate) fn generous(view: &BatchingView, _: u64) -> Result<BatchingDecision, FaultKind> {
    Ok(BatchingDecision {
        max_running: view.limits.max_sequences,
        token_budget: view.limits.max_batched_tokens,
        ..BatchingDecision::default()
    })
}
