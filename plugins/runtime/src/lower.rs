//! Core's views as the contract's: tables are borrowed column by column, so nothing is copied per row.

use sluice_core::view::{
    ArrivalView, BatchingView, DeviceSample, FlowTable, FlowView, PoolView, ReplicaTable, RequestView, RoutingView,
    SequenceTable, UNKNOWN,
};
use sluice_core::{Events, Finished, Preempted};

use crate::bindings::exports::sluice::policy::{admission_policy, batching_policy, routing_policy};
use crate::bindings::sluice::policy::types;

/// Builds a value of the contract from fields of the same names, copied or borrowed as columns.
macro_rules! fields {
    ($($type:ident)::+, copied $from:ident { $($field:ident),* $(,)? }) => {
        $($type)::+ { $($field: $from.$field,)* }
    };
    ($($type:ident)::+, columns $from:ident { $($field:ident),* $(,)? }) => {
        $($type)::+ { $($field: &$from.$field,)* }
    };
}

fn request(view: &RequestView) -> types::Request {
    fields!(types::Request, copied view {
        id, tenant, tenant_weight, session, priority, arrival, deadline, ttft_target, tpot_target, prompt_tokens,
        max_new_tokens, attempt,
    })
}

pub(crate) fn sample(sample: &DeviceSample) -> types::DeviceSample {
    fields!(types::DeviceSample, copied sample {
        number, age, window, nvml_gpu, nvml_memory, memory_used_bytes, memory_total_bytes, power_watts, sm_clock_hz,
        throttle_reasons, sm_activity, dram_activity, engine_busy, roofline_share,
    })
}

fn pool(pool: &PoolView) -> admission_policy::Pool {
    fields!(admission_policy::Pool, copied pool {
        queued_requests, queued_tokens, in_flight_requests, in_flight_tokens, arrival_rate, completion_rate,
        ready_replicas, sequence_saturation, kv_saturation, queue_saturation,
    })
}

fn flows(table: &FlowTable) -> admission_policy::FlowTable<'_> {
    fields!(admission_policy::FlowTable, columns table {
        tenant, weight, queued_requests, queued_tokens, head_wait, head_prompt_tokens, head_max_new_tokens,
        head_priority, in_flight_requests, served_tokens,
    })
}

pub(crate) fn arrival(view: &ArrivalView) -> admission_policy::ArrivalView<'_> {
    admission_policy::ArrivalView {
        now: view.now,
        random: view.random,
        request: request(&view.request),
        pool: pool(&view.pool),
        flows: flows(&view.flows),
    }
}

pub(crate) fn flow_view(view: &FlowView) -> admission_policy::FlowView<'_> {
    admission_policy::FlowView { now: view.now, random: view.random, pool: pool(&view.pool), flows: flows(&view.flows) }
}

fn replicas(table: &ReplicaTable) -> routing_policy::ReplicaTable<'_> {
    fields!(routing_policy::ReplicaTable, columns table {
        id, state, in_flight_requests, in_flight_tokens, running, waiting, waiting_uncached_tokens, kv_used,
        kv_capacity_tokens, tokens_per_second, ttft_average, tpot_average, error_rate, cached_prefix_tokens, age,
    })
}

pub(crate) fn routing(view: &RoutingView) -> routing_policy::RoutingView<'_> {
    routing_policy::RoutingView {
        now: view.now,
        random: view.random,
        request: request(&view.request),
        replicas: replicas(&view.replicas),
    }
}

fn sequences(table: &SequenceTable) -> batching_policy::SequenceTable<'_> {
    fields!(batching_policy::SequenceTable, columns table {
        id, tenant, priority, phase, prompt_tokens, computed_tokens, generated_tokens, max_new_tokens, blocks_held,
        blocks_exclusive, preemptions, arrival, first_token_time, last_token_time, deadline,
    })
}

pub(crate) fn batching(view: &BatchingView) -> batching_policy::BatchingView<'_> {
    let (limits, engine) = (&view.limits, &view.engine);
    batching_policy::BatchingView {
        now: view.now,
        random: view.random,
        limits: fields!(batching_policy::EngineLimits, copied limits {
            max_sequences, max_batched_tokens, block_tokens, blocks_total, kv_bytes_per_token, max_model_len,
        }),
        engine: batching_policy::EngineNow {
            step: engine.step,
            blocks_free: engine.blocks_free,
            blocks_reclaimable: engine.blocks_reclaimable,
            waiting_uncached_tokens: engine.waiting_uncached_tokens,
            max_running: engine.max_running,
            token_budget: engine.token_budget,
            device: engine.device.as_ref().map(sample),
        },
        last_step: view.last_step.as_ref().map(|step| {
            fields!(batching_policy::LastStep, copied step {
                wall, device, host_gap, prefill_tokens, decode_sequences, context_tokens, allocation_failures,
                preempted, recomputed_tokens, finished,
            })
        }),
        sequences: sequences(&view.sequences),
    }
}

/// Declares the columns that a list of numbered events is turned into, with the value of each.
macro_rules! event_columns {
    ($name:ident from $event:ident as $table:ident |$number:ident, $row:ident| {
        $($column:ident: $type:ty = $value:expr,)*
    }) => {
        #[derive(Default)]
        pub(crate) struct $name { $($column: Vec<$type>,)* }

        impl $name {
            pub(crate) fn fill(&mut self, events: &[(u64, $event)]) {
                $(self.$column.clear();)*
                for ($number, $row) in events {
                    $(self.$column.push($value);)*
                }
            }

            fn table(&self) -> types::$table<'_> {
                types::$table { $($column: &self.$column,)* }
            }
        }
    };
}

event_columns!(FinishedColumns from Finished as FinishedTable |number, row| {
    number: u64 = *number,
    id: u64 = row.id.0,
    tenant: u64 = row.tenant.0,
    replica: u32 = row.replica.0,
    reason: u8 = row.reason as u8,
    arrival: u64 = row.arrival,
    scheduled: u64 = row.scheduled.unwrap_or(UNKNOWN),
    first_token: u64 = row.first_token.unwrap_or(UNKNOWN),
    finished: u64 = row.finished,
    prompt_tokens: u32 = row.prompt_tokens,
    cached_tokens: u32 = row.cached_tokens,
    generated_tokens: u32 = row.generated_tokens,
});

event_columns!(PreemptedColumns from Preempted as PreemptedTable |number, row| {
    number: u64 = *number,
    id: u64 = row.id.0,
    recompute_tokens: u32 = row.recompute_tokens,
});

pub(crate) fn events<'a>(
    events: &Events,
    finished: &'a FinishedColumns,
    preempted: &'a PreemptedColumns,
    samples: &'a [types::DeviceSample],
) -> types::Events<'a> {
    types::Events {
        now: events.now,
        lost: events.lost,
        finished: finished.table(),
        preempted: preempted.table(),
        samples,
    }
}
