//! Routing and admission guests.

use sluice_core::view::{FlowTable, FlowView, ReplicaTable, RoutingView, replica_state};
use sluice_core::{FaultKind, NextFlow, Route, Verdict};

use super::{admission, arrival_view, routing, routing_view};

#[test]
fn a_routing_guest_is_stopped_by_the_same_limits() {
    let fault = |mode: &str| routing(mode).rank(&routing_view()).unwrap_err().kind;
    assert!(matches!(fault("trap-rank"), FaultKind::Trap(_)));
    assert!(matches!(fault("endless-loop"), FaultKind::Deadline | FaultKind::Fuel));
    assert_eq!(fault("giant-result"), FaultKind::ResultTooLarge);
}

#[test]
fn what_a_routing_guest_makes_up_reaches_the_engines_guard() {
    let two = || {
        let unknown = vec![u64::MAX; 2];
        ReplicaTable {
            id: vec![0, 1],
            state: vec![replica_state::READY; 2],
            in_flight_requests: vec![0; 2],
            in_flight_tokens: vec![0; 2],
            running: vec![0; 2],
            waiting: vec![0; 2],
            waiting_uncached_tokens: vec![0; 2],
            kv_used: vec![0.0; 2],
            kv_capacity_tokens: vec![0; 2],
            tokens_per_second: vec![0.0; 2],
            ttft_average: unknown.clone(),
            tpot_average: unknown.clone(),
            error_rate: vec![0.0; 2],
            cached_prefix_tokens: vec![0; 2],
            age: unknown,
        }
    };
    let rank = |mode: &str| routing(mode).rank(&RoutingView { replicas: two(), ..RoutingView::default() }).unwrap();
    let replicas = |mode: &str| match rank(mode) {
        Route::Ranked(choices) => choices.iter().map(|choice| choice.replica).collect::<Vec<_>>(),
        Route::HoldUntil(_) => panic!("held"),
    };
    assert_eq!(replicas("unknown-ids"), [u32::MAX - 1]);
    assert_eq!(replicas("duplicate-ids"), [0, 1, 0, 1]);
    assert_eq!(replicas("nothing"), [0; 0]);
    assert_eq!(replicas("nan-costs"), [0, 1]);
    assert_eq!(rank("hold-forever"), Route::HoldUntil(u64::MAX));
}

#[test]
fn an_admission_guest_is_stopped_by_the_same_limits() {
    let fault = |mode: &str| admission(mode).admit(&arrival_view()).unwrap_err().kind;
    assert!(matches!(fault("trap-admit"), FaultKind::Trap(_)));
    assert!(matches!(fault("endless-loop"), FaultKind::Deadline | FaultKind::Fuel));
    assert_eq!(fault("giant-reason"), FaultKind::ResultTooLarge);
    let next = admission("trap-next").next(&FlowView::default()).unwrap_err();
    assert!(matches!(next.kind, FaultKind::Trap(_)));
}

#[test]
fn what_an_admission_guest_makes_up_reaches_the_engines_guard() {
    let flows = FlowTable {
        tenant: vec![1, 2],
        weight: vec![1.0; 2],
        queued_requests: vec![1; 2],
        queued_tokens: vec![1; 2],
        head_wait: vec![1; 2],
        head_prompt_tokens: vec![1; 2],
        head_max_new_tokens: vec![1; 2],
        head_priority: vec![0; 2],
        in_flight_requests: vec![0; 2],
        served_tokens: vec![0; 2],
    };
    let view = FlowView { flows, ..FlowView::default() };
    let next = |mode: &str| admission(mode).next(&view).unwrap();
    assert_eq!(next("unknown-tenant"), NextFlow::Serve { tenant: u64::MAX - 1 });
    assert_eq!(next("starve-tenant"), NextFlow::Serve { tenant: 2 });
    assert_eq!(next("hold-forever"), NextFlow::HoldUntil(u64::MAX));
    assert_eq!(admission("degrade-to-nothing").admit(&arrival_view()), Ok(Verdict::Degrade { max_new_tokens: 0 }));
    assert!(matches!(admission("reject-all").admit(&arrival_view()), Ok(Verdict::Reject(_))));
}
