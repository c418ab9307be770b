//! The engine alone, on one thread: plan, submit and collect of a decoding batch, with an executor that computes
//! nothing and sinks that count. Prints microseconds a step, median and 99th percentile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use sluice_benches::idle::IdleExecutor;
use sluice_core::view::EngineLimits;
use sluice_core::{
    Clock, HashChain, Nanos, ReplicaId, Request, RequestId, SamplingParams, SinkClosed, TenantId, TokenEvent,
    TokenSink, Unobserved,
};
use sluice_engine::link::link;
use sluice_engine::pool::{Pool, PoolConfig};
use sluice_engine::replica::{Replica, ReplicaConfig};

const STEPS: usize = 4000;

struct WallClock(Instant);

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

fn request(id: u64, sink: &Arc<CountingSink>) -> Request {
    let prompt: Vec<u32> = (0..512).map(|position| position + id as u32).collect();
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
        attempt: 1,
        sink: Arc::clone(sink) as Arc<dyn TokenSink>,
    }
}

fn measure(sequences: u32) -> (f64, f64) {
    let limits = EngineLimits {
        max_sequences: sequences,
        max_batched_tokens: 1 << 20,
        block_tokens: 16,
        blocks_total: sequences * 320,
        kv_bytes_per_token: 1,
        max_model_len: 5000,
    };
    let clock = WallClock(Instant::now());
    let config = ReplicaConfig::new(ReplicaId(0), limits);
    let (port, inlet) = link(config.first_report(), Arc::new(|| {}), Arc::new(|| {}));
    let mut replica = Replica::new(config, Box::new(IdleExecutor::default()), inlet, Arc::new(Unobserved), 0);
    let pool_config = PoolConfig {
        max_model_len: 5000,
        max_queued_requests: 4096,
        max_queued_tokens: 1 << 30,
        ..PoolConfig::default()
    };
    let mut pool = Pool::new(pool_config, vec![port], Arc::new(Unobserved));
    let sink = Arc::new(CountingSink::default());
    (0..u64::from(sequences)).for_each(|id| pool.offer(request(id, &sink), clock.now()));
    pool.tick(clock.now());

    let mut times: Vec<f64> = Vec::with_capacity(STEPS);
    for _ in 0..STEPS {
        let begin = Instant::now();
        let planned = replica.plan(&clock).expect("sequences decode");
        replica.submit(planned, &clock).expect("the executor takes it");
        replica.collect(&clock).expect("the executor has computed it");
        times.push(begin.elapsed().as_secs_f64() * 1e6);
    }
    assert_eq!(sink.0.load(Ordering::Relaxed), u64::from(sequences) * STEPS as u64, "a token per sequence and step");
    times.sort_by(f64::total_cmp);
    (times[STEPS / 2], times[STEPS * 99 / 100])
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    println!("sequences   median µs   p99 µs   per sequence ns");
    for sequences in [1, 16, 32, 64, 128, 256, 1024] {
        let (median, p99) = measure(sequences);
        println!("{sequences:>9}   {median:>9.1}   {p99:>6.1}   {:>8.0}", median * 1000.0 / f64::from(sequences));
    }
}
