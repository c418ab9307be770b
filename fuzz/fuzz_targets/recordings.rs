//! A flight recorder's file: refused, or read, told in words and replayed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sluice_core::Slot;
use sluice_engine::recorder::{Entry, Outcome, Recording};
use sluice_engine::replay::{legible, replay, slot_of};
use sluice_fuzz::Idle;

fuzz_target!(|bytes: &[u8]| {
    let Ok(recording) = Recording::from_bytes(bytes) else { return };
    let decisions = recording.entries.iter().filter_map(|entry| match entry {
        Entry::Decided(decision) => Some(decision),
        _ => None,
    });
    for decision in decisions {
        if let Outcome::Decision(bytes) = &decision.outcome {
            let _words = legible(decision.tag, bytes);
        }
    }
    let _report = match slot_of(&recording) {
        Some(Slot::Admission) => {
            replay::<dyn sluice_core::AdmissionPolicy>(&recording, &(Idle::source(Slot::Admission) as _))
        }
        Some(Slot::Routing) => {
            replay::<dyn sluice_core::RoutingPolicy>(&recording, &(Idle::source(Slot::Routing) as _))
        }
        _ => replay::<dyn sluice_core::BatchingPolicy>(&recording, &(Idle::source(Slot::Batching) as _)),
    };
});
