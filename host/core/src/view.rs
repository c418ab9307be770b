//! What a policy sees: small things as records, tables as parallel columns. Mirrors `wit/`; the units and
//! meanings stand there.
//!
//! In a column, the type's maximum means unknown.

use crate::{Nanos, Request};

/// An unknown value in a column of times.
pub const UNKNOWN: u64 = u64::MAX;

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestView {
    pub id: u64,
    pub tenant: u64,
    pub tenant_weight: f64,
    pub session: Option<u64>,
    pub priority: i32,
    pub arrival: Nanos,
    pub deadline: Option<Nanos>,
    pub ttft_target: Option<Nanos>,
    pub tpot_target: Option<Nanos>,
    pub prompt_tokens: u32,
    pub max_new_tokens: u32,
    pub attempt: u32,
}

impl From<&Request> for RequestView {
    fn from(request: &Request) -> Self {
        Self {
            id: request.id.0,
            tenant: request.tenant.0,
            tenant_weight: request.tenant_weight,
            session: request.session,
            priority: request.priority,
            arrival: request.arrival,
            deadline: request.deadline,
            ttft_target: request.ttft_target,
            tpot_target: request.tpot_target,
            prompt_tokens: request.prompt_tokens(),
            max_new_tokens: request.max_new_tokens,
            attempt: request.attempt,
        }
    }
}

/// No number of a sample is older than its age says.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct DeviceSample {
    pub number: u64,
    pub age: Nanos,
    pub window: Nanos,
    pub nvml_gpu: Option<f64>,
    pub nvml_memory: Option<f64>,
    pub memory_used_bytes: Option<u64>,
    pub memory_total_bytes: Option<u64>,
    pub power_watts: Option<f64>,
    pub sm_clock_hz: Option<u64>,
    pub throttle_reasons: Option<u64>,
    pub sm_activity: Option<f64>,
    pub dram_activity: Option<f64>,
    pub engine_busy: f64,
    pub roofline_share: Option<f64>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct PoolView {
    pub queued_requests: u32,
    pub queued_tokens: u64,
    pub in_flight_requests: u32,
    pub in_flight_tokens: u64,
    pub arrival_rate: f64,
    pub completion_rate: f64,
    pub ready_replicas: u32,
    pub sequence_saturation: f64,
    pub kv_saturation: f64,
    pub queue_saturation: f64,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct FlowTable {
    pub tenant: Vec<u64>,
    pub weight: Vec<f64>,
    pub queued_requests: Vec<u32>,
    pub queued_tokens: Vec<u64>,
    pub head_wait: Vec<u64>,
    pub head_prompt_tokens: Vec<u32>,
    pub head_max_new_tokens: Vec<u32>,
    pub head_priority: Vec<i32>,
    pub in_flight_requests: Vec<u32>,
    pub served_tokens: Vec<u64>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ArrivalView {
    pub now: Nanos,
    pub random: u64,
    /// Of several answers that one client asks for at once the first, with the tokens of all: they come in together.
    pub request: RequestView,
    pub pool: PoolView,
    pub flows: FlowTable,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct FlowView {
    pub now: Nanos,
    pub random: u64,
    pub pool: PoolView,
    pub flows: FlowTable,
}

/// Values of `ReplicaTable::state`.
pub mod replica_state {
    pub const READY: u8 = 1;
    pub const DRAINING: u8 = 2;
    pub const LOST: u8 = 3;
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ReplicaTable {
    pub id: Vec<u32>,
    pub state: Vec<u8>,
    pub in_flight_requests: Vec<u32>,
    pub in_flight_tokens: Vec<u64>,
    pub running: Vec<u32>,
    pub waiting: Vec<u32>,
    pub waiting_uncached_tokens: Vec<u64>,
    pub kv_used: Vec<f64>,
    pub kv_capacity_tokens: Vec<u64>,
    pub tokens_per_second: Vec<f64>,
    pub ttft_average: Vec<u64>,
    pub tpot_average: Vec<u64>,
    pub error_rate: Vec<f64>,
    pub cached_prefix_tokens: Vec<u32>,
    pub age: Vec<u64>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct RoutingView {
    pub now: Nanos,
    pub random: u64,
    pub request: RequestView,
    pub replicas: ReplicaTable,
}

/// Values of `SequenceTable::phase`.
pub mod phase {
    pub const WAITING: u8 = 1;
    pub const PREFILL: u8 = 2;
    pub const DECODE: u8 = 3;
    pub const PREEMPTED: u8 = 4;
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct SequenceTable {
    pub id: Vec<u64>,
    pub tenant: Vec<u64>,
    pub priority: Vec<i32>,
    pub phase: Vec<u8>,
    pub prompt_tokens: Vec<u32>,
    pub computed_tokens: Vec<u32>,
    pub generated_tokens: Vec<u32>,
    pub max_new_tokens: Vec<u32>,
    pub blocks_held: Vec<u32>,
    pub blocks_exclusive: Vec<u32>,
    pub preemptions: Vec<u32>,
    pub arrival: Vec<u64>,
    pub first_token_time: Vec<u64>,
    pub last_token_time: Vec<u64>,
    pub deadline: Vec<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EngineLimits {
    pub max_sequences: u32,
    pub max_batched_tokens: u32,
    pub block_tokens: u32,
    pub blocks_total: u32,
    pub kv_bytes_per_token: u64,
    pub max_model_len: u32,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct EngineNow {
    pub step: u64,
    pub blocks_free: u32,
    pub blocks_reclaimable: u32,
    pub waiting_uncached_tokens: u64,
    pub max_running: u32,
    pub token_budget: u32,
    pub device: Option<DeviceSample>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LastStep {
    pub wall: Nanos,
    pub device: Nanos,
    pub host_gap: Nanos,
    pub prefill_tokens: u32,
    pub decode_sequences: u32,
    pub context_tokens: u64,
    pub allocation_failures: u32,
    pub preempted: u32,
    pub recomputed_tokens: u32,
    pub finished: u32,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct BatchingView {
    pub now: Nanos,
    pub random: u64,
    pub limits: EngineLimits,
    pub engine: EngineNow,
    pub last_step: Option<LastStep>,
    pub sequences: SequenceTable,
}

/// Applies one operation to every column of a table, so that no column can be forgotten.
macro_rules! columns {
    ($table:ident { $($column:ident),* $(,)? }, first $first:ident) => {
        impl $table {
            pub fn len(&self) -> usize {
                self.$first.len()
            }

            pub fn is_empty(&self) -> bool {
                self.$first.is_empty()
            }

            /// Empties the table and keeps its memory.
            pub fn clear(&mut self) {
                $(self.$column.clear();)*
            }
        }
    };
}

columns!(FlowTable {
    tenant, weight, queued_requests, queued_tokens, head_wait, head_prompt_tokens, head_max_new_tokens,
    head_priority, in_flight_requests, served_tokens,
}, first tenant);
columns!(ReplicaTable {
    id, state, in_flight_requests, in_flight_tokens, running, waiting, waiting_uncached_tokens, kv_used,
    kv_capacity_tokens, tokens_per_second, ttft_average, tpot_average, error_rate, cached_prefix_tokens, age,
}, first id);
columns!(SequenceTable {
    id, tenant, priority, phase, prompt_tokens, computed_tokens, generated_tokens, max_new_tokens, blocks_held,
    blocks_exclusive, preemptions, arrival, first_token_time, last_token_time, deadline,
}, first id);
