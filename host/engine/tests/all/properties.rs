//! Random arrivals, lengths, cancels, slow readers, lost replicas, swaps, rollbacks, evictions and hostile decisions in
//! every slot: the invariants hold after every step, every request ends once, for a reason, with the right answer.

use std::sync::Arc;

use proptest::prelude::*;
use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{BatchingDecision, Chunk, FaultKind, NextFlow, Rejection, RequestId, Route, SECOND, Verdict};
use sluice_engine::order::Order;

use crate::dispatch::{admission, ranked, routing};
use crate::fake::Script;
use crate::world::{Ask, LIMITS, World};

#[derive(Clone, Debug)]
enum Action {
    Offer {
        tenant: u64,
        prefix: u32,
        length: usize,
        max_new_tokens: u32,
        priority: i32,
        close_after: Option<usize>,
    },
    /// Asks for scores, for stop tokens that one in eight is, or for draws that depend on what came before.
    OfferMore {
        prefix: u32,
        length: usize,
        prompt_logprobs: Option<u8>,
        min_new_tokens: Option<u32>,
        penalises: bool,
    },
    Cancel(u64),
    Lose(usize),
    Swap {
        replica: usize,
        seed: u64,
    },
    SwapAdmission,
    SwapRouting,
    Evict {
        replica: usize,
        seed: u64,
    },
    RollBack(usize),
    Wait(u64),
    Steps(usize),
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => (0_u64..4, 0_u32..3, 1_usize..70, 1_u32..40, -2_i32..3, prop::option::weighted(0.1, 0_usize..6)).prop_map(
            |(tenant, prefix, length, max_new_tokens, priority, close_after)| {
                Action::Offer { tenant, prefix, length, max_new_tokens, priority, close_after }
            }
        ),
        3 => (0_u32..3, 1_usize..64, prop::option::of(0_u8..3), prop::option::of(0_u32..9), any::<bool>()).prop_map(
            |(prefix, length, prompt_logprobs, min_new_tokens, penalises)| {
                Action::OfferMore { prefix, length, prompt_logprobs, min_new_tokens, penalises }
            }
        ),
        2 => (1_u64..60).prop_map(Action::Cancel),
        1 => (0_usize..2).prop_map(Action::Lose),
        2 => (0_usize..2, 0_u64..4).prop_map(|(replica, seed)| Action::Swap { replica, seed }),
        1 => Just(Action::SwapAdmission),
        1 => Just(Action::SwapRouting),
        1 => (0_usize..2, 0_u64..4).prop_map(|(replica, seed)| Action::Evict { replica, seed }),
        1 => (0_usize..2).prop_map(Action::RollBack),
        1 => (0_u64..40_000).prop_map(Action::Wait),
        8 => (1_usize..12).prop_map(Action::Steps),
    ]
}

/// Decides anything at all: right, wrong, absurd, or nothing but a fault.
fn hostile(seed: u64) -> Script {
    Script::new(&format!("hostile-{seed}"), move |view: &BatchingView, calls| {
        let mut word = seed ^ view.random ^ calls;
        let mut draw = move |below: u64| {
            word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (word >> 33) % below
        };
        if draw(12) == 0 {
            return Err(FaultKind::Trap("hostile".into()));
        }
        let limit = |n: u64| match n {
            0 => 0,
            1 => u32::MAX,
            n => n as u32,
        };
        let ids = &view.sequences.id;
        let mut some = |keep: u64| -> Vec<u64> {
            let mut chosen: Vec<u64> = ids.iter().copied().filter(|_| draw(keep) == 0).collect();
            if draw(8) == 0 {
                chosen.push(draw(50));
            }
            if draw(9) == 0 {
                chosen.extend(ids.first());
            }
            chosen
        };
        let (order, victims, chunked) = (some(2), some(6), some(3));
        Ok(BatchingDecision {
            max_running: limit(draw(9)),
            token_budget: limit(draw(30)),
            order,
            victims,
            chunks: chunked.into_iter().map(|id| Chunk { id, tokens: limit(draw(9)) }).collect(),
        })
    })
}

fn hostile_admit(view: &ArrivalView) -> Result<Verdict, FaultKind> {
    match view.random % 8 {
        0 => Err(FaultKind::Trap("hostile".into())),
        1 => Ok(Verdict::Degrade { max_new_tokens: (view.random >> 8) as u32 % 4 }),
        2 => Ok(Verdict::Reject(Rejection { caller: false, reason: "hostile".into(), retry_after: 0 })),
        _ => Ok(Verdict::Accept { priority: (view.random >> 8) as i32 }),
    }
}

fn hostile_next(view: &FlowView) -> Result<NextFlow, FaultKind> {
    match view.random % 8 {
        0 => Err(FaultKind::Deadline),
        1 => Ok(NextFlow::HoldUntil(0)),
        2 => Ok(NextFlow::HoldUntil(u64::MAX)),
        3 => Ok(NextFlow::Serve { tenant: view.random }),
        n => Ok(NextFlow::Serve { tenant: view.flows.tenant[n as usize % view.flows.len()] }),
    }
}

fn hostile_rank(view: &RoutingView) -> Result<Route, FaultKind> {
    match view.random % 8 {
        0 => Err(FaultKind::Fuel),
        1 => Ok(Route::HoldUntil(0)),
        2 => Ok(Route::HoldUntil(u64::MAX)),
        3 => Ok(ranked([7, 7].into_iter())),
        4 => Ok(ranked(std::iter::empty())),
        n => Ok(ranked(std::iter::once(n as u32 % 2))),
    }
}

/// Those of one prefix begin alike.
fn prompt(prefix: u32, length: usize) -> Vec<u32> {
    (0..length as u32).map(|position| prefix * 1000 + position).collect()
}

fn check(depth: usize, actions: Vec<Action>) {
    let mut world = World::new(2, depth, LIMITS);
    for action in actions {
        match action {
            Action::Offer { tenant, prefix, length, max_new_tokens, priority, close_after } => {
                let ask = Ask::new(prompt(prefix, length), max_new_tokens);
                world.offer(Ask { tenant, priority, close_after, ..ask });
            }
            Action::OfferMore { prefix, length, prompt_logprobs, min_new_tokens, penalises } => {
                let stop_tokens = min_new_tokens.map_or_else(Vec::new, |_| (0..1000).step_by(8).collect());
                let min_new_tokens = min_new_tokens.unwrap_or(0);
                let ask = Ask::new(prompt(prefix, length), 12);
                world.offer(Ask { prompt_logprobs, min_new_tokens, stop_tokens, penalises, ..ask });
            }
            Action::Cancel(id) => world.cancel(RequestId(id)),
            Action::Lose(replica) => world.lose(replica),
            Action::Swap { replica, seed } => world.install(replica, &Arc::new(hostile(seed))),
            Action::SwapAdmission => admission(&mut world, |policy| {
                policy.admit = hostile_admit;
                policy.next = hostile_next;
            }),
            Action::SwapRouting => routing(&mut world, hostile_rank),
            Action::Evict { replica, seed } => {
                world.order(replica, Order::Evict { digest: hostile(seed).digest(), reply: Box::new(drop) });
            }
            Action::RollBack(replica) => world.order(replica, Order::Rollback(Box::new(drop))),
            Action::Wait(milliseconds) => world.clock.advance(milliseconds * SECOND / 1000),
            Action::Steps(count) => world.run(count),
        }
    }
    world.drain();
    world.assert_answers();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_at_depth_one(actions in prop::collection::vec(action(), 1..60)) {
        check(1, actions);
    }

    #[test]
    fn nothing_is_lost_at_depth_two(actions in prop::collection::vec(action(), 1..60)) {
        check(2, actions);
    }
}
