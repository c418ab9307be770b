//! What a replica's card says reaches its batching policy once a second, with its age.

use std::sync::{Arc, Mutex};

use sluice_core::view::DeviceSample;
use sluice_core::{Clock, DeviceReading, DeviceReadings, MILLISECOND, ReplicaId, SECOND};

use crate::fake::{Script, VirtualClock, generous};
use crate::world::{Ask, LIMITS, World};

/// A card that was always read a millisecond ago, and draws as many watts as it was asked about.
struct Card {
    clock: Arc<VirtualClock>,
    asked: Mutex<u32>,
}

impl DeviceReadings for Card {
    fn latest(&self, replica: ReplicaId) -> Option<DeviceReading> {
        assert_eq!(replica, ReplicaId(0));
        let mut asked = self.asked.lock().unwrap();
        *asked += 1;
        let taken = self.clock.now() - MILLISECOND;
        Some(DeviceReading { taken, power_watts: Some(f64::from(*asked)), ..DeviceReading::default() })
    }
}

#[test]
fn a_policy_sees_its_card_once_a_second() {
    let mut world = World::new(1, 1, LIMITS);
    let card = Arc::new(Card { clock: world.clock.clone(), asked: Mutex::default() });
    world.replicas[0] = world.replicas[0].take().map(|replica| replica.with_devices(card.clone()));
    let seen: Arc<Mutex<Vec<DeviceSample>>> = Arc::default();
    let seeing = Arc::clone(&seen);
    let script = Arc::new(Script::new("seeing", move |view, calls| {
        seeing.lock().unwrap().extend(view.engine.device);
        generous(view, calls)
    }));
    world.install(0, &script);

    world.offer(Ask::new(vec![1; 4], 30));
    world.run(4);
    assert_eq!((seen.lock().unwrap().len(), *card.asked.lock().unwrap()), (0, 0), "nothing before a second has passed");
    for second in 1..=3 {
        world.clock.advance(SECOND);
        world.run(4);
        let last = *seen.lock().unwrap().last().unwrap();
        assert_eq!((last.number, last.power_watts), (second, Some(second as f64)));
    }
    assert_eq!(*card.asked.lock().unwrap(), 3);
    let first = seen.lock().unwrap()[..2].iter().map(|sample| (sample.number, sample.age)).collect::<Vec<_>>();
    assert_eq!(first, [(1, MILLISECOND), (1, 2 * MILLISECOND)], "it ages from step to step");
    let observed = script.observed.lock().unwrap();
    let samples = observed.iter().flat_map(|events| &events.samples).map(|sample| (sample.number, sample.power_watts));
    assert_eq!(samples.collect::<Vec<_>>(), [(1, Some(1.0)), (2, Some(2.0)), (3, Some(3.0))]);
}
