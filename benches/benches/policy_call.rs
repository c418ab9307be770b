//! What a decision costs: the same policies natively and as components, over tables of growing length.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use sluice_core::view::{BatchingView, EngineLimits, ReplicaTable, RequestView, RoutingView, SequenceTable, phase};
use sluice_core::{
    BatchingPolicy, DeploymentClass, Instantiate, LoadedPolicy, PolicyLoader, Revision, RoutingPolicy, Slot,
};
use sluice_native::NativeRevision;
use sluice_runtime::{Runtime, Silent};

const SEQUENCES: [usize; 4] = [16, 64, 256, 1024];

fn batching_view(rows: usize) -> BatchingView {
    let wide: Vec<u64> = (0..rows as u64).collect();
    let narrow: Vec<u32> = (0..rows as u32).collect();
    let sequences = SequenceTable {
        id: wide.clone(),
        tenant: wide.clone(),
        priority: vec![0; rows],
        phase: vec![phase::WAITING; rows],
        prompt_tokens: narrow.clone(),
        computed_tokens: narrow.clone(),
        generated_tokens: narrow.clone(),
        max_new_tokens: narrow.clone(),
        blocks_held: narrow.clone(),
        blocks_exclusive: narrow.clone(),
        preemptions: narrow,
        arrival: wide.clone(),
        first_token_time: wide.clone(),
        last_token_time: wide.clone(),
        deadline: wide,
    };
    let limits = EngineLimits { max_sequences: 256, max_batched_tokens: 2048, ..EngineLimits::default() };
    BatchingView { limits, sequences, ..BatchingView::default() }
}

fn routing_view(rows: usize) -> RoutingView {
    let wide: Vec<u64> = (0..rows as u64).collect();
    let narrow: Vec<u32> = (0..rows as u32).collect();
    let ratio = vec![0.5; rows];
    let replicas = ReplicaTable {
        id: narrow.clone(),
        state: vec![1; rows],
        in_flight_requests: narrow.clone(),
        in_flight_tokens: wide.clone(),
        running: narrow.clone(),
        waiting: narrow.clone(),
        waiting_uncached_tokens: wide.clone(),
        kv_used: ratio.clone(),
        kv_capacity_tokens: wide.clone(),
        tokens_per_second: ratio.clone(),
        ttft_average: wide.clone(),
        tpot_average: wide.clone(),
        error_rate: ratio,
        cached_prefix_tokens: narrow,
        age: wide,
    };
    RoutingView {
        request: RequestView { prompt_tokens: 100, ..RequestView::default() },
        replicas,
        ..RoutingView::default()
    }
}

fn loaded(runtime: &Runtime, name: &str) -> Arc<dyn LoadedPolicy> {
    let shipped = sluice_bundle::shipped(name).expect("a shipped policy");
    runtime.load(shipped.component, DeploymentClass::Standard).expect("a shipped policy loads")
}

fn batching(runtime: &Runtime, name: &str, config: &str) -> Box<dyn BatchingPolicy> {
    match loaded(runtime, name).revision(config) {
        Revision::Batching(source) => source.instantiate().expect("an instance"),
        _ => panic!("{name} is no batching policy"),
    }
}

fn plan(c: &mut Criterion) {
    let runtime = Runtime::new(Arc::new(Silent)).expect("a runtime");
    let mut group = c.benchmark_group("plan");
    let config = r#"{"base": "pool"}"#;
    for rows in SEQUENCES {
        let view = batching_view(rows);
        let native = NativeRevision::<utilization_band::UtilizationBand>::new(Slot::Batching, config);
        let mut native = Instantiate::<dyn BatchingPolicy>::instantiate(&native).expect("an instance");
        group.bench_with_input(BenchmarkId::new("native", rows), &view, |b, view| {
            b.iter(|| black_box(native.plan(black_box(view))));
        });
        let mut component = batching(&runtime, "utilization-band", config);
        group.bench_with_input(BenchmarkId::new("component", rows), &view, |b, view| {
            b.iter(|| black_box(component.plan(black_box(view))));
        });
    }
    group.finish();
}

fn rank(c: &mut Criterion) {
    let runtime = Runtime::new(Arc::new(Silent)).expect("a runtime");
    let mut group = c.benchmark_group("rank");
    for rows in [2, 16] {
        let view = routing_view(rows);
        let Revision::Routing(source) = loaded(&runtime, "least-loaded").revision("{}") else { panic!("slot") };
        let mut component: Box<dyn RoutingPolicy> = source.instantiate().expect("an instance");
        group.bench_with_input(BenchmarkId::new("component", rows), &view, |b, view| {
            b.iter(|| black_box(component.rank(black_box(view))));
        });
    }
    group.finish();
}

fn instantiate(c: &mut Criterion) {
    let runtime = Runtime::new(Arc::new(Silent)).expect("a runtime");
    let Revision::Batching(source) = loaded(&runtime, "first-come").revision("{}") else { panic!("slot") };
    c.bench_function("instantiate and configure", |b| b.iter(|| black_box(source.instantiate().is_ok())));
    let shipped = sluice_bundle::shipped("first-come").expect("a shipped policy");
    c.bench_function("compile", |b| {
        b.iter_with_large_drop(|| {
            let fresh = Runtime::new(Arc::new(Silent)).expect("a runtime");
            let loaded = fresh.load(shipped.component, DeploymentClass::Standard).is_ok();
            (fresh, loaded)
        });
    });
}

criterion_group!(benches, plan, rank, instantiate);
criterion_main!(benches);
