//! What the guard does with faults: strikes, fresh instances, quarantine, and the native rule in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_core::{BatchingDecision, FaultKind, SECOND};
use sluice_engine::order::Order;
use sluice_engine::recorder::{Entry, HostVersions, Recording};

use crate::fake::{Faults, Script, generous};
use crate::world::{Ask, LIMITS, World};

fn busy_world() -> World {
    let mut world = World::new(1, 1, LIMITS);
    for n in 0..4 {
        world.offer(Ask::new(vec![n + 1; 6], 12));
    }
    world
}

fn check(plan: impl Fn(u64) -> Result<BatchingDecision, FaultKind> + Clone + Send + Sync + 'static, label: &str) {
    let mut world = busy_world();
    world.install(0, &Arc::new(Script::new("good", generous)));
    let bad = Arc::new(Script::new("bad", move |_: &_, calls| plan(calls)));
    world.install(0, &bad);
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.journal.count("Fallback"), 3, "{label}: one native decision per strike");
    assert_eq!(world.journal.count("Quarantined"), 1, "{label}");
    let status = world.replicas[0].as_ref().unwrap().guard().status();
    assert_eq!(status.active.map(|revision| revision.name).as_deref(), Some("good"), "{label}: the one before returns");
    assert_eq!(status.quarantined, vec![bad.digest()], "{label}");
}

#[test]
fn three_strikes_bring_the_previous_revision_back() {
    let decision = |change: fn(&mut BatchingDecision)| {
        move |_| {
            let mut decision = BatchingDecision { max_running: 4, token_budget: 16, ..Default::default() };
            change(&mut decision);
            Ok(decision)
        }
    };
    check(|_| Err(FaultKind::Trap("unreachable".into())), "trap");
    check(|_| Err(FaultKind::Deadline), "deadline");
    check(decision(|decision| decision.order = vec![999]), "unknown id");
    check(decision(|decision| decision.victims = vec![1, 1]), "duplicate id");
}

#[test]
fn faults_outside_the_decision_count_as_well() {
    for faults_in in [Faults { observe: true, ..Faults::default() }, Faults { export: true, ..Faults::default() }] {
        let mut world = World::new(1, 1, LIMITS);
        let script = Arc::new(Script::new("bad", generous).faulting(faults_in));
        world.install(0, &script);
        for n in 0..8 {
            world.offer(Ask::new(vec![n + 1; 6], 3));
            world.run(20);
            world.clock.advance(6 * SECOND);
        }
        world.drain();
        world.assert_whole_answers();
        assert_eq!(world.journal.count("Quarantined"), 1, "{faults_in:?}");
        assert!(world.replicas[0].as_ref().unwrap().guard().status().active.is_none(), "the native rule decides");
    }
}

#[test]
fn a_dead_instance_is_replaced_by_a_fresh_one_with_the_last_checkpoint() {
    let mut world = World::new(1, 1, LIMITS);
    let script = Arc::new(Script::new("fragile", |view, calls| {
        if calls == 40 { Err(FaultKind::Trap("once".into())) } else { generous(view, calls) }
    }));
    world.install(0, &script);
    for n in 0..30 {
        world.offer(Ask::new(vec![n + 1; 6], 3));
        world.run(6);
        world.clock.advance(SECOND);
    }
    world.drain();
    world.assert_whole_answers();
    // The checkpoint lies before the trap, so the trap comes again, and again: strikes a minute apart are forgiven.
    assert!(script.instances.load(Ordering::SeqCst) >= 2);
    assert!(world.journal.count("Fallback") >= 1);
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&HostVersions::default());
    let entries = Recording::from_bytes(&bytes).unwrap().entries;
    let restored = |entry: &Entry| matches!(entry, Entry::Started { state: Some(state), .. } if state.bytes.len() == 8);
    assert!(entries.iter().any(restored), "a fresh instance was given the checkpoint");
}

#[test]
fn strikes_far_apart_are_forgiven() {
    let mut world = World::new(1, 1, LIMITS);
    let script = Script::new("rarely-bad", |view, calls| {
        if calls % 50 == 0 { Err(FaultKind::Invalid("now and then".into())) } else { generous(view, calls) }
    });
    world.install(0, &Arc::new(script));
    for n in 0..40 {
        world.offer(Ask::new(vec![n + 1; 6], 10));
        world.run(30);
        world.clock.advance(61 * SECOND);
    }
    world.drain();
    world.assert_whole_answers();
    assert!(world.journal.count("Fallback") >= 4);
    assert_eq!(world.journal.count("Quarantined"), 0);
}

#[test]
fn events_reach_the_policy_once_in_order_before_the_next_decision() {
    let mut world = busy_world();
    let script = Arc::new(Script::new("watching", generous));
    world.install(0, &script);
    world.drain();
    world.offer(Ask::new(vec![9; 6], 3));
    world.drain();
    let observed = script.observed.lock().unwrap();
    let numbers: Vec<u64> =
        observed.iter().flat_map(|events| events.finished.iter().map(|(number, _)| *number)).collect();
    assert_eq!(numbers, (0..4).collect::<Vec<u64>>(), "each of the first four requests once");
    assert!(observed.iter().all(|events| events.lost == 0));
}

#[test]
fn an_evicted_digest_leaves_the_seat_and_is_no_longer_the_previous_one() {
    let mut world = World::new(1, 1, LIMITS);
    let (good, bad) = (Arc::new(Script::new("good", generous)), Arc::new(Script::new("bad", generous)));
    let names = |world: &World| {
        let status = world.replicas[0].as_ref().unwrap().guard().status();
        let name = |revision: Option<sluice_core::RevisionId>| revision.map(|revision| revision.name);
        (name(status.active), name(status.previous))
    };
    let evict = |world: &mut World| {
        world.order(0, Order::Evict { digest: bad.digest(), reply: Box::new(drop) });
        world.step();
    };
    for first in [&good, &bad] {
        world.install(0, first);
    }
    evict(&mut world);
    assert_eq!(names(&world), (Some("good".into()), None));
    evict(&mut world);
    assert_eq!(names(&world), (Some("good".into()), None), "twice is the same as once");

    world.install(0, &bad);
    world.install(0, &good);
    evict(&mut world);
    assert_eq!(names(&world), (Some("good".into()), None), "a rollback cannot bring it back");

    world.set_recorder_bytes(0);
    world.install(0, &bad);
    evict(&mut world);
    assert_eq!(names(&world), (None, None), "with nothing before it, the native rule decides");
}

#[test]
fn a_revision_that_died_when_it_left_returns_alive() {
    let mut world = World::new(1, 1, LIMITS);
    let dying = Arc::new(Script::new("dying", generous).faulting(Faults { export: true, ..Faults::default() }));
    world.install(0, &dying);
    world.install(0, &Arc::new(Script::new("bad", |_: &_, _| Err(FaultKind::Deadline))));
    let before = dying.instances.load(Ordering::SeqCst);
    for n in 0..6 {
        world.offer(Ask::new(vec![n + 1; 6], 3));
    }
    world.drain();
    assert_eq!(world.journal.count("Quarantined"), 1);
    assert_eq!(dying.instances.load(Ordering::SeqCst), before + 1, "a fresh instance took the seat");
}
