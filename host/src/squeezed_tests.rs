//! The engine's threads over a GPU's executor with far too little memory: sequences are preempted, and no request fails.

use std::sync::atomic::AtomicUsize;

use sluice_checkpoint::{LoadOptions, Silent};
use sluice_kernels::Card;
use sluice_model::gpu::{Dequantized, GpuModel, HostDevice};
use sluice_model::{StepLimits, embedded};

use super::*;

const CLIENTS: u64 = 64;
const NEW_TOKENS: u32 = 30;
/// Sixteen sequences take 64 at their longest.
const FEW_BLOCKS: u32 = 24;
const LENGTH: u32 = 64;

#[derive(Default)]
struct Preemptions(AtomicUsize);

impl Observer for Preemptions {
    fn observe(&self, event: &EngineEvent<'_>) {
        if matches!(event, EngineEvent::Preempted { .. }) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn on_host_memory() -> MakeExecutor {
    let model = Arc::new(GpuModel::read(embedded(), LoadOptions::default(), None).unwrap());
    let limits = StepLimits { blocks: FEW_BLOCKS, block_tokens: 16, max_tokens: 128, max_rows: 16 };
    Arc::new(move |_| {
        let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
        let device = HostDevice::new(Card::h200()).lagging(1);
        let executor = model.load(device, limits, Dequantized::Anew, Box::new(Silent), clock);
        Ok(Box::new(executor.map_err(|error| ExecutorError { message: error.to_string() })?) as Box<dyn Executor>)
    })
}

#[test]
fn sixty_four_clients_on_few_blocks_are_all_answered() {
    let preemptions = Arc::new(Preemptions::default());
    let limits = EngineLimits {
        max_sequences: 16,
        max_batched_tokens: 128,
        block_tokens: 16,
        blocks_total: FEW_BLOCKS,
        kv_bytes_per_token: 1,
        max_model_len: LENGTH,
    };
    let parts = EngineParts {
        pool: PoolConfig { max_model_len: LENGTH, ..PoolConfig::default() },
        replicas: vec![ReplicaConfig::new(ReplicaId(0), limits)],
        executor: on_host_memory(),
        committed: Arc::new(|| Some(Arc::new(Calm::new()))),
        observer: Arc::clone(&preemptions) as Arc<dyn Observer>,
        devices: Arc::new(NoDevices),
    };
    let clock: Arc<dyn Clock> = Arc::new(MonotonicClock::start());
    let engine = Engine::start(parts, &clock).unwrap();
    let sinks: Vec<Arc<Sink>> = (0..CLIENTS).map(|_| Arc::default()).collect();
    for (id, sink) in (0..).zip(&sinks) {
        let prompt: Vec<u32> = (0..20).map(|place| (id * 31 + place * 7) as u32 % 2048).collect();
        let hashes = Arc::new(HashChain::new(b"", &prompt, 16));
        let request = Request { prompt: prompt.into(), hashes, max_new_tokens: NEW_TOKENS, ..request(id, sink) };
        engine.handle().offer_all(vec![request]).unwrap();
    }
    eventually("all requests end", || sinks.iter().all(|sink| sink.answer().1.is_some()));
    for sink in &sinks {
        assert_eq!(sink.answer(), (NEW_TOKENS as usize, Some(FinishReason::Length)));
    }
    let preempted = preemptions.0.load(Ordering::Relaxed);
    assert!(preempted > 0, "there was memory enough");
    let seat = &engine.seats().batching[0];
    assert_eq!(ask(seat, Order::Snapshot).engine.blocks_free, FEW_BLOCKS);
}
