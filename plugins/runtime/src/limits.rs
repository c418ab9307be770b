//! What a component may use, per call and in all.

use std::time::Duration;

use sluice_core::DeploymentClass;

/// The calls that are bounded each in its own way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Export {
    Describe,
    /// Also bounds what runs when an instance is made.
    Configure,
    Observe,
    Admission,
    Routing,
    Batching,
    ExportState,
    ImportState,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bound {
    /// Of wall clock; a call is stopped within about a millisecond after it.
    pub deadline: Duration,
    /// Of everything that the call passes out.
    pub result_bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Of all linear memories together.
    pub memory_bytes: usize,
    /// Of all tables together.
    pub table_elements: usize,
    /// wasmtime's unit: about one per instruction.
    pub fuel_per_call: u64,
    pub component_bytes: usize,
    pub state_bytes: usize,
    pub log_line_bytes: usize,
    pub log_bytes_per_second: usize,
    pub metric_names: usize,
    pub describe: Bound,
    pub configure: Bound,
    pub admission: Bound,
    pub routing: Bound,
    pub batching: Bound,
    pub state: Bound,
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

impl Limits {
    pub fn of(class: DeploymentClass) -> Self {
        let (memory_bytes, deadline) = match class {
            DeploymentClass::Standard => (16 * MIB, Duration::from_millis(2)),
            DeploymentClass::Script => (64 * MIB, Duration::from_millis(20)),
        };
        let decision = |result_bytes| Bound { deadline, result_bytes };
        Self {
            memory_bytes,
            table_elements: 10_000,
            fuel_per_call: 50_000_000,
            component_bytes: 32 * MIB,
            state_bytes: MIB,
            log_line_bytes: KIB,
            log_bytes_per_second: 16 * KIB,
            metric_names: 64,
            describe: Bound { deadline: Duration::from_secs(1), result_bytes: 64 * KIB },
            configure: Bound { deadline: Duration::from_secs(1), result_bytes: 4 * KIB },
            admission: decision(4 * KIB),
            routing: decision(64 * KIB),
            batching: decision(64 * KIB),
            // The schema's name travels with the bytes.
            state: Bound { deadline: Duration::from_millis(20), result_bytes: MIB + 4 * KIB },
        }
    }

    /// For decisions that are made again: nobody waits for one, and a clock must not decide what comes of it. Fuel ends
    /// what does not end by itself.
    pub fn without_haste(class: DeploymentClass) -> Self {
        let mut limits = Self::of(class);
        for bound in [&mut limits.admission, &mut limits.routing, &mut limits.batching, &mut limits.state] {
            bound.deadline = Duration::from_secs(10);
        }
        limits
    }

    pub fn bound(&self, export: Export) -> Bound {
        match export {
            Export::Describe => self.describe,
            Export::Configure => self.configure,
            Export::Observe | Export::Admission => self.admission,
            Export::Routing => self.routing,
            Export::Batching => self.batching,
            Export::ExportState | Export::ImportState => self.state,
        }
    }
}
