//! The flight recorder: what it keeps replays to the same bytes, and to a diff through another policy.

use std::sync::Arc;

use sluice_core::{BatchingPolicy, FaultKind, Instantiate, SECOND};
use sluice_engine::recorder::{Entry, HostVersions, Recording, RecordingError};
use sluice_engine::replay::{ReplayReport, replay};

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
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().to_bytes(&versions);
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
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().to_bytes(&HostVersions::default());
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
    let bytes = world.replicas[0].as_ref().unwrap().guard().recorder().to_bytes(&HostVersions::default());
    for cut in 8..bytes.len() - 1 {
        // A cut between two entries leaves a shorter recording; anywhere else it is an error. Never a panic.
        let _ = Recording::from_bytes(&bytes[..cut]);
    }
    assert!(Recording::from_bytes(&bytes[..bytes.len() - 3]).is_err());
}
