//! A pool and its replicas in virtual time, with every request's fate kept, and the invariants checked after each step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_core::view::{BatchingView, EngineLimits};
use sluice_core::{
    BatchingPolicy, Clock, EndOfStream, EngineEvent, Failure, FailureKind, FinishReason, HashChain, Instantiate,
    MILLISECOND, Nanos, Observer, ReplicaId, Request, RequestId, SECOND, SamplingParams, ScoredToken, TenantId,
    TokenEvent,
};
use sluice_engine::guard::GuardConfig;
use sluice_engine::link::{ReplicaPort, ToReplica, Wake, link};
use sluice_engine::order::{Order, Prepared};
use sluice_engine::pool::{Pool, PoolConfig};
use sluice_engine::replica::{Replica, ReplicaConfig};

use crate::fake::{FakeExecutor, KeepingSink, Script, VirtualClock, expected_scores, expected_until};

pub(crate) const LIMITS: EngineLimits = EngineLimits {
    max_sequences: 6,
    max_batched_tokens: 24,
    block_tokens: 4,
    blocks_total: 20,
    kv_bytes_per_token: 1,
    max_model_len: 64,
};

/// Engine events as text, for assertions.
#[derive(Default)]
pub(crate) struct Journal(pub(crate) std::sync::Mutex<Vec<String>>);

impl Journal {
    pub(crate) fn count(&self, part: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| line.contains(part)).count()
    }
}

impl Observer for Journal {
    fn observe(&self, event: &EngineEvent<'_>) {
        if !matches!(event, EngineEvent::Queue { .. } | EngineEvent::Token { .. } | EngineEvent::Decision { .. }) {
            self.0.lock().unwrap().push(format!("{event:?}"));
        }
    }
}

pub(crate) struct World {
    pub(crate) clock: Arc<VirtualClock>,
    pub(crate) pool: Pool,
    pub(crate) replicas: Vec<Option<Replica>>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) limits: EngineLimits,
    depth: usize,
    ports: Vec<ReplicaPort>,
    pool_sleep: Sleep,
    replica_sleeps: Vec<Sleep>,
    asked: BTreeMap<RequestId, Asked>,
}

/// A thread's sleep: nothing runs before it is woken or its time has come, as in the server.
#[derive(Clone)]
struct Sleep {
    woken: Arc<AtomicBool>,
    due: Option<Nanos>,
}

impl Sleep {
    fn new() -> Self {
        Self { woken: Arc::new(AtomicBool::new(true)), due: None }
    }

    fn wake(&self) -> Wake {
        let woken = Arc::clone(&self.woken);
        Arc::new(move || woken.store(true, Ordering::SeqCst))
    }

    fn is_over(&self, now: Nanos) -> bool {
        self.woken.swap(false, Ordering::SeqCst) || self.due.is_some_and(|due| due <= now)
    }
}

/// What was asked, and what may come of it.
struct Asked {
    prompt: Vec<u32>,
    max_new_tokens: u32,
    min_new_tokens: u32,
    stop_tokens: Arc<[u32]>,
    prompt_logprobs: Option<u8>,
    arrival: Nanos,
    sink: Arc<KeepingSink>,
    /// It was cancelled, its reader leaves early, or it may have been with a replica that was lost.
    may_end_early: bool,
}

pub(crate) struct Ask {
    pub(crate) tenant: u64,
    pub(crate) prompt: Vec<u32>,
    pub(crate) max_new_tokens: u32,
    pub(crate) priority: i32,
    pub(crate) close_after: Option<usize>,
    pub(crate) stop_tokens: Vec<u32>,
    pub(crate) min_new_tokens: u32,
    pub(crate) prompt_logprobs: Option<u8>,
    /// Its draws depend on what came before.
    pub(crate) penalises: bool,
    pub(crate) may_fail: bool,
}

impl Ask {
    pub(crate) fn new(prompt: Vec<u32>, max_new_tokens: u32) -> Self {
        Self {
            tenant: 0,
            prompt,
            max_new_tokens,
            priority: 0,
            close_after: None,
            stop_tokens: Vec::new(),
            min_new_tokens: 0,
            prompt_logprobs: None,
            penalises: false,
            may_fail: false,
        }
    }
}

impl World {
    pub(crate) fn new(replicas: usize, depth: usize, limits: EngineLimits) -> Self {
        let (clock, journal) = (Arc::new(VirtualClock::default()), Arc::new(Journal::default()));
        clock.advance(SECOND);
        let config =
            PoolConfig { max_model_len: limits.max_model_len, max_queued_requests: 40, ..PoolConfig::default() };
        let mut world = Self {
            pool: Pool::new(config, Vec::new(), journal.clone()),
            replicas: Vec::new(),
            clock,
            journal,
            limits,
            depth,
            ports: Vec::new(),
            pool_sleep: Sleep::new(),
            replica_sleeps: (0..replicas).map(|_| Sleep::new()).collect(),
            asked: BTreeMap::new(),
        };
        for index in 0..replicas {
            let (replica, port) = world.make_replica(index, GuardConfig::default());
            world.replicas.push(Some(replica));
            world.ports.push(port);
        }
        world.pool = Pool::new(config, world.ports.clone(), world.journal.clone());
        world
    }

    fn make_replica(&self, index: usize, guard: GuardConfig) -> (Replica, ReplicaPort) {
        let config = ReplicaConfig { guard, ..ReplicaConfig::new(ReplicaId(index as u32), self.limits) };
        let (port, inlet) = link(config.first_report(), self.replica_sleeps[index].wake(), self.pool_sleep.wake());
        let executor = Box::new(FakeExecutor::new(self.depth, self.limits.block_tokens));
        (Replica::new(config, executor, inlet, self.journal.clone(), self.clock.now()), port)
    }

    pub(crate) fn install(&mut self, replica_index: usize, script: &Arc<Script>) {
        let source: Arc<dyn Instantiate<dyn BatchingPolicy>> = script.clone();
        let instance = source.instantiate().unwrap();
        if let Some(replica) = &mut self.replicas[replica_index] {
            replica.guard_mut().install(Prepared { source, instance }, &*self.clock);
        }
        self.replica_sleeps[replica_index].wake()();
    }

    pub(crate) fn offer(&mut self, ask: Ask) -> RequestId {
        self.offer_all([ask])[0]
    }

    /// What one client asks for at once.
    pub(crate) fn offer_all(&mut self, asks: impl IntoIterator<Item = Ask>) -> Vec<RequestId> {
        let requests: Vec<Request> = asks.into_iter().map(|ask| self.request(ask)).collect();
        self.pool.offer(&requests, self.clock.now());
        self.pool_sleep.wake()();
        requests.iter().map(|request| request.id).collect()
    }

    fn request(&mut self, ask: Ask) -> Request {
        let id = RequestId(self.asked.len() as u64 + 1);
        let sink = Arc::new(KeepingSink { close_after: ask.close_after, ..KeepingSink::default() });
        let asked = Asked {
            prompt: ask.prompt.clone(),
            max_new_tokens: ask.max_new_tokens,
            min_new_tokens: ask.min_new_tokens,
            stop_tokens: ask.stop_tokens.into(),
            prompt_logprobs: ask.prompt_logprobs,
            arrival: self.clock.now(),
            sink: sink.clone(),
            may_end_early: ask.close_after.is_some() || ask.may_fail,
        };
        let stop_tokens = Arc::clone(&asked.stop_tokens);
        self.asked.insert(id, asked);
        let presence_penalty = if ask.penalises { 1.0 } else { 0.0 };
        Request {
            id,
            tenant: TenantId(ask.tenant),
            tenant_weight: 1.0,
            session: None,
            priority: ask.priority,
            arrival: self.clock.now(),
            deadline: None,
            ttft_target: None,
            tpot_target: None,
            hashes: Arc::new(HashChain::new(&[ask.tenant as u8], &ask.prompt, self.limits.block_tokens)),
            prompt: ask.prompt.into(),
            max_new_tokens: ask.max_new_tokens,
            stop_tokens,
            min_new_tokens: ask.min_new_tokens,
            sampling: SamplingParams { presence_penalty, ..SamplingParams::greedy() },
            prompt_logprobs: ask.prompt_logprobs,
            attempt: 1,
            sink,
        }
    }

    pub(crate) fn cancel(&mut self, id: RequestId) {
        if let Some(asked) = self.asked.get_mut(&id) {
            asked.may_end_early = true;
        }
        self.pool.finish(id, FinishReason::Cancelled, self.clock.now());
        self.pool_sleep.wake()();
    }

    /// The replica is gone with everything on it; another takes its place.
    pub(crate) fn lose(&mut self, index: usize) {
        for asked in self.asked.values_mut().filter(|asked| asked.sink.end().is_none()) {
            asked.may_end_early = true;
        }
        self.replicas[index] = None;
        self.pool.events(self.clock.now());
        self.replace(index, GuardConfig::default());
    }

    /// A fresh first replica whose recorder keeps at most so many bytes.
    pub(crate) fn set_recorder_bytes(&mut self, recorder_bytes: usize) {
        self.replace(0, GuardConfig { recorder_bytes, ..GuardConfig::default() });
    }

    fn replace(&mut self, index: usize, guard: GuardConfig) {
        let (replica, port) = self.make_replica(index, guard);
        self.replicas[index] = Some(replica);
        self.ports[index] = port.clone();
        self.pool.replace(ReplicaId(index as u32), port);
        self.pool_sleep.wake()();
    }

    pub(crate) fn order(&self, index: usize, order: Order<dyn BatchingPolicy, BatchingView>) {
        self.ports[index].send(ToReplica::Order(order));
    }

    /// Half a millisecond: whoever is awake dispatches, or plans, submits and collects, as the server's threads do.
    pub(crate) fn step(&mut self) {
        let now = self.clock.now();
        if self.pool_sleep.is_over(now) {
            self.pool.events(now);
            self.pool_sleep.due = self.pool.tick(now);
            self.pool.assert_consistent();
        }
        for (replica, sleep) in self.replicas.iter_mut().zip(&mut self.replica_sleeps) {
            let Some(replica) = replica else { continue };
            if sleep.is_over(now) || replica.steps_in_flight() > 0 {
                while replica.can_submit() {
                    let Some(planned) = replica.plan(&*self.clock) else { break };
                    replica.submit(planned, &*self.clock).unwrap();
                }
                sleep.due = replica.wake_at(now);
                replica.assert_consistent();
            }
        }
        self.clock.advance(MILLISECOND / 2);
        for (replica, sleep) in self.replicas.iter_mut().zip(&self.replica_sleeps) {
            let Some(replica) = replica else { continue };
            while replica.collect(&*self.clock).unwrap() {
                sleep.wake()();
            }
            replica.assert_consistent();
        }
    }

    pub(crate) fn run(&mut self, steps: usize) {
        (0..steps).for_each(|_| self.step());
    }

    /// Runs until nothing is left, however slowly, and checks that nothing was lost on the way.
    pub(crate) fn drain(&mut self) {
        for _ in 0..20_000 {
            if self.pool.queued() + self.pool.in_flight() == 0 {
                break;
            }
            self.step();
            if self.replicas.iter().flatten().all(|replica| replica.steps_in_flight() == 0) {
                self.clock.advance(SECOND / 10);
            }
        }
        assert_eq!((self.pool.queued(), self.pool.in_flight()), (0, 0), "requests are left");
        self.step();
        for replica in self.replicas.iter().flatten() {
            assert_eq!(replica.held(), 0);
            assert_eq!(replica.blocks_available(), self.limits.blocks_total, "free blocks == total");
        }
    }

    pub(crate) fn tokens(&self, id: RequestId) -> Vec<u32> {
        self.asked[&id].sink.tokens()
    }

    pub(crate) fn scores(&self, id: RequestId) -> Vec<ScoredToken> {
        self.asked[&id].sink.scores()
    }

    pub(crate) fn failure(&self, id: RequestId) -> Option<Failure> {
        match self.end(id)? {
            TokenEvent::End(end) => end.failure,
            _ => None,
        }
    }

    pub(crate) fn end(&self, id: RequestId) -> Option<TokenEvent> {
        self.asked[&id].sink.end()
    }

    /// Every request ended exactly once and got the right answer: the whole of it, unless there is a reason. Whoever
    /// counts was told of it once.
    pub(crate) fn assert_answers(&self) {
        for (id, asked) in &self.asked {
            let end = asked.sink.end();
            assert_eq!(self.finished(*id), usize::from(matches!(end, Some(TokenEvent::End(_)))), "{id:?}");
            match end {
                Some(TokenEvent::End(end)) => {
                    asked.assert_right();
                    asked.assert_ended(&end, &self.limits, self.clock.now());
                }
                Some(TokenEvent::Rejected(_)) => assert!(asked.sent_nothing(), "{id:?}"),
                other => panic!("{id:?} never ended: {other:?}"),
            }
        }
    }

    /// How often the observer was told that it ended.
    fn finished(&self, id: RequestId) -> usize {
        self.journal.count(&format!("Finished(Finished {{ id: {id:?},"))
    }

    /// As above, where no admission policy degrades: nobody gets less than was asked for.
    pub(crate) fn assert_whole_answers(&self) {
        self.assert_answers();
        for (id, asked) in &self.asked {
            let most = self.limits.max_model_len as usize - asked.prompt.len().min(self.limits.max_model_len as usize);
            let reached = matches!(asked.sink.end(), Some(TokenEvent::End(end)) if end.reason == FinishReason::Length);
            let whole = (asked.max_new_tokens as usize).min(most);
            assert!(!reached || asked.sink.tokens().len() == whole, "{id:?} was cut short");
        }
    }
}

impl Asked {
    fn sent_nothing(&self) -> bool {
        self.sink.tokens().is_empty() && self.sink.scores().is_empty()
    }

    /// Of so many tokens, those before the first stop token, and whether one came.
    fn answer(&self, tokens: usize) -> (Vec<u32>, bool) {
        expected_until(&self.prompt, tokens, &self.stop_tokens, self.min_new_tokens as usize)
    }

    fn expected_scores(&self) -> Vec<ScoredToken> {
        self.prompt_logprobs.map_or_else(Vec::new, |alternatives| expected_scores(&self.prompt, alternatives))
    }

    /// What was sent is right as far as it goes, and no token came before all that was to be said of the prompt.
    fn assert_right(&self) {
        let (tokens, scores, expected) = (self.sink.tokens(), self.sink.scores(), self.expected_scores());
        assert_eq!(tokens, self.answer(tokens.len()).0);
        assert!(expected.starts_with(&scores), "{scores:?} of {expected:?}");
        assert!(tokens.is_empty() || scores.len() == expected.len(), "the answer came before the scores");
    }

    fn assert_ended(&self, end: &EndOfStream, limits: &EngineLimits, now: Nanos) {
        let tokens = self.sink.tokens().len();
        let whole = (self.max_new_tokens as usize).min(limits.max_model_len as usize - self.prompt.len());
        match (end.reason, end.failure.as_ref().map(|failure| failure.kind)) {
            // A policy may have let it in with fewer tokens than it asked for.
            (FinishReason::Length, None) => assert!(0 < tokens && tokens <= whole, "{tokens} tokens of {whole}"),
            (FinishReason::Stop, None) => assert!(self.answer(tokens + 1).1, "nothing told it to stop"),
            (FinishReason::Failed, Some(FailureKind::QueueTimeout)) => {
                assert!(self.sent_nothing() && now > self.arrival + PoolConfig::default().queue_timeout);
            }
            _ => assert!(self.may_end_early, "it ended for no reason: {end:?}"),
        }
    }
}
