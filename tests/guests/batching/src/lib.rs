//! A batching policy that does whatever its mode says is wrong.

use std::hint::black_box;

use sluice_sdk::batching::{Batching, Chunk, Phase, Schedule, View};
use sluice_sdk::host::{Level, log, metric};
use sluice_sdk::{Events, Policy, choice, config, export_batching};

choice! {
    /// What is wrong with it.
    pub enum Mode {
        /// Nothing: what the others are compared with.
        Honest = "honest",
        TrapConfigure = "trap-configure",
        TrapObserve = "trap-observe",
        TrapPlan = "trap-plan",
        TrapExportState = "trap-export-state",
        TrapImportState = "trap-import-state",
        /// Runs until it is stopped, in as little fuel as it can.
        EndlessLoop = "endless-loop",
        EndlessConfigure = "endless-configure",
        MemoryHog = "memory-hog",
        StackOverflow = "stack-overflow",
        /// Names more sequences than a result may hold.
        GiantResult = "giant-result",
        UnknownIds = "unknown-ids",
        DuplicateIds = "duplicate-ids",
        ZeroBudgets = "zero-budgets",
        HugeBudgets = "huge-budgets",
        /// Runs one sequence at a time, and tenant 1's last.
        StarveTenant = "starve-tenant",
        /// Lets nothing run.
        NeverSchedule = "never-schedule",
        /// Preempts whatever runs, every time.
        PreemptAll = "preempt-all",
        GigabyteState = "gigabyte-state",
        LargeState = "large-state",
        LogFlood = "log-flood",
        MetricFlood = "metric-flood",
    }
}

config! {
    pub struct Config {
        /// What is wrong with it.
        pub mode: Mode = Mode::Honest;
    }
}

pub struct HostileBatching(Mode);

export_batching!(HostileBatching);

impl Policy for HostileBatching {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "hostile/1";

    fn new(config: Config) -> Result<Self, String> {
        match config.mode {
            Mode::TrapConfigure => panic!("trap in configure"),
            Mode::EndlessConfigure => run_for_ever(),
            mode => Ok(Self(mode)),
        }
    }

    fn observe(&mut self, _events: &Events) {
        assert!(self.0 != Mode::TrapObserve, "trap in observe");
    }

    fn export_state(&self) -> Vec<u8> {
        match self.0 {
            Mode::TrapExportState => panic!("trap in export-state"),
            Mode::GigabyteState => vec![1; 1 << 30],
            Mode::LargeState => vec![1; 2 << 20],
            _ => vec![1, 2, 3],
        }
    }

    fn import_state(&mut self, _bytes: &[u8]) -> bool {
        assert!(self.0 != Mode::TrapImportState, "trap in import-state");
        true
    }
}

impl Batching for HostileBatching {
    fn plan(&mut self, view: &View) -> Schedule {
        let honest = Schedule::limits(view.limits.max_sequences, view.limits.max_batched_tokens);
        let ids = || view.sequences().map(|sequence| sequence.id);
        match self.0 {
            Mode::TrapPlan => panic!("trap in plan"),
            Mode::EndlessLoop => run_for_ever(),
            Mode::MemoryHog => hog(),
            Mode::StackOverflow => Schedule::limits(recurse(1), 0),
            Mode::GiantResult => Schedule { order: vec![7; 1 << 14], ..honest },
            Mode::UnknownIds => unknown_ids(honest),
            Mode::DuplicateIds => Schedule { order: ids().chain(ids()).collect(), ..honest },
            Mode::ZeroBudgets => Schedule::limits(0, 0),
            Mode::HugeBudgets => Schedule::limits(u32::MAX, u32::MAX),
            Mode::StarveTenant => starve(view),
            Mode::NeverSchedule => Schedule { max_running: 0, ..honest },
            Mode::PreemptAll => Schedule { victims: running(view), ..honest },
            Mode::LogFlood => flood(honest),
            Mode::MetricFlood => metrics(honest),
            _ => honest,
        }
    }
}

/// Copies memory, for that does much at little fuel.
fn run_for_ever() -> ! {
    let mut buffer = [0_u8; 4096];
    loop {
        buffer.rotate_left(black_box(1));
        black_box(&mut buffer);
    }
}

/// Asks without touching, so that memory runs out before time does.
fn hog() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(Vec::<u8>::with_capacity(1 << 20));
        black_box(&mut hoard);
    }
}

fn recurse(depth: u32) -> u32 {
    if black_box(depth) == 0 { 0 } else { recurse(black_box(depth.wrapping_add(2) | 1)).wrapping_add(black_box(depth)) }
}

fn unknown_ids(honest: Schedule) -> Schedule {
    let nobody = u64::MAX - 1;
    Schedule { order: vec![nobody], chunks: vec![Chunk { id: nobody, tokens: 1 }], victims: vec![nobody], ..honest }
}

fn starve(view: &View) -> Schedule {
    let mut order: Vec<_> = view.sequences().map(|sequence| (sequence.tenant == 1, sequence.id)).collect();
    order.sort_unstable();
    let order = order.into_iter().filter(|(starved, _)| !starved).map(|(_, id)| id).collect();
    Schedule { order, ..Schedule::limits(1, view.limits.max_batched_tokens) }
}

fn running(view: &View) -> Vec<u64> {
    let runs = |phase| matches!(phase, Phase::Prefill | Phase::Decode);
    view.sequences().filter(|sequence| runs(sequence.phase)).map(|sequence| sequence.id).collect()
}

fn flood(honest: Schedule) -> Schedule {
    let line = "x".repeat(2000);
    (0..100).for_each(|_| log(Level::Error, &line));
    honest
}

fn metrics(honest: Schedule) -> Schedule {
    (0..500).for_each(|number| metric(&format!("gauge_{number}"), f64::NAN));
    metric("not a name", 1.0);
    honest
}
