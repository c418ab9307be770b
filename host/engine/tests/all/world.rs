//! A pool and its replicas in virtual time, with every request's fate kept, and the invariants checked after each step.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sluice_core::view::{BatchingView, EngineLimits};
use sluice_core::{
    BatchingPolicy, Clock, EngineEvent, FinishReason, HashChain, Instantiate, MILLISECOND, Nanos, Observer, ReplicaId,
    Request, RequestId, SECOND, SamplingParams, TenantId, TokenEvent,
};
use sluice_engine::guard::GuardConfig;
use sluice_engine::link::{ReplicaPort, ToReplica, Wake, link};
use sluice_engine::order::{Order, Prepared};
use sluice_engine::pool::{Pool, PoolConfig};
use sluice_engine::replica::{Replica, ReplicaConfig};

use crate::fake::{FakeExecutor, KeepingSink, Script, VirtualClock, expected};

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
}

impl Ask {
    pub(crate) fn new(prompt: Vec<u32>, max_new_tokens: u32) -> Self {
        Self { tenant: 0, prompt, max_new_tokens, priority: 0, close_after: None }
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
        let id = RequestId(self.asked.len() as u64 + 1);
        let sink = Arc::new(KeepingSink { close_after: ask.close_after, ..KeepingSink::default() });
        let asked = Asked {
            prompt: ask.prompt.clone(),
            max_new_tokens: ask.max_new_tokens,
            sink: sink.clone(),
            may_end_early: ask.close_after.is_some(),
        };
        self.asked.insert(id, asked);
        let request = Request {
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
            stop_tokens: Arc::new([]),
            min_new_tokens: 0,
            sampling: SamplingParams::greedy(),
            prompt_logprobs: None,
            attempt: 1,
            sink,
        };
        self.pool.offer(request, self.clock.now());
        self.pool_sleep.wake()();
        id
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

    pub(crate) fn end(&self, id: RequestId) -> Option<TokenEvent> {
        self.asked[&id].sink.end()
    }

    /// Every request ended exactly once and got the right answer: the whole of it, unless there is a reason.
    pub(crate) fn assert_answers(&self) {
        for (id, asked) in &self.asked {
            let most = self.limits.max_model_len as usize - asked.prompt.len().min(self.limits.max_model_len as usize);
            let whole = (asked.max_new_tokens as usize).min(most);
            let tokens = asked.sink.tokens();
            match asked.sink.end() {
                Some(TokenEvent::End(end)) if end.reason == FinishReason::Length => {
                    assert!(tokens.len() <= whole, "{id:?}");
                    // A policy may have let it in with fewer tokens than it asked for.
                    assert_eq!(tokens, expected(&asked.prompt, tokens.len()), "{id:?}");
                    assert!(!tokens.is_empty(), "{id:?} ended at its length with nothing");
                }
                Some(TokenEvent::End(end)) => {
                    assert!(asked.may_end_early, "{id:?} ended for no reason: {end:?}");
                    assert_eq!(tokens, expected(&asked.prompt, tokens.len()), "{id:?}");
                }
                Some(TokenEvent::Rejected(_)) => assert!(tokens.is_empty(), "{id:?}"),
                other => panic!("{id:?} never ended: {other:?}"),
            }
        }
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
