//! Same seed, same arrivals, same step times: the same bytes, KV block trajectory included.

use std::sync::Arc;

use sluice_engine::recorder::HostVersions;

use crate::fake::{Script, generous};
use crate::world::{Ask, LIMITS, World};

fn run_once() -> (Vec<u8>, Vec<u32>, Vec<String>) {
    let mut world = World::new(2, 2, LIMITS);
    for replica in 0..2 {
        let script = Script::new("random", |view, calls| {
            let mut decision = generous(view, calls)?;
            decision.max_running = 1 + (view.random % 6) as u32;
            Ok(decision)
        });
        world.install(replica, &Arc::new(script));
    }
    let mut trajectory = Vec::new();
    for n in 0..300_u32 {
        if n % 3 == 0 {
            world.offer(Ask { tenant: u64::from(n % 5), ..Ask::new(vec![n % 7; 3 + n as usize % 20], 1 + n % 15) });
        }
        if n % 17 == 16 {
            world.cancel(sluice_core::RequestId(u64::from(n / 4)));
        }
        world.step();
        trajectory.extend(world.replicas.iter().flatten().map(|replica| replica.blocks_available()));
    }
    world.drain();
    world.assert_whole_answers();
    let recording = world.replicas[0].as_ref().unwrap().guard().recorder().ring().to_bytes(&HostVersions::default());
    let journal = world.journal.0.lock().unwrap().clone();
    (recording, trajectory, journal)
}

#[test]
fn twice_the_same() {
    let (first, second) = (run_once(), run_once());
    assert!(first.0.len() > 1000);
    assert_eq!(first.1, second.1, "block trajectory");
    assert_eq!(first.2, second.2, "events");
    assert_eq!(first.0, second.0, "recording");
}
