//! Every shipped component decides exactly as its policy does natively, on any view, and hands its state on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod views;

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use sluice_core::view::{ArrivalView, BatchingView, FlowView};
use sluice_core::{
    AdmissionPolicy, BatchingPolicy, DeploymentClass, Events, FaultKind, Instantiate, LoadedPolicy, PolicyLoader,
    Revision, RoutingPolicy, Slot,
};
use sluice_native::NativeRevision;
use sluice_runtime::{Runtime, Silent};
use sluice_sdk::{admission::Admission, batching::Batching, routing::Routing};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new(Arc::new(Silent)).unwrap());

fn loaded(name: &str) -> Arc<dyn LoadedPolicy> {
    let shipped = sluice_bundle::shipped(name).unwrap();
    RUNTIME.load(shipped.component, DeploymentClass::Standard).unwrap()
}

fn batching(name: &str, config: &str) -> Box<dyn BatchingPolicy> {
    match loaded(name).revision(config) {
        Revision::Batching(source) => source.instantiate().unwrap(),
        _ => panic!("{name} is no batching policy"),
    }
}

fn routing(name: &str, config: &str) -> Box<dyn RoutingPolicy> {
    match loaded(name).revision(config) {
        Revision::Routing(source) => source.instantiate().unwrap(),
        _ => panic!("{name} is no routing policy"),
    }
}

fn admission(name: &str, config: &str) -> Box<dyn AdmissionPolicy> {
    match loaded(name).revision(config) {
        Revision::Admission(source) => source.instantiate().unwrap(),
        _ => panic!("{name} is no admission policy"),
    }
}

/// What reaches an admission policy, in any order.
#[derive(Clone, Debug)]
enum Asked {
    Admit(ArrivalView),
    Next(FlowView),
    Observe(Events),
}

fn asked() -> impl Strategy<Value = Vec<Asked>> {
    let one = prop_oneof![
        views::arrival().prop_map(Asked::Admit),
        views::flows().prop_map(Asked::Next),
        views::events().prop_map(Asked::Observe),
    ];
    prop::collection::vec(one, 1..12)
}

fn admission_agrees<P: Admission + Send>(name: &str, config: &str, asked: &[Asked]) {
    let native = NativeRevision::<P>::new(Slot::Admission, config);
    let mut native = Instantiate::<dyn AdmissionPolicy>::instantiate(&native).unwrap();
    let mut component = admission(name, config);
    for question in asked {
        match question {
            Asked::Admit(view) => assert_eq!(component.admit(view).unwrap(), native.admit(view).unwrap()),
            Asked::Next(view) => assert_eq!(component.next(view).unwrap(), native.next(view).unwrap()),
            Asked::Observe(events) => {
                component.observe(events).unwrap();
                native.observe(events).unwrap();
            }
        }
        assert_eq!(component.export_state().unwrap(), native.export_state().unwrap());
    }
}

fn routing_agrees<P: Routing + Send>(name: &str, config: &str, view: &sluice_core::view::RoutingView) {
    let native = NativeRevision::<P>::new(Slot::Routing, config);
    let mut native = Instantiate::<dyn RoutingPolicy>::instantiate(&native).unwrap();
    assert_eq!(routing(name, config).rank(view).unwrap(), native.rank(view).unwrap());
}

fn batching_agrees<P: Batching + Send>(name: &str, config: &str, seen: &[(BatchingView, Events)]) {
    let native = NativeRevision::<P>::new(Slot::Batching, config);
    let mut native = Instantiate::<dyn BatchingPolicy>::instantiate(&native).unwrap();
    let mut component = batching(name, config);
    for (view, events) in seen {
        component.observe(events).unwrap();
        native.observe(events).unwrap();
        assert_eq!(component.plan(view).unwrap(), native.plan(view).unwrap());
        assert_eq!(component.export_state().unwrap(), native.export_state().unwrap());
    }
}

/// What reaches a batching policy.
fn seen() -> impl Strategy<Value = Vec<(BatchingView, Events)>> {
    prop::collection::vec((views::batching(), views::events()), 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn fair_share_decides_as_it_does_natively(asked in asked()) {
        admission_agrees::<fair_share::FairShare>("fair-share", r#"{"max_tenants": 3, "max_requests": 100}"#, &asked);
    }

    #[test]
    fn bounded_queue_decides_as_it_does_natively(asked in asked()) {
        admission_agrees::<bounded_queue::BoundedQueue>("bounded-queue", r#"{"max_requests": 100}"#, &asked);
    }

    #[test]
    fn least_loaded_decides_as_it_does_natively(view in views::routing()) {
        routing_agrees::<least_loaded::LeastLoaded>("least-loaded", "{}", &view);
    }

    #[test]
    fn two_choices_decides_as_it_does_natively(view in views::routing()) {
        routing_agrees::<two_choices::TwoChoices>("two-choices", "{}", &view);
    }

    #[test]
    fn prefix_affinity_decides_as_it_does_natively(view in views::routing()) {
        routing_agrees::<prefix_affinity::PrefixAffinity>("prefix-affinity", "{}", &view);
    }

    #[test]
    fn session_affinity_decides_as_it_does_natively(
        view in views::routing(),
        without in prop::sample::select(vec!["tenant", "least-loaded"]),
    ) {
        let config = format!(r#"{{"without_session": "{without}"}}"#);
        routing_agrees::<session_affinity::SessionAffinity>("session-affinity", &config, &view);
    }

    #[test]
    fn token_bucket_decides_as_it_does_natively(
        asked in asked(),
        order in prop::sample::select(vec!["fair", "first-come"]),
    ) {
        let config = format!(r#"{{"max_tenants": 3, "tokens_per_s": 100, "order": "{order}"}}"#);
        admission_agrees::<token_bucket::TokenBucket>("token-bucket", &config, &asked);
    }

    #[test]
    fn priority_decides_as_it_does_natively(asked in asked()) {
        admission_agrees::<priority::Priority>("priority", r#"{"max_requests": 100}"#, &asked);
    }

    #[test]
    fn first_come_decides_as_it_does_natively(seen in seen()) {
        batching_agrees::<first_come::FirstCome>("first-come", r#"{"max_running": 9}"#, &seen);
    }

    #[test]
    fn step_time_decides_as_it_does_natively(seen in seen()) {
        batching_agrees::<step_time::StepTime>("step-time", r#"{"tpot_target_ms": 20}"#, &seen);
    }

    #[test]
    fn utilization_band_decides_as_it_does_natively(
        seen in seen(),
        signal in prop::sample::select(vec!["nvml", "engine-busy", "roofline-share"]),
        base in prop::sample::select(vec!["limit", "pool"]),
    ) {
        let config = format!(r#"{{"signal": "{signal}", "base": "{base}", "low": 0.4, "high": 0.6}}"#);
        batching_agrees::<utilization_band::UtilizationBand>("utilization-band", &config, &seen);
    }
}

#[test]
fn every_component_describes_itself_as_it_is_shipped() {
    for shipped in sluice_bundle::SHIPPED {
        let loaded = loaded(shipped.name);
        assert_eq!(loaded.descriptor().name, shipped.name);
        assert_eq!(loaded.slot().as_str(), shipped.slot);
        assert!(loaded.descriptor().configuration_schema.contains("additionalProperties"));
    }
}

#[test]
fn a_component_is_compiled_once() {
    assert!(Arc::ptr_eq(&loaded("first-come"), &loaded("first-come")));
}

#[test]
fn fair_share_hands_its_counters_to_its_successor() {
    let mut old = admission("fair-share", "{}");
    let mut events = Events::default();
    for (tenant, tokens) in [(2, 10), (1, 1000)] {
        events.finished.push((tenant, views::finished(tenant, tokens)));
    }
    old.observe(&events).unwrap();
    let state = old.export_state().unwrap();

    let mut new = admission("fair-share", "{}");
    assert!(new.import_state(&state).unwrap());
    assert_eq!(new.export_state().unwrap(), state);
    let other = sluice_core::State { schema: "another/1".to_owned(), ..state };
    assert!(!admission("fair-share", "{}").import_state(&other).unwrap());
}

#[test]
fn a_wrong_key_is_a_fault_that_names_the_nearest() {
    let Revision::Batching(source) = loaded("first-come").revision(r#"{"max_runing": 1}"#) else { panic!("slot") };
    let fault = source.instantiate().err().unwrap();
    let FaultKind::Configuration(message) = &fault.kind else { panic!("{fault}") };
    assert!(message.contains("the nearest is `max_running`"), "{message}");
    assert_eq!(fault.policy, "first-come");
}

#[test]
fn a_call_costs_the_same_fuel_every_time() {
    let (mut one, mut other) = (batching("first-come", "{}"), batching("first-come", "{}"));
    let view = BatchingView::default();
    one.plan(&view).unwrap();
    other.plan(&view).unwrap();
    assert!(one.last_cost().fuel > 0 && one.last_cost().nanos > 0);
    assert_eq!(one.last_cost().fuel, other.last_cost().fuel);
}
