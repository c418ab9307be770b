//! Core's views as the SDK's, and the SDK's decisions as core's. Field by field; both mirror `wit/`.

use sluice_core::view;
use sluice_core::{BatchingDecision, Choice, Chunk, NextFlow, Rejection, Route, Verdict};
use sluice_sdk::rows::{FinishReason, FinishedRequest, PreemptedSequence};
use sluice_sdk::{admission, batching, routing};

/// Builds the SDK's value from fields of the same names.
macro_rules! fields {
    ($($type:ident)::+, $from:ident { $($field:ident),* $(,)? }) => {
        $($type)::+ { $($field: $from.$field.clone(),)* }
    };
}

fn request(request: &view::RequestView) -> sluice_sdk::Request {
    fields!(
        sluice_sdk::Request,
        request {
            id,
            tenant,
            tenant_weight,
            session,
            priority,
            arrival,
            deadline,
            ttft_target,
            tpot_target,
            prompt_tokens,
            max_new_tokens,
            attempt,
        }
    )
}

fn sample(sample: &view::DeviceSample) -> sluice_sdk::DeviceSample {
    fields!(
        sluice_sdk::DeviceSample,
        sample {
            number,
            age,
            window,
            nvml_gpu,
            nvml_memory,
            memory_used_bytes,
            memory_total_bytes,
            power_watts,
            sm_clock_hz,
            throttle_reasons,
            sm_activity,
            dram_activity,
            engine_busy,
            roofline_share,
        }
    )
}

fn pool(pool: &view::PoolView) -> admission::Pool {
    fields!(
        admission::Pool,
        pool {
            queued_requests,
            queued_tokens,
            in_flight_requests,
            in_flight_tokens,
            arrival_rate,
            completion_rate,
            ready_replicas,
            sequence_saturation,
            kv_saturation,
            queue_saturation,
        }
    )
}

fn flows(table: &view::FlowTable) -> admission::FlowTable {
    fields!(
        admission::FlowTable,
        table {
            tenant,
            weight,
            queued_requests,
            queued_tokens,
            head_wait,
            head_prompt_tokens,
            head_max_new_tokens,
            head_priority,
            in_flight_requests,
            served_tokens,
        }
    )
}

pub(crate) fn arrival(view: &view::ArrivalView) -> admission::ArrivalView {
    admission::ArrivalView {
        now: view.now,
        random: view.random,
        request: request(&view.request),
        pool: pool(&view.pool),
        flows: flows(&view.flows),
    }
}

pub(crate) fn flow_view(view: &view::FlowView) -> admission::FlowView {
    admission::FlowView { now: view.now, random: view.random, pool: pool(&view.pool), flows: flows(&view.flows) }
}

pub(crate) fn routing(view: &view::RoutingView) -> routing::View {
    let table = &view.replicas;
    routing::View {
        now: view.now,
        random: view.random,
        request: request(&view.request),
        replicas: fields!(
            routing::ReplicaTable,
            table {
                id,
                state,
                in_flight_requests,
                in_flight_tokens,
                running,
                waiting,
                waiting_uncached_tokens,
                kv_used,
                kv_capacity_tokens,
                tokens_per_second,
                ttft_average,
                tpot_average,
                error_rate,
                cached_prefix_tokens,
                age,
            }
        ),
    }
}

pub(crate) fn batching(view: &view::BatchingView) -> batching::View {
    let (limits, engine, table) = (&view.limits, &view.engine, &view.sequences);
    batching::View {
        now: view.now,
        random: view.random,
        limits: fields!(
            batching::EngineLimits,
            limits { max_sequences, max_batched_tokens, block_tokens, blocks_total, kv_bytes_per_token, max_model_len }
        ),
        engine: batching::EngineNow {
            step: engine.step,
            blocks_free: engine.blocks_free,
            blocks_reclaimable: engine.blocks_reclaimable,
            waiting_uncached_tokens: engine.waiting_uncached_tokens,
            max_running: engine.max_running,
            token_budget: engine.token_budget,
            device: engine.device.as_ref().map(sample),
        },
        last_step: view.last_step.as_ref().map(|step| {
            fields!(
                batching::LastStep,
                step {
                    wall,
                    device,
                    host_gap,
                    prefill_tokens,
                    decode_sequences,
                    context_tokens,
                    allocation_failures,
                    preempted,
                    recomputed_tokens,
                    finished,
                }
            )
        }),
        sequences: fields!(
            batching::SequenceTable,
            table {
                id,
                tenant,
                priority,
                phase,
                prompt_tokens,
                computed_tokens,
                generated_tokens,
                max_new_tokens,
                blocks_held,
                blocks_exclusive,
                preemptions,
                arrival,
                first_token_time,
                last_token_time,
                deadline,
            }
        ),
    }
}

fn finished((number, row): &(u64, sluice_core::Finished)) -> FinishedRequest {
    FinishedRequest {
        number: *number,
        id: row.id.0,
        tenant: row.tenant.0,
        replica: row.replica.0,
        reason: match row.reason {
            sluice_core::FinishReason::Stop => FinishReason::Stop,
            sluice_core::FinishReason::Length => FinishReason::Length,
            sluice_core::FinishReason::Cancelled => FinishReason::Cancelled,
            sluice_core::FinishReason::Failed => FinishReason::Failed,
        },
        arrival: row.arrival,
        scheduled: row.scheduled,
        first_token: row.first_token,
        finished: row.finished,
        prompt_tokens: row.prompt_tokens,
        cached_tokens: row.cached_tokens,
        generated_tokens: row.generated_tokens,
    }
}

pub(crate) fn events(events: &sluice_core::Events) -> sluice_sdk::Events {
    sluice_sdk::Events {
        now: events.now,
        lost: events.lost,
        finished: events.finished.iter().map(finished).collect(),
        preempted: events
            .preempted
            .iter()
            .map(|(number, row)| PreemptedSequence {
                number: *number,
                id: row.id.0,
                recompute_tokens: row.recompute_tokens,
            })
            .collect(),
        samples: events.samples.iter().map(sample).collect(),
    }
}

pub(crate) fn verdict(verdict: admission::Verdict) -> Verdict {
    match verdict {
        admission::Verdict::Accept(priority) => Verdict::Accept { priority },
        admission::Verdict::Reject(rejection) => Verdict::Reject(Rejection {
            caller: rejection.caller,
            reason: rejection.reason,
            retry_after: rejection.retry_after,
        }),
        admission::Verdict::Degrade(max_new_tokens) => Verdict::Degrade { max_new_tokens },
    }
}

pub(crate) fn next_flow(next: &admission::NextFlow) -> NextFlow {
    match *next {
        admission::NextFlow::Serve(tenant) => NextFlow::Serve { tenant },
        admission::NextFlow::HoldUntil(until) => NextFlow::HoldUntil(until),
    }
}

pub(crate) fn route(route: routing::Route) -> Route {
    match route {
        routing::Route::Ranked(choices) => {
            let choice = |choice: routing::Choice| Choice { replica: choice.replica, cost: choice.cost };
            Route::Ranked(choices.into_iter().map(choice).collect())
        }
        routing::Route::HoldUntil(until) => Route::HoldUntil(until),
    }
}

pub(crate) fn schedule(schedule: batching::Schedule) -> BatchingDecision {
    let chunk = |chunk: batching::Chunk| Chunk { id: chunk.id, tokens: chunk.tokens };
    BatchingDecision {
        max_running: schedule.max_running,
        token_budget: schedule.token_budget,
        order: schedule.order,
        chunks: schedule.chunks.into_iter().map(chunk).collect(),
        victims: schedule.victims,
    }
}
