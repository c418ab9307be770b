//! A pool and one replica in virtual time: whatever comes next happens next, and nothing takes time but steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_core::{
    AdmissionPolicy, BatchingPolicy, Clock, HashChain, Instantiate, Nanos, ReplicaId, Request, RequestId, SECOND,
    SamplingParams, SinkClosed, Slot, TenantId, TokenEvent, TokenSink,
};
use sluice_engine::link::link;
use sluice_engine::order::{Order, Prepared};
use sluice_engine::pool::{Pool, PoolConfig, PoolOrder};
use sluice_engine::replica::{Replica, ReplicaConfig};
use sluice_native::NativeRevision;

use crate::arrivals::Arrival;
use crate::card::{Answers, Card, Ends, ModelledExecutor, STOP};
use crate::outcome::{Outcome, Watch};

/// What a client lets an answer be at most.
const MAX_NEW_TOKENS: u32 = 1024;
/// The host looks at a step every so often even if nothing seems to happen.
const LONGEST_SLEEP: Nanos = SECOND / 10;

#[derive(Default)]
struct VirtualClock(AtomicU64);

impl Clock for VirtualClock {
    fn now(&self) -> Nanos {
        self.0.load(Ordering::SeqCst)
    }
}

/// What is measured is what the engine reports; nobody reads the tokens.
struct Ignored;

impl TokenSink for Ignored {
    fn send(&self, _: TokenEvent) -> Result<(), SinkClosed> {
        Ok(())
    }
}

pub(crate) struct Server {
    clock: Arc<VirtualClock>,
    watch: Arc<Watch>,
    answers: Answers,
    pool: Pool,
    replica: Replica,
    card: Card,
    ends: Ends,
}

pub(crate) type Batching = Arc<dyn Instantiate<dyn BatchingPolicy>>;
pub(crate) type Admission = Arc<dyn Instantiate<dyn AdmissionPolicy>>;

pub(crate) fn batching<P: sluice_sdk::batching::Batching + Send>(config: &str) -> Batching {
    Arc::new(NativeRevision::<P>::new(Slot::Batching, config))
}

pub(crate) fn admission<P: sluice_sdk::admission::Admission + Send>(config: &str) -> Admission {
    Arc::new(NativeRevision::<P>::new(Slot::Admission, config))
}

impl Server {
    pub(crate) fn new(card: Card, admission: &Admission, batching: &Batching) -> Self {
        let (clock, watch, answers) =
            (Arc::new(VirtualClock::default()), Arc::new(Watch::default()), Answers::default());
        let ends = Ends::default();
        clock.0.store(SECOND, Ordering::SeqCst);
        let config = ReplicaConfig::new(ReplicaId(0), card.limits);
        let (port, inlet) = link(config.first_report(), Arc::new(|| {}), Arc::new(|| {}));
        let executor = Box::new(ModelledExecutor::new(card, Arc::clone(&answers), Arc::clone(&ends)));
        let mut replica = Replica::new(config, executor, inlet, watch.clone(), SECOND);
        let instance = batching.instantiate().unwrap();
        replica.guard_mut().install(Prepared { source: Arc::clone(batching), instance }, &*clock);
        let pool_config = PoolConfig {
            max_model_len: card.limits.max_model_len,
            max_queued_requests: 4096,
            max_queued_tokens: 1 << 30,
            ..PoolConfig::default()
        };
        let mut pool = Pool::new(pool_config, vec![port], watch.clone());
        let prepared = Prepared { source: Arc::clone(admission), instance: admission.instantiate().unwrap() };
        pool.order(PoolOrder::Admission(Order::Install { prepared, reply: Box::new(|_| {}) }), &*clock);
        Self { clock, watch, answers, pool, replica, card, ends }
    }

    /// Serves all of it to the end.
    pub(crate) fn serve(mut self, arrivals: &[Arrival]) -> Outcome {
        let mut coming = arrivals.iter().enumerate().peekable();
        loop {
            let now = self.clock.now();
            while let Some((index, arrival)) = coming.next_if(|(_, arrival)| arrival.at + SECOND <= now) {
                self.offer(index as u64, arrival);
            }
            let wake = self.turn();
            if coming.peek().is_none() && self.pool.queued() + self.pool.in_flight() == 0 {
                break;
            }
            let next = coming.peek().map(|(_, arrival)| arrival.at + SECOND);
            let due = [next, wake].into_iter().flatten().min().unwrap_or(u64::MAX);
            let soonest = due.min(self.ends.load(Ordering::SeqCst)).min(now + LONGEST_SLEEP);
            self.clock.0.store(soonest.max(now + 1), Ordering::SeqCst);
        }
        self.pool.assert_consistent();
        self.replica.assert_consistent();
        assert_eq!(self.replica.blocks_available(), self.card.limits.blocks_total, "free blocks == total");
        let outcome = self.watch.0.lock().unwrap().clone();
        assert_eq!(outcome.offered(), arrivals.len(), "every request ended in exactly one way");
        assert_eq!(outcome.fallbacks, 0, "no decision was refused by the host");
        outcome
    }

    /// What has ended is taken in, what can be sent is sent, and the next step is begun.
    fn turn(&mut self) -> Option<Nanos> {
        let now = self.clock.now();
        while self.replica.collect(&*self.clock).unwrap() {}
        self.pool.events(now);
        let wake = self.pool.tick(now);
        if !self.replica.can_submit() {
            return wake;
        }
        let Some(planned) = self.replica.plan(&*self.clock) else {
            return [wake, self.replica.wake_at(now)].into_iter().flatten().min();
        };
        self.replica.submit(planned, &*self.clock).unwrap();
        wake
    }

    fn offer(&mut self, id: u64, arrival: &Arrival) {
        // Every prompt is another one: nothing is found in the prefix cache.
        let prompt: Vec<u32> = (0..arrival.prompt_tokens).map(|at| at ^ (id as u32).rotate_left(13)).collect();
        let id = RequestId(id);
        self.answers.lock().unwrap().insert(id, arrival.output_tokens);
        let request = Request {
            id,
            tenant: TenantId(arrival.tenant),
            tenant_weight: 1.0,
            session: None,
            priority: arrival.priority,
            arrival: self.clock.now(),
            deadline: None,
            ttft_target: None,
            tpot_target: None,
            hashes: Arc::new(HashChain::new(b"", &prompt, self.card.limits.block_tokens)),
            prompt: prompt.into(),
            max_new_tokens: MAX_NEW_TOKENS,
            stop_tokens: Arc::new([STOP]),
            min_new_tokens: 0,
            sampling: SamplingParams::greedy(),
            prompt_logprobs: None,
            attempt: 1,
            sink: Arc::new(Ignored),
        };
        self.pool.offer(&[request], self.clock.now());
    }
}
