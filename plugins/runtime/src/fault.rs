//! Which of a policy's faults an error of wasmtime's is.

use sluice_core::FaultKind;
use wasmtime::Trap;

use crate::host::MemoryExceeded;

/// What wasmtime says, and no type of its own, when a transfer out of the guest is too large.
const TRANSFER_TOO_LARGE: &str = "fuel allocated for hostcalls has been exhausted";

pub(crate) fn kind_of(error: &wasmtime::Error) -> FaultKind {
    if error.downcast_ref::<MemoryExceeded>().is_some() {
        return FaultKind::Memory;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::OutOfFuel) => FaultKind::Fuel,
        Some(Trap::Interrupt) => FaultKind::Deadline,
        Some(Trap::StackOverflow) => FaultKind::Stack,
        Some(trap) => FaultKind::Trap(trap.to_string()),
        None if format!("{error:#}").contains(TRANSFER_TOO_LARGE) => FaultKind::ResultTooLarge,
        None => FaultKind::Trap(error.root_cause().to_string()),
    }
}
