//! What a store holds besides the guest: the limiter, and what the guest may ask of the host.

use std::sync::Arc;

use wasmtime::{ResourceLimiter, StoreContextMut, UpdateDeadline};

use crate::Limits;
use crate::bindings::sluice::policy::{host, types};
use crate::budget::Voice;

pub(crate) struct Host {
    voice: Arc<Voice>,
    limiter: Limiter,
    /// The first deadline of this call has passed.
    late: bool,
}

impl Host {
    pub(crate) fn new(voice: Arc<Voice>, limits: &Limits) -> Self {
        let limiter = Limiter { memory: limits.memory_bytes, table: limits.table_elements };
        Self { voice, limiter, late: false }
    }

    pub(crate) fn limiter(&mut self) -> &mut Limiter {
        &mut self.limiter
    }

    pub(crate) fn begin_call(&mut self) {
        self.late = false;
    }
}

/// A thread that lost its processor for some milliseconds in the middle of a call of microseconds finds its deadline
/// passed through no fault of the guest's. So the first deadline only grants two more ticks, and the second counts.
pub(crate) fn on_deadline(mut store: StoreContextMut<'_, Host>) -> wasmtime::Result<UpdateDeadline> {
    let late = std::mem::replace(&mut store.data_mut().late, true);
    if late { Ok(UpdateDeadline::Interrupt) } else { Ok(UpdateDeadline::Continue(2)) }
}

impl host::Host for Host {
    fn log(&mut self, level: u8, message: String) {
        self.voice.line(level, &message);
    }

    fn metric(&mut self, name: String, value: f64) {
        self.voice.gauge(&name, value);
    }
}

impl types::Host for Host {}

/// Counts down what the guest may still have of each.
pub(crate) struct Limiter {
    memory: usize,
    table: usize,
}

/// Traps instead of telling the guest, so that a fault says memory and not whatever the guest's allocator does next.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("asks for more memory than it may have")]
pub(crate) struct MemoryExceeded;

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.memory = take(self.memory, current, desired)?;
        Ok(true)
    }

    fn table_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        self.table = take(self.table, current, desired)?;
        Ok(true)
    }

    fn instances(&self) -> usize {
        16
    }

    fn tables(&self) -> usize {
        8
    }

    fn memories(&self) -> usize {
        4
    }
}

fn take(left: usize, current: usize, desired: usize) -> Result<usize, MemoryExceeded> {
    left.checked_sub(desired.saturating_sub(current)).ok_or(MemoryExceeded)
}
