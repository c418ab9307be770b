//! Nobody waits in the central queue for ever: what no replica has room for is ended in time, and what one has room for
//! is not.

use std::sync::Arc;

use sluice_core::view::{BatchingView, EngineLimits};
use sluice_core::{BatchingDecision, Clock, FailureKind, NextFlow, RequestId, Route, SECOND};
use sluice_engine::pool::PoolConfig;

use crate::dispatch::{admission, routing};
use crate::fake::{Script, generous};
use crate::world::{Ask, LIMITS, World};

/// One runs, and two are there to follow.
const ONE: EngineLimits = EngineLimits { max_sequences: 1, max_model_len: 20_000, blocks_total: 6000, ..LIMITS };

fn prompt(seed: u32) -> Vec<u32> {
    (0..6).map(|position| seed * 10 + position).collect()
}

/// A world whose only replica is full for long, and the requests that wait.
fn full(waiting: u32) -> (World, Vec<RequestId>) {
    let mut world = World::new(1, 1, ONE);
    (0..3).for_each(|n| {
        world.offer(Ask::new(prompt(n), 10_000));
    });
    world.run(4);
    let waiting = (3..3 + waiting).map(|n| world.offer(Ask::new(prompt(n), 3))).collect();
    world.run(4);
    (world, waiting)
}

fn timed_out(world: &World, id: RequestId) -> bool {
    let failure = world.failure(id);
    failure.is_some_and(|failure| {
        let retry_after = failure.retry_after.expect("trying again has a chance");
        assert!((SECOND..=120 * SECOND).contains(&retry_after), "retry after {retry_after}");
        assert!(failure.message.contains("30 s"), "{}", failure.message);
        failure.kind == FailureKind::QueueTimeout
    })
}

#[test]
fn what_waits_for_too_long_is_ended_and_what_came_later_is_not() {
    let (mut world, early) = full(3);
    world.clock.advance(20 * SECOND);
    let late = world.offer(Ask::new(prompt(9), 3));
    world.run(4);
    assert!(!early.iter().any(|&id| timed_out(&world, id)), "not before its time");
    world.clock.advance(11 * SECOND);
    world.run(4);
    assert!(early.iter().all(|&id| timed_out(&world, id)));
    assert!(world.end(late).is_none());
    world.cancel(RequestId(1));
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.tokens(late).len(), 3);
}

#[test]
fn the_pool_wakes_when_the_first_has_waited_for_too_long() {
    let (mut world, waiting) = full(1);
    let queued = world.clock.now();
    let at = world.pool.tick(queued).expect("something waits");
    let timeout = PoolConfig::default().queue_timeout;
    assert!(queued < at && at <= queued + timeout + 1);
    assert_eq!(world.pool.tick(at - 1), Some(at + SECOND / 1000 - 1), "a moment early");
    assert_eq!(world.pool.tick(at), None, "nothing is left to wake for");
    assert!(timed_out(&world, waiting[0]));
}

#[test]
fn what_came_back_from_a_lost_replica_waits_anew_and_not_for_ever() {
    let mut world = World::new(1, 1, LIMITS);
    let id = world.offer(Ask::new(prompt(1), 3));
    world.run(1);
    world.clock.advance(25 * SECOND);
    world.replicas[0] = None;
    world.run(1);
    assert_eq!(world.pool.queued(), 1, "nothing had been sent");
    world.clock.advance(25 * SECOND);
    world.run(1);
    assert!(world.failure(id).is_none(), "it has waited for 25 seconds twice, and never for 30");
    world.clock.advance(6 * SECOND);
    world.run(1);
    assert!(timed_out(&world, id));
    world.assert_answers();
}

#[test]
fn whoever_a_replica_has_room_for_is_served_however_late_it_is() {
    let mut world = World::new(1, 1, LIMITS);
    let busy = world.offer(Ask::new(prompt(1), 50));
    world.run(4);
    routing(&mut world, |_| Ok(Route::HoldUntil(u64::MAX)));
    let held = world.offer(Ask::new(prompt(2), 3));
    world.run(4);
    assert!(world.end(busy).is_none() && world.pool.queued() == 1, "the policy may hold");
    world.clock.advance(100 * SECOND);
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.tokens(held).len(), 3);
}

#[test]
fn what_was_sent_ahead_of_time_waits_no_longer_than_what_was_not() {
    let (mut world, waiting) = full(0);
    let (running, ahead) = (RequestId(1), [RequestId(2), RequestId(3)]);
    assert!(waiting.is_empty() && world.pool.queued() == 0, "all are on the replica");
    world.clock.advance(25 * SECOND);
    world.run(4);
    assert!(!ahead.iter().any(|&id| timed_out(&world, id)), "not before their time");
    world.clock.advance(6 * SECOND);
    world.run(4);
    assert!(ahead.iter().all(|&id| timed_out(&world, id)));
    assert_eq!((world.pool.queued(), world.pool.in_flight()), (0, 1));
    assert!(world.end(running).is_none(), "it had its turn, and takes as long as it takes");
    world.cancel(running);
    world.drain();
    world.assert_whole_answers();
}

/// The time in the queue and the time on the replica are one wait.
#[test]
fn what_is_sent_ahead_late_has_only_what_is_left_of_its_time() {
    let (mut world, waiting) = full(1);
    world.clock.advance(20 * SECOND);
    world.cancel(RequestId(2));
    world.run(4);
    assert_eq!((world.pool.queued(), world.pool.in_flight()), (0, 3));
    world.clock.advance(11 * SECOND);
    world.run(4);
    assert!(timed_out(&world, waiting[0]));
    world.cancel(RequestId(1));
    world.drain();
    world.assert_whole_answers();
}

/// A batching policy may hold what there is room for, but not until it is given up.
#[test]
fn what_a_policy_held_on_a_replica_with_room_is_served_at_the_end_of_its_time() {
    let mut world = World::new(1, 1, LIMITS);
    let busy = world.offer(Ask::new(prompt(1), 50));
    world.run(4);
    let alone = |view: &BatchingView, calls| Ok(BatchingDecision { max_running: 1, ..generous(view, calls)? });
    world.install(0, &Arc::new(Script::new("alone", alone)));
    let held = world.offer(Ask::new(prompt(2), 3));
    world.run(4);
    assert_eq!((world.end(held), world.pool.queued()), (None, 0), "the policy may hold");
    world.clock.advance(31 * SECOND);
    world.run(10);
    assert_eq!((world.tokens(held).len(), world.end(busy)), (3, None));
    world.cancel(busy);
    world.drain();
    world.assert_whole_answers();
}

/// The longer a queue is, the more the policy is needed that says whose turn it is.
#[test]
fn a_long_queue_does_not_take_the_turns_away_from_the_policy() {
    let mut world = World::new(1, 1, ONE);
    admission(&mut world, |policy| {
        policy.next = |view| Ok(NextFlow::Serve { tenant: *view.flows.tenant.iter().max().unwrap_or(&0) });
    });
    let ask = |tenant, n| Ask { tenant, ..Ask::new(prompt(n), 10) };
    let greedy: Vec<_> = (0..20).map(|n| world.offer(ask(1, n))).collect();
    world.run(4);
    // As much comes as can be served, and most of the greedy tenant's requests have soon waited for ten seconds.
    let mut polite = Vec::new();
    for n in 20..40 {
        world.clock.advance(SECOND);
        polite.push(world.offer(ask(2, n)));
        world.run(24);
    }
    let served = |asked: &[RequestId]| asked.iter().filter(|&&id| !world.tokens(id).is_empty()).count();
    assert!(served(&polite) >= 17, "the other tenant was made to wait");
    assert!(world.journal.count("starvation") <= 2, "whoever has no turn has one in ten seconds, and no more");
    assert!(served(&greedy) > 0);
    world.drain();
    world.assert_whole_answers();
}
