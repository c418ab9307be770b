//! What a scrape costs, of ten replicas whose histograms are full, while threads count without a pause: median, 99th
//! percentile and longest. And what counting a token costs a step.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use sluice_benches::decoding::quantile;
use sluice_core::view::{EngineLimits, LastStep};
use sluice_core::{
    CallCost, Clock, Digest, EngineEvent, FinishReason, Finished, Handover, Installed, Nanos, NoDevices, Observer,
    ReplicaId, RequestId, RevisionId, SECOND, Seat, Slot, TenantId,
};
use sluice_telemetry::{Compat, Metrics, MetricsOptions};

const REPLICAS: u32 = 10;
const SCRAPES: usize = 2000;
const TOKENS: u64 = 10_000_000;

/// Counts from when it was made.
struct SinceStart(Instant);

impl Clock for SinceStart {
    fn now(&self) -> Nanos {
        self.0.elapsed().as_nanos() as Nanos
    }
}

fn metrics(compat: Option<Compat>) -> Metrics {
    let limits =
        EngineLimits { max_model_len: 32_768, block_tokens: 16, blocks_total: 1000, ..EngineLimits::default() };
    let metrics = Metrics::new(&MetricsOptions {
        replicas: REPLICAS as usize,
        limits,
        model: "Qwen/Qwen2.5-0.5B-Instruct",
        version: "0.1.0",
        compat,
        devices: Arc::new(NoDevices),
        clock: Arc::new(SinceStart(Instant::now())),
    });
    let metrics = metrics.expect("the names are Prometheus'");
    (0..REPLICAS).for_each(|replica| fill(&metrics, ReplicaId(replica)));
    metrics
}

/// Something in every bucket, as after some hours.
fn fill(metrics: &Metrics, replica: ReplicaId) {
    let seat = Seat { slot: Slot::Batching, replica: Some(replica) };
    let revision = RevisionId {
        slot: Slot::Batching,
        name: "utilization-band".to_owned(),
        version: "0.1.0".to_owned(),
        digest: Digest([7; 32]),
        config: "{}".to_owned(),
    };
    let installed = Installed { revision, handover: Handover::Stateless, pause: 66_000 };
    metrics.observe(&EngineEvent::Installed { seat, installed: &installed });
    for power in 0..64u64 {
        let time = (1 << (power % 44)) + 12_345 * power;
        let tokens = 1 << (power % 15);
        let step = LastStep { wall: time, device: time, prefill_tokens: tokens, ..LastStep::default() };
        metrics.observe(&EngineEvent::Step { replica, step: &step, roof: None });
        metrics.observe(&EngineEvent::Decision { seat, cost: CallCost { nanos: time, fuel: 0 } });
        metrics.observe(&EngineEvent::FirstToken { replica, after: time });
        metrics.observe(&EngineEvent::Token { replica, after: time });
        metrics.observe(&EngineEvent::Finished(&Finished {
            id: RequestId(power),
            tenant: TenantId(1),
            replica,
            reason: FinishReason::Stop,
            arrival: 0,
            scheduled: Some(time / 3),
            first_token: Some(time / 2),
            finished: time,
            prompt_tokens: tokens,
            cached_tokens: tokens / 2,
            generated_tokens: tokens,
            preemptions: 0,
        }));
    }
}

/// Microseconds of many scrapes, while so many threads count a token after another.
fn scrapes(metrics: &Metrics, writers: u32) -> Vec<f64> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        for writer in 0..writers {
            let stop = &stop;
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    metrics.observe(&EngineEvent::Token { replica: ReplicaId(writer), after: SECOND / 50 });
                }
            });
        }
        let time = |_| {
            let begin = Instant::now();
            black_box(metrics.scrape().expect("a scrape"));
            begin.elapsed().as_secs_f64() * 1e6
        };
        let times = (0..SCRAPES).map(time).collect();
        stop.store(true, Ordering::Relaxed);
        times
    })
}

fn nanoseconds_of_a_token(metrics: &Metrics) -> f64 {
    let begin = Instant::now();
    for token in 0..TOKENS {
        let after = (token % 64) * SECOND / 1000;
        metrics.observe(black_box(&EngineEvent::Token { replica: ReplicaId(0), after }));
    }
    begin.elapsed().as_nanos() as f64 / TOKENS as f64
}

#[allow(clippy::print_stdout, reason = "a benchmark reports on standard output")]
fn main() {
    for (names, compat) in [("own names", None), ("and vLLM's", Some(Compat::Vllm))] {
        let metrics = metrics(compat);
        let text = metrics.scrape().expect("a scrape");
        println!("{names}: {} lines, {} bytes", text.lines().count(), text.len());
        for writers in [0, 1, 2] {
            let mut times = scrapes(&metrics, writers);
            let [median, p99, longest] = [0.5, 0.99, 1.0].map(|share| quantile(&mut times, share));
            println!("  {writers} threads count: {median:.0} µs, p99 {p99:.0}, longest {longest:.0}");
        }
        println!("  a token: {:.1} ns", nanoseconds_of_a_token(&metrics));
    }
}
