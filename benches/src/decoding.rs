//! A replica in the middle of decoding so many sequences, on an executor that computes nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sluice_core::view::EngineLimits;
use sluice_core::{
    Clock, HashChain, Nanos, ReplicaId, Request, RequestId, SamplingParams, SinkClosed, TenantId, TokenEvent,
    TokenSink, Unobserved,
};
use sluice_engine::link::link;
use sluice_engine::pool::{Pool, PoolConfig};
use sluice_engine::replica::{Replica, ReplicaConfig};

use crate::idle::IdleExecutor;

/// Prompt and answer of a sequence here.
pub const MAX_MODEL_LEN: u32 = 5000;
const PROMPT: u32 = 512;

pub struct Decoding {
    pub replica: Replica,
    pub clock: WallClock,
    sink: Arc<CountingSink>,
    // The other end of the replica's link: without it the replica would be talking to nobody.
    _pool: Pool,
}

pub struct WallClock(Instant);

impl Clock for WallClock {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

#[derive(Default)]
struct CountingSink(AtomicU64);

impl TokenSink for CountingSink {
    fn send(&self, _: TokenEvent) -> Result<(), SinkClosed> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

impl Decoding {
    pub fn new(sequences: u32) -> Self {
        let limits = EngineLimits {
            max_sequences: sequences,
            max_batched_tokens: 1 << 20,
            block_tokens: 16,
            blocks_total: sequences * MAX_MODEL_LEN.div_ceil(16),
            kv_bytes_per_token: 1,
            max_model_len: MAX_MODEL_LEN,
        };
        let clock = WallClock(Instant::now());
        let config = ReplicaConfig::new(ReplicaId(0), limits);
        let (port, inlet) = link(config.first_report(), Arc::new(|| {}), Arc::new(|| {}));
        let replica = Replica::new(config, Box::new(IdleExecutor::default()), inlet, Arc::new(Unobserved), 0);
        let pool_config = PoolConfig {
            max_model_len: MAX_MODEL_LEN,
            max_queued_requests: 4096,
            max_queued_tokens: 1 << 30,
            ..PoolConfig::default()
        };
        let mut pool = Pool::new(pool_config, vec![port], Arc::new(Unobserved));
        let sink = Arc::new(CountingSink::default());
        (0..u64::from(sequences)).for_each(|id| pool.offer(&[request(id, &sink)], clock.now()));
        pool.tick(clock.now());
        let mut decoding = Self { replica, clock, sink, _pool: pool };
        // The first step computes the prompts.
        decoding.step();
        decoding
    }

    pub fn step(&mut self) {
        let planned = self.replica.plan(&self.clock).expect("sequences decode");
        self.replica.submit(planned, &self.clock).expect("the executor takes it");
        self.replica.collect(&self.clock).expect("the executor has computed it");
    }

    /// Tokens that all sequences together were given.
    pub fn tokens(&self) -> u64 {
        self.sink.0.load(Ordering::Relaxed)
    }
}

fn request(id: u64, sink: &Arc<CountingSink>) -> Request {
    let prompt: Vec<u32> = (0..PROMPT).map(|position| position + id as u32).collect();
    Request {
        id: RequestId(id),
        tenant: TenantId(0),
        tenant_weight: 1.0,
        session: None,
        priority: 0,
        arrival: 0,
        deadline: None,
        ttft_target: None,
        tpot_target: None,
        hashes: Arc::new(HashChain::new(b"", &prompt, 16)),
        prompt: prompt.into(),
        max_new_tokens: u32::MAX / 2,
        stop_tokens: Arc::new([0]),
        min_new_tokens: 0,
        sampling: SamplingParams::greedy(),
        prompt_logprobs: None,
        attempt: 1,
        sink: Arc::clone(sink) as Arc<dyn TokenSink>,
    }
}

/// In microseconds, of times in any order.
pub fn quantile(times: &mut [f64], share: f64) -> f64 {
    times.sort_by(f64::total_cmp);
    times[((times.len() - 1) as f64 * share) as usize]
}
