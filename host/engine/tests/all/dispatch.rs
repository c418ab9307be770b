//! Admission and routing at the pool: what policies may decide, and what the host does when they decide badly.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice_core::view::{ArrivalView, BatchingView, EngineLimits, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, CallCost, Choice, Clock, Digest, Events, FailureKind, FaultKind, Instantiate, MILLISECOND,
    NextFlow, Policy, PolicyFault, Rejection, RequestId, RevisionId, Route, RoutingPolicy, SECOND, Slot, State,
    TokenEvent, Verdict,
};
use sluice_engine::order::{Order, Prepared};
use sluice_engine::pool::PoolOrder;

use crate::fake::{Script, generous};
use crate::world::{Ask, LIMITS, World};

pub(crate) type Admit = fn(&ArrivalView) -> Result<Verdict, FaultKind>;
pub(crate) type Next = fn(&FlowView) -> Result<NextFlow, FaultKind>;
pub(crate) type Rank = fn(&RoutingView) -> Result<Route, FaultKind>;

/// A policy of functions, for either slot of the pool.
#[derive(Clone)]
pub(crate) struct Functions {
    id: RevisionId,
    pub(crate) admit: Admit,
    pub(crate) next: Next,
    rank: Rank,
}

impl Functions {
    fn new(slot: Slot, name: &str) -> Self {
        let digest = Digest::of(name.as_bytes());
        let id = RevisionId { slot, name: name.into(), version: "1".into(), digest, config: "{}".into() };
        Self {
            id,
            admit: |view| Ok(Verdict::Accept { priority: view.request.priority }),
            next: |view| Ok(NextFlow::Serve { tenant: view.flows.tenant[0] }),
            rank: |view| Ok(ranked(view.replicas.id.iter().copied())),
        }
    }

    fn fault(&self, kind: FaultKind) -> PolicyFault {
        PolicyFault { policy: self.id.name.clone(), digest: self.id.digest, kind }
    }
}

pub(crate) fn ranked(replicas: impl Iterator<Item = u32>) -> Route {
    Route::Ranked(replicas.map(|replica| Choice { replica, cost: 0.0 }).collect())
}

impl Policy for Functions {
    fn observe(&mut self, _: &Events) -> Result<(), PolicyFault> {
        Ok(())
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        Ok(State::default())
    }

    fn import_state(&mut self, _: &State) -> Result<bool, PolicyFault> {
        Ok(false)
    }

    fn last_cost(&self) -> CallCost {
        CallCost::default()
    }
}

impl AdmissionPolicy for Functions {
    fn admit(&mut self, view: &ArrivalView) -> Result<Verdict, PolicyFault> {
        (self.admit)(view).map_err(|kind| self.fault(kind))
    }

    fn next(&mut self, view: &FlowView) -> Result<NextFlow, PolicyFault> {
        (self.next)(view).map_err(|kind| self.fault(kind))
    }
}

impl RoutingPolicy for Functions {
    fn rank(&mut self, view: &RoutingView) -> Result<Route, PolicyFault> {
        (self.rank)(view).map_err(|kind| self.fault(kind))
    }
}

impl Instantiate<dyn AdmissionPolicy> for Functions {
    fn revision(&self) -> &RevisionId {
        &self.id
    }

    fn instantiate(&self) -> Result<Box<dyn AdmissionPolicy>, PolicyFault> {
        Ok(Box::new(self.clone()))
    }
}

impl Instantiate<dyn RoutingPolicy> for Functions {
    fn revision(&self) -> &RevisionId {
        &self.id
    }

    fn instantiate(&self) -> Result<Box<dyn RoutingPolicy>, PolicyFault> {
        Ok(Box::new(self.clone()))
    }
}

pub(crate) fn admission(world: &mut World, change: impl Fn(&mut Functions)) {
    let mut functions = Functions::new(Slot::Admission, "admission");
    change(&mut functions);
    let prepared = Prepared {
        source: Arc::new(functions.clone()) as Arc<dyn Instantiate<dyn AdmissionPolicy>>,
        instance: Box::new(functions),
    };
    world.pool.order(PoolOrder::Admission(Order::Install { prepared, reply: Box::new(drop) }), &*world.clock);
}

pub(crate) fn routing(world: &mut World, rank: Rank) {
    let functions = Functions { rank, ..Functions::new(Slot::Routing, "routing") };
    let prepared = Prepared {
        source: Arc::new(functions.clone()) as Arc<dyn Instantiate<dyn RoutingPolicy>>,
        instance: Box::new(functions),
    };
    world.pool.order(PoolOrder::Routing(Order::Install { prepared, reply: Box::new(drop) }), &*world.clock);
}

fn prompt(seed: u32) -> Vec<u32> {
    (0..6).map(|position| seed * 10 + position).collect()
}

#[test]
fn a_verdict_rejects_degrades_and_changes_priority() {
    let mut world = World::new(1, 1, LIMITS);
    admission(&mut world, |policy| {
        policy.admit = |view| match view.request.tenant {
            1 => Ok(Verdict::Reject(Rejection { caller: true, reason: "enough".into(), retry_after: SECOND })),
            2 => Ok(Verdict::Degrade { max_new_tokens: 2 }),
            _ => Ok(Verdict::Accept { priority: 9 }),
        };
    });
    let rejected = world.offer(Ask { tenant: 1, ..Ask::new(prompt(1), 5) });
    let degraded = world.offer(Ask { tenant: 2, ..Ask::new(prompt(2), 5) });
    let accepted = world.offer(Ask { tenant: 3, ..Ask::new(prompt(3), 5) });
    world.drain();
    assert!(matches!(world.end(rejected), Some(TokenEvent::Rejected(rejection)) if rejection.reason == "enough"));
    assert_eq!((world.tokens(degraded).len(), world.tokens(accepted).len()), (2, 5));
}

#[test]
fn what_one_client_asks_for_at_once_is_judged_as_one_and_comes_in_whole_or_not_at_all() {
    let mut world = World::new(1, 1, LIMITS);
    admission(&mut world, |policy| {
        policy.admit = |view| {
            let asked = (view.request.prompt_tokens, view.request.max_new_tokens);
            match asked {
                (12, 10) => Ok(Verdict::Degrade { max_new_tokens: 5 }),
                (18, 15) => Ok(Verdict::Accept { priority: 9 }),
                _ => Err(FaultKind::Trap(format!("{asked:?}"))),
            }
        };
    });
    let asks = |count: u32, n: u32| (0..count).map(move |index| Ask::new(prompt(n + index), 5));
    let (degraded, accepted) = (world.offer_all(asks(2, 0)), world.offer_all(asks(3, 2)));
    assert_eq!(world.pool.queued(), 5);
    admission(&mut world, |policy| {
        policy.admit = |view| {
            let rejection = |reason: &str| Rejection { caller: true, reason: reason.into(), retry_after: SECOND };
            Ok(Verdict::Reject(rejection(if view.request.id == 6 { "enough" } else { "asked twice" })))
        };
    });
    let rejected = world.offer_all(asks(4, 5));
    assert_eq!(world.pool.queued(), 5);
    assert!(world.offer_all([]).is_empty(), "nothing is no reason to ask");
    world.drain();
    world.assert_answers();
    let lengths = |ids: &[RequestId]| ids.iter().map(|&id| world.tokens(id).len()).collect::<Vec<_>>();
    assert_eq!((lengths(&degraded), lengths(&accepted)), (vec![2, 2], vec![5, 5, 5]));
    let is_enough =
        |id: &RequestId| matches!(world.end(*id), Some(TokenEvent::Rejected(why)) if why.reason == "enough");
    assert!(rejected.iter().all(is_enough));
    assert_eq!((world.journal.count("Rejected"), world.journal.count("Fallback")), (1, 0));
}

#[test]
fn the_bounds_of_the_queue_hold_for_all_that_a_client_asks_for_at_once() {
    let mut world = World::new(1, 1, LIMITS);
    let offer = |world: &mut World, count: usize| {
        let ids = world.offer_all((0..count).map(|n| Ask::new(prompt(n as u32), 2)));
        let refused = ids.iter().filter_map(|&id| world.end(id)).map(|end| match end {
            TokenEvent::Rejected(why) => why.caller,
            other => panic!("{other:?} before anything ran"),
        });
        let refused: Vec<bool> = refused.collect();
        assert!(refused.is_empty() || refused.len() == count, "all or none");
        refused.first().copied()
    };
    assert_eq!(offer(&mut world, 41), Some(true), "so many will never come in");
    assert_eq!(offer(&mut world, 30), None);
    assert_eq!(offer(&mut world, 11), Some(false), "one too many for now");
    assert_eq!(offer(&mut world, 10), None);
    assert_eq!(offer(&mut world, 1), Some(false));
    assert_eq!((world.pool.queued(), world.journal.count("Rejected")), (40, 3));
    world.drain();
    world.assert_whole_answers();
    let spoilt = [Ask::new(prompt(1), 2), Ask::new(vec![1; LIMITS.max_model_len as usize], 2)];
    let rejected = world.offer_all(spoilt);
    assert!(rejected.iter().all(|&id| matches!(world.end(id), Some(TokenEvent::Rejected(why)) if why.caller)));
}

#[test]
fn the_policy_says_whose_turn_it_is_while_requests_wait() {
    let mut world = World::new(1, 1, LIMITS);
    admission(&mut world, |policy| {
        policy.next = |view| Ok(NextFlow::Serve { tenant: *view.flows.tenant.iter().max().unwrap_or(&0) });
    });
    let low: Vec<_> = (0..10).map(|n| world.offer(Ask { tenant: 1, ..Ask::new(prompt(n), 9) })).collect();
    let high: Vec<_> = (0..10).map(|n| world.offer(Ask { tenant: 2, ..Ask::new(prompt(n), 9) })).collect();
    while !high.iter().all(|&id| world.end(id).is_some()) {
        world.step();
    }
    assert!(low.iter().filter(|&&id| world.end(id).is_some()).count() <= 2, "the other tenant came first");
    world.drain();
    world.assert_answers();
}

#[test]
fn bad_decisions_fall_back_to_the_native_rule_and_are_thrown_out() {
    let bad: [fn(&mut World); 6] = [
        |world| admission(world, |policy| policy.admit = |_| Err(FaultKind::Trap("x".into()))),
        |world| admission(world, |policy| policy.admit = |_| Ok(Verdict::Degrade { max_new_tokens: 0 })),
        |world| admission(world, |policy| policy.next = |_| Ok(NextFlow::Serve { tenant: 999 })),
        |world| routing(world, |_| Ok(Route::Ranked(Vec::new()))),
        |world| routing(world, |_| Ok(ranked([7, 8].into_iter()))),
        |world| routing(world, |_| Err(FaultKind::Deadline)),
    ];
    for (number, install) in bad.into_iter().enumerate() {
        let mut world = World::new(2, 1, LIMITS);
        install(&mut world);
        for n in 0..30 {
            world.offer(Ask { tenant: u64::from(n % 3), ..Ask::new(prompt(n), 3) });
        }
        world.drain();
        world.assert_answers();
        assert_eq!(world.journal.count("Fallback"), 3, "case {number}");
        assert_eq!(world.journal.count("Quarantined"), 1, "case {number}");
    }
}

fn holds() -> [fn(&mut World); 4] {
    [
        |world| routing(world, |_| Ok(Route::HoldUntil(u64::MAX))),
        |world| routing(world, |_| Ok(Route::HoldUntil(0))),
        |world| admission(world, |policy| policy.next = |_| Ok(NextFlow::HoldUntil(u64::MAX))),
        |world| admission(world, |policy| policy.next = |_| Ok(NextFlow::HoldUntil(0))),
    ]
}

#[test]
fn holding_everything_back_lasts_a_second() {
    for install in holds() {
        let mut world = World::new(1, 1, LIMITS);
        install(&mut world);
        let first = world.offer(Ask { tenant: 1, ..Ask::new(prompt(1), 3) });
        let second = world.offer(Ask { tenant: 2, ..Ask::new(prompt(2), 3) });
        world.run(20);
        assert!(world.end(first).is_none() && world.end(second).is_none(), "the policy may hold");
        world.clock.advance(2 * SECOND);
        world.run(40);
        assert!(world.end(first).is_some() && world.end(second).is_some(), "but not while nothing runs");
        assert!(world.journal.count("work-conservation") > 0);
    }
}

#[test]
fn holding_one_back_lasts_until_the_starvation_bound() {
    let limits = EngineLimits { max_model_len: 20_000, blocks_total: 6000, ..LIMITS };
    for install in holds() {
        let mut world = World::new(1, 1, limits);
        world.offer(Ask { tenant: 3, ..Ask::new(prompt(3), 19_000) });
        world.run(10);
        install(&mut world);
        let first = world.offer(Ask { tenant: 1, ..Ask::new(prompt(1), 3) });
        let second = world.offer(Ask { tenant: 2, ..Ask::new(prompt(2), 3) });
        world.clock.advance(8 * SECOND);
        world.run(20);
        assert!(world.end(first).is_none() && world.end(second).is_none(), "the policy may hold");
        world.clock.advance(3 * SECOND);
        world.run(40);
        assert!(world.end(first).is_some() && world.end(second).is_some(), "but not for ever");
        assert!(world.journal.count("starvation") > 0);
    }
}

/// Anybody may send a priority: who is more urgent goes first, and not for ever.
#[test]
fn the_urgent_of_one_tenant_leave_every_other_turn_to_those_who_have_waited_long() {
    let mut world = World::new(1, 1, EngineLimits { max_sequences: 1, ..LIMITS });
    let ask = |priority, n| Ask { tenant: 1, priority, ..Ask::new(prompt(n), 3) };
    let patient: Vec<_> = (0..2).map(|n| world.offer(ask(0, n))).collect();
    let urgent: Vec<_> = (2..30).map(|n| world.offer(ask(5, n))).collect();
    let ended = |world: &World, ids: &[RequestId]| ids.iter().filter(|id| world.end(**id).is_some()).count();
    while ended(&world, &urgent) < 4 {
        world.run(1);
    }
    assert_eq!(ended(&world, &patient), 0, "the urgent go first");
    world.clock.advance(11 * SECOND);
    while ended(&world, &patient) < patient.len() {
        world.run(1);
    }
    let left = urgent.len() - ended(&world, &urgent);
    assert!(left >= 2, "the patient do not come last: {left} urgent ones are left");
    world.drain();
    assert_eq!(ended(&world, &urgent), urgent.len());
}

#[test]
fn a_policy_that_holds_until_now_is_not_asked_at_every_turn() {
    let mut world = World::new(1, 1, LIMITS);
    routing(&mut world, |_| Ok(Route::HoldUntil(0)));
    world.offer(Ask::new(prompt(1), 3));
    let now = world.clock.now();
    assert!(world.pool.tick(now).is_some_and(|at| at >= now + MILLISECOND));
}

#[test]
fn a_turn_that_routing_holds_is_asked_for_once() {
    static TURNS: AtomicU64 = AtomicU64::new(0);
    let mut world = World::new(1, 1, LIMITS);
    admission(&mut world, |policy| {
        policy.next = |view| {
            TURNS.fetch_add(1, Ordering::SeqCst);
            Ok(NextFlow::Serve { tenant: view.flows.tenant[0] })
        };
    });
    routing(&mut world, |view| Ok(Route::HoldUntil(view.now + MILLISECOND)));
    world.offer(Ask { tenant: 1, ..Ask::new(prompt(1), 3) });
    world.offer(Ask { tenant: 2, ..Ask::new(prompt(2), 3) });
    world.run(100);
    assert_eq!(TURNS.load(Ordering::SeqCst), 1, "the other tenant's turn is the only one left, so nobody is asked");
}

#[test]
fn a_raised_limit_lets_more_in_at_once() {
    let mut world = World::new(1, 1, LIMITS);
    let one = |view: &BatchingView, calls| {
        let mut decision = generous(view, calls)?;
        decision.max_running = if view.now < 3 * SECOND { 1 } else { 6 };
        Ok(decision)
    };
    world.install(0, &Arc::new(Script::new("rising", one)));
    world.offer(Ask::new(prompt(9), 50));
    world.run(4);
    (0..5).for_each(|n| {
        world.offer(Ask { tenant: n, ..Ask::new(prompt(n as u32), 50) });
    });
    world.run(20);
    assert_eq!(world.pool.in_flight(), 3, "one runs and two are there to follow");
    world.clock.advance(2 * SECOND);
    world.run(10);
    assert_eq!(world.pool.in_flight(), 6, "nobody had to end first");
}

#[test]
fn what_brings_a_replica_down_takes_nobody_along() {
    let mut world = World::new(1, 1, LIMITS);
    let asked: Vec<_> = (0..4).map(|n| world.offer(Ask::new((0..40).map(|p| n * 100 + p).collect(), 3))).collect();
    world.run(2);
    world.lose(0);
    for _ in 0..200 {
        world.step();
        // The first of them brings down whatever it is alone with.
        if world.pool.in_flight() > 0 && world.end(asked[0]).is_none() {
            assert_eq!(world.pool.in_flight(), 1, "a suspect is served alone");
            world.run(1);
            world.lose(0);
        }
    }
    world.drain();
    assert_eq!(world.failure(asked[0]).map(|failure| failure.kind), Some(FailureKind::Poison));
    for id in &asked[1..] {
        assert_eq!(world.tokens(*id).len(), 3, "the others are answered");
    }
}

#[test]
fn a_routing_policy_may_keep_to_one_replica() {
    let mut world = World::new(2, 1, LIMITS);
    routing(&mut world, |_| Ok(ranked(std::iter::once(1))));
    for n in 0..12 {
        world.offer(Ask::new(prompt(n), 3));
    }
    world.drain();
    world.assert_answers();
    assert_eq!(world.journal.count("Step { replica: ReplicaId(0)"), 0);
}

#[test]
fn the_native_rule_finds_the_replica_that_is_less_loaded() {
    let mut world = World::new(2, 1, LIMITS);
    for n in 0..4 {
        world.offer(Ask::new(prompt(n), 3));
    }
    world.drain();
    let steps = [0, 1].map(|replica| world.journal.count(&format!("Step {{ replica: ReplicaId({replica})")));
    assert!(steps[0] > 0 && steps[1] > 0, "{steps:?}");
}

#[test]
fn what_ended_just_before_its_replica_was_lost_does_not_end_again() {
    for steps in 0..6 {
        let mut world = World::new(1, 1, LIMITS);
        world.offer(Ask::new(prompt(1), 20));
        let left = world.offer(Ask::new(prompt(2), 20));
        world.run(4);
        world.cancel(left);
        world.run(steps);
        world.lose(0);
        world.drain();
        world.assert_answers();
    }
}
