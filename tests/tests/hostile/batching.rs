//! Batching guests: every export can trap, and every limit is hit once.

use std::time::{Duration, Instant};

use sluice_core::{BatchingDecision, Chunk, Events, FaultKind, State};

use super::{HEARD, batching, batching_view};

/// The fault of a plan in this mode; the instance is dead afterwards and says so.
fn plan_faults(mode: &str) -> FaultKind {
    let mut policy = batching(mode).unwrap();
    let fault = policy.plan(&batching_view()).unwrap_err();
    let dead = policy.plan(&batching_view()).unwrap_err();
    assert!(dead.to_string().contains("this instance is dead"), "{dead}");
    assert!(batching("honest").unwrap().plan(&batching_view()).is_ok());
    fault.kind
}

fn plan(mode: &str) -> BatchingDecision {
    batching(mode).unwrap().plan(&batching_view()).unwrap()
}

fn is_trap(kind: &FaultKind) -> bool {
    matches!(kind, FaultKind::Trap(message) if message.contains("unreachable"))
}

#[test]
fn an_endless_loop_is_stopped_at_its_deadline_or_by_its_fuel() {
    let mut policy = batching("endless-loop").unwrap();
    let started = Instant::now();
    let fault = policy.plan(&batching_view()).unwrap_err();
    let took = started.elapsed();
    assert!(matches!(fault.kind, FaultKind::Deadline | FaultKind::Fuel), "{fault}");
    assert!(took < Duration::from_millis(100), "took {took:?}");
    assert!(policy.last_cost().nanos > 0);
}

#[test]
fn an_endless_configure_runs_out_of_fuel() {
    let fault = batching("endless-configure").err().unwrap();
    assert!(matches!(fault.kind, FaultKind::Fuel | FaultKind::Deadline), "{fault}");
}

#[test]
fn a_memory_hog_is_stopped_at_its_memory() {
    assert_eq!(plan_faults("memory-hog"), FaultKind::Memory);
}

#[test]
fn endless_recursion_is_stopped_at_its_stack() {
    assert_eq!(plan_faults("stack-overflow"), FaultKind::Stack);
}

#[test]
fn a_giant_result_is_not_taken() {
    assert_eq!(plan_faults("giant-result"), FaultKind::ResultTooLarge);
}

#[test]
fn a_trap_in_plan_is_a_fault() {
    assert!(is_trap(&plan_faults("trap-plan")));
}

#[test]
fn a_trap_in_configure_is_a_fault() {
    let fault = batching("trap-configure").err().unwrap();
    assert!(is_trap(&fault.kind), "{fault}");
}

#[test]
fn a_trap_in_observe_is_a_fault() {
    let fault = batching("trap-observe").unwrap().observe(&Events::default()).unwrap_err();
    assert!(is_trap(&fault.kind), "{fault}");
}

#[test]
fn a_trap_in_export_state_is_a_fault() {
    let fault = batching("trap-export-state").unwrap().export_state().unwrap_err();
    assert!(is_trap(&fault.kind), "{fault}");
}

#[test]
fn a_trap_in_import_state_is_a_fault() {
    let state = State { schema: "hostile/1".to_owned(), bytes: vec![1] };
    let fault = batching("trap-import-state").unwrap().import_state(&state).unwrap_err();
    assert!(is_trap(&fault.kind), "{fault}");
}

#[test]
fn a_gibibyte_of_state_is_stopped_at_its_memory() {
    let fault = batching("gigabyte-state").unwrap().export_state().unwrap_err();
    assert_eq!(fault.kind, FaultKind::Memory);
}

#[test]
fn two_mebibytes_of_state_are_not_taken() {
    let fault = batching("large-state").unwrap().export_state().unwrap_err();
    assert_eq!(fault.kind, FaultKind::ResultTooLarge);
}

#[test]
fn two_mebibytes_of_state_are_not_given_either() {
    let state = State { schema: "hostile/1".to_owned(), bytes: vec![1; 2 << 20] };
    assert!(!batching("honest").unwrap().import_state(&state).unwrap());
}

#[test]
fn a_log_flood_is_cut_to_its_budget_and_the_decision_stands() {
    assert_eq!(plan("log-flood").max_running, 8);
    plan("log-flood");
    let lines = HEARD.lines.lock().unwrap();
    assert!(lines.iter().all(|bytes| *bytes == 1024));
    assert!((16..=32).contains(&lines.len()), "{} lines in at most two seconds", lines.len());
}

#[test]
fn a_flood_of_gauges_is_cut_to_its_budget() {
    plan("metric-flood");
    plan("metric-flood");
    let mut names = HEARD.gauges.lock().unwrap().clone();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 64);
}

#[test]
fn nonsense_reaches_the_engines_guard_as_it_was_decided() {
    let nobody = u64::MAX - 1;
    let unknown = plan("unknown-ids");
    assert_eq!((unknown.order, unknown.victims), (vec![nobody], vec![nobody]));
    assert_eq!(unknown.chunks, [Chunk { id: nobody, tokens: 1 }]);
    assert_eq!(plan("duplicate-ids").order, [10, 20, 10, 20]);
    assert_eq!((plan("zero-budgets").max_running, plan("zero-budgets").token_budget), (0, 0));
    assert_eq!((plan("huge-budgets").max_running, plan("huge-budgets").token_budget), (u32::MAX, u32::MAX));
    assert_eq!(plan("starve-tenant").order, [20]);
    assert_eq!(plan("never-schedule").max_running, 0);
    assert_eq!(plan("preempt-all").victims, [10]);
}
