//! Swapping a policy under load: nothing is lost, state is handed over, and rollback brings the old one back.

use std::sync::{Arc, Mutex};

use sluice_core::{BatchingPolicy, Handover, Installed, Instantiate, SECOND};
use sluice_engine::order::{NoPrevious, Order, Prepared};

use crate::fake::{Faults, Script, generous};
use crate::world::{Ask, LIMITS, World};

fn prepared(script: &Arc<Script>) -> Prepared<dyn BatchingPolicy> {
    let source: Arc<dyn Instantiate<dyn BatchingPolicy>> = script.clone();
    Prepared { instance: source.instantiate().unwrap(), source }
}

fn install(world: &mut World, script: &Arc<Script>) -> Installed {
    world.replicas[0].as_mut().unwrap().guard_mut().install(prepared(script), &*world.clock.clone())
}

fn rollback(world: &mut World) -> Result<Installed, NoPrevious> {
    world.replicas[0].as_mut().unwrap().guard_mut().roll_back(&*world.clock.clone())
}

#[test]
fn a_thousand_swaps_change_no_answer() {
    let mut world = World::new(1, 2, LIMITS);
    let scripts = [
        Arc::new(Script::new("a", generous)),
        Arc::new(Script::new("b", |view, calls| {
            let mut decision = generous(view, calls)?;
            decision.max_running = 2;
            decision.token_budget = 5;
            Ok(decision)
        })),
    ];
    for n in 0..1000 {
        if n % 20 == 0 {
            world.offer(Ask::new(vec![n as u32 + 1; 9], 20));
        }
        install(&mut world, &scripts[n % 2]);
        world.step();
    }
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.journal.count("Installed {"), 1000);
}

#[test]
fn state_is_handed_over_and_a_refusal_is_a_cold_start() {
    let mut world = World::new(1, 1, LIMITS);
    let first = install(&mut world, &Arc::new(Script::new("first", generous)));
    assert_eq!(first.handover, Handover::Stateless);
    let second = install(&mut world, &Arc::new(Script::new("second", generous)));
    assert_eq!(second.handover, Handover::Imported { bytes: 8 });

    let refusing = Script::new("r", generous).faulting(Faults { refuse_import: true, ..Faults::default() });
    assert!(
        matches!(install(&mut world, &Arc::new(refusing)).handover, Handover::Cold { reason } if reason.contains("refused"))
    );
    let trapping = Script::new("t", generous).faulting(Faults { import: true, ..Faults::default() });
    assert!(
        matches!(install(&mut world, &Arc::new(trapping)).handover, Handover::Cold { reason } if reason.contains("import"))
    );
}

#[test]
fn rollback_returns_the_previous_revision_with_the_newer_state() {
    let mut world = World::new(1, 1, LIMITS);
    assert_eq!(rollback(&mut world), Err(NoPrevious));
    install(&mut world, &Arc::new(Script::new("old", generous)));
    assert_eq!(rollback(&mut world), Err(NoPrevious));
    install(&mut world, &Arc::new(Script::new("new", generous)));
    let back = rollback(&mut world).unwrap();
    assert_eq!((back.revision.name.as_str(), back.handover), ("old", Handover::Imported { bytes: 8 }));
    let forth = rollback(&mut world).unwrap();
    assert_eq!(forth.revision.name, "new", "rolling back twice is where one was");
}

#[test]
fn orders_through_the_inbox_are_carried_out_at_a_boundary_even_on_an_idle_replica() {
    let mut world = World::new(1, 1, LIMITS);
    let answers = Arc::new(Mutex::new(Vec::new()));
    let kept = answers.clone();
    let script = Arc::new(Script::new("ordered", generous));
    let order = Order::Install {
        prepared: prepared(&script),
        reply: Box::new(move |installed| kept.lock().unwrap().push(installed.revision.name)),
    };
    world.order(0, order);
    let kept = answers.clone();
    world.order(
        0,
        Order::Snapshot(Box::new(move |view| kept.lock().unwrap().push(format!("{} rows", view.sequences.len())))),
    );
    world.step();
    assert_eq!(*answers.lock().unwrap(), ["ordered", "0 rows"]);
    world.clock.advance(SECOND);
}
