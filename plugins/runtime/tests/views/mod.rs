//! Random views: any value in any column, small tables, a few tenants and replicas.

use proptest::collection::vec;
use proptest::prelude::*;
use sluice_core::view::{
    ArrivalView, BatchingView, DeviceSample, EngineLimits, EngineNow, FlowTable, FlowView, LastStep, PoolView,
    ReplicaTable, RequestView, RoutingView, SequenceTable, UNKNOWN,
};
use sluice_core::{Events, FinishReason, Finished, ReplicaId, RequestId, TenantId};

const TENANTS: u64 = 5;

pub(crate) fn finished(tenant: u64, tokens: u32) -> Finished {
    Finished {
        id: RequestId(tenant),
        tenant: TenantId(tenant),
        replica: ReplicaId(0),
        reason: FinishReason::Stop,
        arrival: 1,
        scheduled: Some(2),
        first_token: None,
        finished: 9,
        prompt_tokens: tokens,
        cached_tokens: 0,
        generated_tokens: tokens / 2,
        preemptions: 0,
    }
}

pub(crate) fn events() -> impl Strategy<Value = Events> {
    vec((0..TENANTS, 0..4000_u32), 0..6).prop_map(|rows| Events {
        now: 5,
        lost: 0,
        finished: (1..).zip(rows.into_iter().map(|(tenant, tokens)| finished(tenant, tokens))).collect(),
        preempted: Vec::new(),
        samples: Vec::new(),
    })
}

fn sample() -> impl Strategy<Value = DeviceSample> {
    let ratio = || prop_oneof![0.0..=1.0_f64, Just(f64::NAN)];
    (0..4_u64, prop::option::of(ratio()), ratio(), prop::option::of(ratio())).prop_map(
        |(number, nvml_gpu, engine_busy, roofline_share)| DeviceSample {
            number,
            nvml_gpu,
            engine_busy,
            roofline_share,
            ..DeviceSample::default()
        },
    )
}

/// A table of so many rows in which row i of every column that is not named is i.
fn sequences(phases: Vec<u8>) -> SequenceTable {
    let wide: Vec<u64> = (0..phases.len() as u64).collect();
    let narrow: Vec<u32> = (0..phases.len() as u32).collect();
    SequenceTable {
        id: wide.clone(),
        tenant: wide.clone(),
        priority: vec![0; phases.len()],
        phase: phases,
        prompt_tokens: narrow.clone(),
        computed_tokens: narrow.clone(),
        generated_tokens: narrow.clone(),
        max_new_tokens: narrow.clone(),
        blocks_held: narrow.clone(),
        blocks_exclusive: narrow.clone(),
        preemptions: narrow,
        arrival: wide.clone(),
        first_token_time: vec![UNKNOWN; wide.len()],
        last_token_time: wide.clone(),
        deadline: vec![UNKNOWN; wide.len()],
    }
}

fn last_step() -> impl Strategy<Value = LastStep> {
    let time = || prop_oneof![Just(0), 0..200_000_000_u64, any::<u64>()];
    (time(), time(), time(), any::<u32>(), 0..300_u32, any::<u64>()).prop_map(
        |(wall, device, host_gap, prefill_tokens, decode_sequences, context_tokens)| LastStep {
            wall,
            device,
            host_gap,
            prefill_tokens,
            decode_sequences,
            context_tokens,
            ..LastStep::default()
        },
    )
}

pub(crate) fn batching() -> impl Strategy<Value = BatchingView> {
    let limits = (0..300_u32, 0..5000_u32, 0..32_u32, any::<u32>());
    let engine = (any::<u32>(), prop::option::of(sample()));
    (any::<u64>(), limits, engine, prop::option::of(last_step()), vec(0..6_u8, 0..40)).prop_map(
        |(random, (max_sequences, max_batched_tokens, block_tokens, blocks_total), engine, last_step, phases)| {
            let limits = EngineLimits {
                max_sequences,
                max_batched_tokens,
                block_tokens,
                blocks_total,
                ..EngineLimits::default()
            };
            let (blocks_free, device) = engine;
            BatchingView {
                random,
                limits,
                engine: EngineNow { blocks_free, device, ..EngineNow::default() },
                last_step,
                sequences: sequences(phases),
                ..BatchingView::default()
            }
        },
    )
}

pub(crate) fn routing() -> impl Strategy<Value = RoutingView> {
    let replica = (0..4_u8, any::<u32>(), prop_oneof![0..100_u64, any::<u64>()], prop_oneof![0..90_u32, any::<u32>()]);
    let request = (0..100_u32, 0..TENANTS, prop::option::of(any::<u64>()));
    (any::<u64>(), any::<u64>(), request, vec(replica, 0..8)).prop_map(|(now, random, request, rows)| {
        let mut replicas = ReplicaTable::default();
        for (id, (state, requests, tokens, cached)) in (0..).zip(rows) {
            push_replica(&mut replicas, id, state, requests, tokens, cached);
        }
        let (prompt_tokens, tenant, session) = request;
        let request = RequestView { prompt_tokens, tenant, session, ..RequestView::default() };
        RoutingView { now, random, request, replicas }
    })
}

fn push_replica(table: &mut ReplicaTable, id: u32, state: u8, requests: u32, tokens: u64, cached: u32) {
    table.id.push(id);
    table.state.push(state);
    table.in_flight_requests.push(requests);
    table.in_flight_tokens.push(tokens);
    table.running.push(u32::MAX);
    table.waiting.push(u32::MAX);
    table.waiting_uncached_tokens.push(UNKNOWN);
    table.kv_used.push(f64::MAX);
    table.kv_capacity_tokens.push(UNKNOWN);
    table.tokens_per_second.push(1.5);
    table.ttft_average.push(UNKNOWN);
    table.tpot_average.push(UNKNOWN);
    table.error_rate.push(0.0);
    table.cached_prefix_tokens.push(cached);
    table.age.push(0);
}

fn flow_table() -> impl Strategy<Value = FlowTable> {
    let flow = (0.1..9.0_f64, 0..9_u32, any::<u64>(), 0..4000_u32, -2..3_i32);
    vec(flow, 0..TENANTS as usize).prop_map(|rows| {
        let mut table = FlowTable::default();
        for (tenant, (weight, queued, wait, prompt, priority)) in (0..).zip(rows) {
            table.tenant.push(tenant);
            table.weight.push(weight);
            table.queued_requests.push(queued);
            table.queued_tokens.push(u64::from(queued) * 100);
            table.head_wait.push(wait);
            table.head_prompt_tokens.push(prompt);
            table.head_max_new_tokens.push(u32::MAX);
            table.head_priority.push(priority);
            table.in_flight_requests.push(0);
            table.served_tokens.push(0);
        }
        table
    })
}

fn pool() -> impl Strategy<Value = PoolView> {
    let rate = prop_oneof![Just(0.0), 0.001..1000.0_f64, Just(f64::NAN), Just(f64::INFINITY)];
    (0..200_u32, any::<u64>(), rate).prop_map(|(queued_requests, queued_tokens, completion_rate)| PoolView {
        queued_requests,
        queued_tokens,
        completion_rate,
        ..PoolView::default()
    })
}

pub(crate) fn flows() -> impl Strategy<Value = FlowView> {
    (any::<u64>(), pool(), flow_table()).prop_map(|(now, pool, flows)| FlowView { now, random: 0, pool, flows })
}

pub(crate) fn arrival() -> impl Strategy<Value = ArrivalView> {
    let tokens = (any::<u32>(), any::<u32>());
    (0..TENANTS, 0.1..9.0_f64, tokens, any::<i32>(), flows()).prop_map(
        |(tenant, tenant_weight, (prompt_tokens, max_new_tokens), priority, view)| {
            let request = RequestView {
                id: tenant,
                tenant,
                tenant_weight,
                prompt_tokens,
                max_new_tokens,
                priority,
                ..RequestView::default()
            };
            ArrivalView { now: view.now, random: view.random, request, pool: view.pool, flows: view.flows }
        },
    )
}
