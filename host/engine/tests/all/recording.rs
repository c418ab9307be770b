//! The flight recorder: what it keeps replays to the same bytes, and to a diff through another policy.

use std::sync::Arc;

use sluice_core::{BatchingPolicy, FaultKind, Instantiate, SECOND, Slot};
use sluice_engine::order::Order;
use sluice_engine::recorder::{Entry, HostVersions, Recording, RecordingError, Ring};
use sluice_engine::replay::{ReplayError, ReplayReport, legible, replay, slot_of};

use crate::fake::{Script, generous};
use crate::world::{Ask, LIMITS, World};

/// Depends on its own state, on the view and on the random word.
fn moody(view: &sluice_core::view::BatchingView, calls: u64) -> Result<sluice_core::BatchingDecision, FaultKind> {
    if view.engine.step == 17 {
        return Err(FaultKind::Trap("once".into()));
    }
    let mut decision = generous(view, calls)?;
    decision.max_running = 1 + (view.random.wrapping_add(calls) % 5) as u32;
    Ok(decision)
}

fn recorded(script: &Arc<Script>) -> Recording {
    let mut world = World::new(1, 2, LIMITS);
    world.install(0, script);
    for n in 0..30 {
        world.offer(Ask::new(vec![n + 1; 7], 6));
        world.run(7);
        world.clock.advance(SECOND);
    }
    world.drain();
    let versions = HostVersions { host: "0".into(), wasmtime: "48".into(), interface: "0.1.0".into() };
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&versions);
    let recording = Recording::from_bytes(&bytes).unwrap();
    assert_eq!(recording.versions, versions);
    recording
}

fn replay_through(recording: &Recording, script: Script) -> ReplayReport {
    let source: Arc<dyn Instantiate<dyn BatchingPolicy>> = Arc::new(script);
    replay(recording, &source).unwrap()
}

#[test]
fn the_same_policy_decides_the_same_bytes() {
    let recording = recorded(&Arc::new(Script::new("moody", moody)));
    let faults = recording.entries.iter().filter(|entry| matches!(entry, Entry::Decided(d) if matches!(d.outcome, sluice_engine::recorder::Outcome::Fault(_)))).count();
    assert!(faults >= 1, "the trap was recorded");
    assert!(recording.entries.iter().any(|entry| matches!(entry, Entry::Checkpoint { .. })));
    assert!(recording.entries.iter().any(|entry| matches!(entry, Entry::Observed(_))));

    let report = replay_through(&recording, Script::new("moody", moody));
    assert!(report.decisions > 100, "{report:?}");
    assert_eq!(report.differences, []);
    assert_eq!(report.faults, faults as u64);
}

#[test]
fn fuel_that_no_policy_can_take_is_summed_to_the_most_there_is() {
    let mut recording = recorded(&Arc::new(Script::new("moody", moody)));
    for entry in &mut recording.entries {
        if let Entry::Decided(decision) = entry {
            decision.fuel = u64::MAX;
        }
    }
    assert_eq!(replay_through(&recording, Script::new("moody", moody)).fuel.recorded, u64::MAX);
}

#[test]
fn another_policy_gives_a_diff() {
    let recording = recorded(&Arc::new(Script::new("moody", moody)));
    let other = Script::new("other", |view, calls| {
        let mut decision = generous(view, calls)?;
        decision.max_running = 1 + (view.random % 5) as u32;
        Ok(decision)
    });
    let report = replay_through(&recording, other);
    assert!(!report.differences.is_empty() && report.differences.len() < report.decisions as usize);
}

#[test]
fn a_full_ring_drops_the_oldest_and_starts_at_a_checkpoint() {
    let mut world = World::new(1, 1, LIMITS);
    world.set_recorder_bytes(20_000);
    world.install(0, &Arc::new(Script::new("moody", moody)));
    for n in 0..60 {
        world.offer(Ask::new(vec![n + 1; 7], 6));
        world.run(7);
        world.clock.advance(SECOND);
    }
    world.drain();
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&HostVersions::default());
    assert!(bytes.len() < 25_000, "{} bytes", bytes.len());
    let recording = Recording::from_bytes(&bytes).unwrap();
    assert!(recording.dropped > 0);
    assert!(matches!(recording.entries[0], Entry::Started { .. } | Entry::Checkpoint { .. }));
    assert_eq!(replay_through(&recording, Script::new("moody", moody)).differences, []);
}

#[test]
fn a_damaged_recording_is_an_error_that_says_where() {
    let recording = Recording::from_bytes(b"something else");
    assert_eq!(recording, Err(RecordingError::Foreign));
    let mut world = World::new(1, 1, LIMITS);
    world.install(0, &Arc::new(Script::new("moody", moody)));
    world.offer(Ask::new(vec![1; 7], 6));
    world.drain();
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&HostVersions::default());
    for cut in 8..bytes.len() - 1 {
        // A cut between two entries leaves a shorter recording; anywhere else it is an error. Never a panic.
        let _ = Recording::from_bytes(&bytes[..cut]);
    }
    assert!(Recording::from_bytes(&bytes[..bytes.len() - 3]).is_err());
}

#[test]
fn what_does_not_start_at_a_checkpoint_is_not_replayed() {
    let mut recording = recorded(&Arc::new(Script::new("moody", moody)));
    recording.entries.remove(0);
    let source: Arc<dyn Instantiate<dyn BatchingPolicy>> = Arc::new(Script::new("moody", moody));
    assert!(matches!(replay(&recording, &source), Err(ReplayError::NoStart)));
}

/// A seat that changed hands: `first` trapped once and came back, then `second` took over, then `first` again.
fn changing_hands() -> Recording {
    let mut world = World::new(1, 2, LIMITS);
    let (first, second) = (Arc::new(Script::new("moody", moody)), Arc::new(Script::new("generous", generous)));
    for script in [&first, &second, &first] {
        world.install(0, script);
        for n in 0..12 {
            world.offer(Ask::new(vec![n + 1; 7], 6));
            world.run(7);
            world.clock.advance(SECOND);
        }
    }
    world.drain();
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&HostVersions::default());
    Recording::from_bytes(&bytes).unwrap()
}

#[test]
fn each_revision_of_a_seat_that_changed_hands_replays_to_its_own_bytes() {
    let recording = changing_hands();
    assert_eq!(slot_of(&recording), Some(Slot::Batching));
    let (first, second) = (
        replay_through(&recording, Script::new("moody", moody)),
        replay_through(&recording, Script::new("generous", generous)),
    );
    for report in [&first, &second] {
        assert!(report.own && report.decisions > 30, "{report:?}");
        assert_eq!(report.differences, []);
        assert_eq!((report.fuel.recorded, report.fuel.differences), (report.fuel.replayed, 0));
    }
    assert_eq!(first.passed_over, second.decisions + second.faults);
    assert_eq!(second.passed_over, first.decisions + first.faults);
}

#[test]
fn another_revision_is_asked_for_all_of_a_seat_that_changed_hands() {
    let recording = changing_hands();
    let report = replay_through(&recording, Script::new("like moody, by another name", moody));
    assert!(!report.own);
    assert_eq!(report.passed_over, 0);
    let all = recording.entries.iter().filter(|entry| matches!(entry, Entry::Decided(_))).count() as u64;
    assert_eq!(report.decisions + report.faults, all);
    let first = &report.differences[0];
    assert!(legible(first.tag, &first.recorded).starts_with("BatchingDecision { max_running: "), "{first:?}");
}

#[test]
fn a_candidate_that_traps_is_a_difference_and_goes_on_afresh() {
    let recording = recorded(&Arc::new(Script::new("moody", moody)));
    let trapping = Script::new("trapping", |view, calls| match calls {
        3 => Err(FaultKind::Trap("third".into())),
        _ => moody(view, calls),
    });
    let report = replay_through(&recording, trapping);
    let traps = report.differences.iter().filter(|difference| difference.replayed.is_err()).count() as u64;
    assert_eq!(traps, report.decisions / 3, "every third call of a fresh instance");
}

#[test]
fn the_ring_is_handed_out_by_order_and_holds_a_start_however_little_fits() {
    let mut world = World::new(1, 1, LIMITS);
    world.set_recorder_bytes(8_000);
    world.install(0, &Arc::new(Script::new("moody", moody)));
    for n in 0..60 {
        world.offer(Ask::new(vec![n + 1; 7], 6));
        world.run(7);
        let (rings, kept) = std::sync::mpsc::channel();
        let order = Order::Record(Box::new(move |ring| rings.send(ring).unwrap()));
        let clock = world.clock.clone();
        let replica = world.replicas[0].as_mut().unwrap();
        assert!(replica.guard_mut().carry_out::<()>(order, &*clock).is_none());
        let ring: Ring = kept.recv().unwrap();
        assert!(!ring.is_empty());
        let recording = Recording::from_bytes(&ring.to_bytes(&HostVersions::default())).unwrap();
        let report = replay_through(&recording, Script::new("moody", moody));
        assert!(report.decisions > 0 && report.differences.is_empty(), "{report:?}");
    }
}
