//! The fixed layout of what is recorded: little-endian, floats as raw bits, lists and strings behind a u32 length.

use sluice_core::view::{
    ArrivalView, BatchingView, DeviceSample, EngineLimits, EngineNow, FlowTable, FlowView, LastStep, PoolView,
    ReplicaTable, RequestView, RoutingView, SequenceTable,
};
use sluice_core::{
    BatchingDecision, Choice, Chunk, Digest, Events, FaultKind, FinishReason, Finished, NextFlow, PolicyFault,
    Preempted, Rejection, ReplicaId, RequestId, Route, State, TenantId, Verdict,
};

/// A recording is damaged, or was made by another version.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    #[error("the recording ends in the middle of a value")]
    Truncated,
    #[error("{what} cannot be {value}: the recording is damaged or of another version")]
    Unknown { what: &'static str, value: u64 },
    #[error("text that is not UTF-8: the recording is damaged")]
    Text,
}

pub trait Codec: Sized {
    fn encode(&self, out: &mut Vec<u8>);
    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError>;
}

/// Bytes still to be read.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub fn take(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Codec for $number {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                let bytes = input.take(size_of::<Self>())?;
                Ok(Self::from_le_bytes(bytes.try_into().map_err(|_| DecodeError::Truncated)?))
            }
        }
    )*};
}

numbers!(u8, u32, u64, i32, f64);

impl Codec for bool {
    fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(*self));
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(u8::decode(input)? != 0)
    }
}

impl Codec for usize {
    fn encode(&self, out: &mut Vec<u8>) {
        (*self as u64).encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let value = u64::decode(input)?;
        Self::try_from(value).map_err(|_| DecodeError::Unknown { what: "a size", value })
    }
}

impl<T: Codec> Codec for Vec<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(4 + self.len() * size_of::<T>());
        length(self.len()).encode(out);
        self.iter().for_each(|item| item.encode(out));
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::decode(input)?;
        // A lying length must not allocate more than is really there.
        let room = input.rest.len() / size_of::<T>().max(1);
        let mut items = Self::with_capacity((count as usize).min(room));
        for _ in 0..count {
            items.push(T::decode(input)?);
        }
        Ok(items)
    }
}

impl<T: Codec> Codec for Option<T> {
    fn encode(&self, out: &mut Vec<u8>) {
        self.is_some().encode(out);
        if let Some(value) = self {
            value.encode(out);
        }
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        bool::decode(input)?.then(|| T::decode(input)).transpose()
    }
}

impl<A: Codec, B: Codec> Codec for (A, B) {
    fn encode(&self, out: &mut Vec<u8>) {
        self.0.encode(out);
        self.1.encode(out);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok((A::decode(input)?, B::decode(input)?))
    }
}

impl Codec for String {
    fn encode(&self, out: &mut Vec<u8>) {
        length(self.len()).encode(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let count = u32::decode(input)? as usize;
        let bytes = input.take(count)?;
        Ok(std::str::from_utf8(bytes).map_err(|_| DecodeError::Text)?.to_owned())
    }
}

impl Codec for Digest {
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.0);
    }

    fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self(input.take(32)?.try_into().map_err(|_| DecodeError::Truncated)?))
    }
}

/// A record is its fields, one after the other.
macro_rules! record {
    ($($name:ident { $($field:ident),* $(,)? })*) => {$(
        impl Codec for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                $(self.$field.encode(out);)*
            }

            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self { $($field: Codec::decode(input)?),* })
            }
        }
    )*};
}

macro_rules! newtype {
    ($($name:ident),*) => {$(
        impl Codec for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                self.0.encode(out);
            }

            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                Ok(Self(Codec::decode(input)?))
            }
        }
    )*};
}

newtype!(RequestId, TenantId, ReplicaId);

record! {
    RequestView {
        id, tenant, tenant_weight, session, priority, arrival, deadline, ttft_target, tpot_target, prompt_tokens,
        max_new_tokens, attempt,
    }
    DeviceSample {
        number, age, window, nvml_gpu, nvml_memory, memory_used_bytes, memory_total_bytes, power_watts, sm_clock_hz,
        throttle_reasons, sm_activity, dram_activity, engine_busy, roofline_share,
    }
    PoolView {
        queued_requests, queued_tokens, in_flight_requests, in_flight_tokens, arrival_rate, completion_rate,
        ready_replicas, sequence_saturation, kv_saturation, queue_saturation,
    }
    FlowTable {
        tenant, weight, queued_requests, queued_tokens, head_wait, head_prompt_tokens, head_max_new_tokens,
        head_priority, in_flight_requests, served_tokens,
    }
    ArrivalView { now, random, request, pool, flows }
    FlowView { now, random, pool, flows }
    ReplicaTable {
        id, state, in_flight_requests, in_flight_tokens, running, waiting, waiting_uncached_tokens, kv_used,
        kv_capacity_tokens, tokens_per_second, ttft_average, tpot_average, error_rate, cached_prefix_tokens, age,
    }
    RoutingView { now, random, request, replicas }
    SequenceTable {
        id, tenant, priority, phase, prompt_tokens, computed_tokens, generated_tokens, max_new_tokens, blocks_held,
        blocks_exclusive, preemptions, arrival, first_token_time, last_token_time, deadline,
    }
    EngineLimits { max_sequences, max_batched_tokens, block_tokens, blocks_total, kv_bytes_per_token, max_model_len }
    EngineNow {
        step, blocks_free, blocks_reclaimable, waiting_uncached_tokens, max_running, token_budget, device,
    }
    LastStep {
        wall, device, host_gap, prefill_tokens, decode_sequences, context_tokens, allocation_failures, preempted,
        recomputed_tokens, finished,
    }
    BatchingView { now, random, limits, engine, last_step, sequences }
    Rejection { caller, reason, retry_after }
    Choice { replica, cost }
    Chunk { id, tokens }
    BatchingDecision { max_running, token_budget, order, chunks, victims }
    Finished {
        id, tenant, replica, reason, arrival, scheduled, first_token, finished, prompt_tokens, cached_tokens,
        generated_tokens, preemptions,
    }
    Preempted { id, recompute_tokens }
    Events { now, lost, finished, preempted, samples }
    State { schema, bytes }
    PolicyFault { policy, digest, kind }
}

/// A choice is a tag byte and what belongs to it.
macro_rules! choice {
    ($name:ident, $what:literal, {
        $($tag:literal => $pattern:pat => ($($value:expr),*) , $make:expr;)*
    }) => {
        impl Codec for $name {
            fn encode(&self, out: &mut Vec<u8>) {
                match self {
                    $($pattern => {
                        u8::encode(&$tag, out);
                        $($value.encode(out);)*
                    })*
                }
            }

            fn decode(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
                match u8::decode(input)? {
                    $($tag => $make(input),)*
                    other => Err(DecodeError::Unknown { what: $what, value: other.into() }),
                }
            }
        }
    };
}

type In<'a, 'b> = &'a mut Reader<'b>;

choice!(Verdict, "a verdict", {
    0 => Self::Accept { priority } => (priority), |i: In| Ok(Self::Accept { priority: Codec::decode(i)? });
    1 => Self::Reject(rejection) => (rejection), |i: In| Ok(Self::Reject(Codec::decode(i)?));
    2 => Self::Degrade { max_new_tokens } => (max_new_tokens),
        |i: In| Ok(Self::Degrade { max_new_tokens: Codec::decode(i)? });
});
choice!(NextFlow, "a next flow", {
    0 => Self::Serve { tenant } => (tenant), |i: In| Ok(Self::Serve { tenant: Codec::decode(i)? });
    1 => Self::HoldUntil(time) => (time), |i: In| Ok(Self::HoldUntil(Codec::decode(i)?));
});
choice!(Route, "a route", {
    0 => Self::Ranked(choices) => (choices), |i: In| Ok(Self::Ranked(Codec::decode(i)?));
    1 => Self::HoldUntil(time) => (time), |i: In| Ok(Self::HoldUntil(Codec::decode(i)?));
});
choice!(FinishReason, "a finish reason", {
    1 => Self::Stop => (), |_: In| Ok(Self::Stop);
    2 => Self::Length => (), |_: In| Ok(Self::Length);
    3 => Self::Cancelled => (), |_: In| Ok(Self::Cancelled);
    4 => Self::Failed => (), |_: In| Ok(Self::Failed);
});
choice!(FaultKind, "a fault", {
    0 => Self::Trap(message) => (message), |i: In| Ok(Self::Trap(Codec::decode(i)?));
    1 => Self::Deadline => (), |_: In| Ok(Self::Deadline);
    2 => Self::Fuel => (), |_: In| Ok(Self::Fuel);
    3 => Self::Memory => (), |_: In| Ok(Self::Memory);
    4 => Self::Stack => (), |_: In| Ok(Self::Stack);
    5 => Self::ResultTooLarge => (), |_: In| Ok(Self::ResultTooLarge);
    6 => Self::Configuration(message) => (message), |i: In| Ok(Self::Configuration(Codec::decode(i)?));
    7 => Self::Invalid(message) => (message), |i: In| Ok(Self::Invalid(Codec::decode(i)?));
});

fn length(length: usize) -> u32 {
    u32::try_from(length).expect("views and recordings are bounded far below u32::MAX")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check<T: Codec + PartialEq + std::fmt::Debug>(value: &T) {
        let mut bytes = Vec::new();
        value.encode(&mut bytes);
        let mut reader = Reader::new(&bytes);
        assert_eq!(T::decode(&mut reader).as_ref(), Ok(value));
        assert!(reader.is_empty());
        for cut in 0..bytes.len() {
            assert!(T::decode(&mut Reader::new(&bytes[..cut])).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn everything_comes_back_and_a_cut_is_an_error() {
        check(&BatchingView {
            now: 5,
            last_step: Some(LastStep { wall: 3, ..Default::default() }),
            sequences: SequenceTable { id: vec![1, 2], phase: vec![1, 3], ..Default::default() },
            ..Default::default()
        });
        check(&BatchingDecision { order: vec![1], chunks: vec![Chunk { id: 1, tokens: 3 }], ..Default::default() });
        check(&Route::Ranked(vec![Choice { replica: 1, cost: -0.5 }]));
        check(&Verdict::Reject(Rejection { caller: true, reason: "full".into(), retry_after: 9 }));
        check(&PolicyFault { policy: "p".into(), digest: Digest([7; 32]), kind: FaultKind::Trap("x".into()) });
    }

    proptest! {
        #[test]
        fn damaged_bytes_never_panic_or_allocate_without_bound(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = BatchingView::decode(&mut Reader::new(&bytes));
            let _ = Events::decode(&mut Reader::new(&bytes));
            let _ = PolicyFault::decode(&mut Reader::new(&bytes));
        }
    }
}
