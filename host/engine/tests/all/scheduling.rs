//! Continuous batching, chunked prefill, the prefix cache, preemption and cancellation, one by one.

use std::sync::Arc;

use sluice_core::view::{EngineLimits, phase};
use sluice_core::{BatchingDecision, Chunk, EndOfStream, FailureKind, FinishReason, TokenEvent};

use crate::fake::{Script, expected, generous};
use crate::world::{Ask, LIMITS, World};

fn prompt(seed: u32, length: u32) -> Vec<u32> {
    (0..length).map(|position| seed * 100 + position).collect()
}

#[test]
fn answers_are_right_at_depth_one_and_two() {
    for depth in [1, 2, 3] {
        let mut world = World::new(2, depth, LIMITS);
        for n in 0..12 {
            world.offer(Ask::new(prompt(n, 3 + n * 2), 1 + n % 7));
        }
        world.drain();
        world.assert_whole_answers();
    }
}

#[test]
fn a_new_request_joins_the_batch_while_others_decode() {
    let mut world = World::new(1, 1, LIMITS);
    let long = world.offer(Ask::new(prompt(1, 4), 30));
    world.run(5);
    let short = world.offer(Ask::new(prompt(2, 4), 2));
    world.run(12);
    assert!(world.end(short).is_some() && world.end(long).is_none());
    world.drain();
    world.assert_whole_answers();
}

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decoding_sequences() {
    let limits = EngineLimits { max_batched_tokens: 8, ..LIMITS };
    let mut world = World::new(1, 1, limits);
    let decoding = world.offer(Ask::new(prompt(1, 4), 20));
    world.run(4);
    let before = world.tokens(decoding).len();
    let long = world.offer(Ask::new(prompt(2, 40), 2));
    world.run(8);
    assert!(world.tokens(long).is_empty());
    assert!(world.tokens(decoding).len() >= before + 3, "decoding went on during the prefill");
    world.drain();
    world.assert_whole_answers();
}

#[test]
fn a_shared_prefix_is_computed_once_and_only_within_a_tenant() {
    let mut world = World::new(1, 1, LIMITS);
    let cached = |event: Option<TokenEvent>| match event {
        Some(TokenEvent::End(EndOfStream { cached_tokens, .. })) => cached_tokens,
        other => panic!("{other:?}"),
    };
    let first = world.offer(Ask::new(prompt(1, 17), 2));
    world.drain();
    let again = world.offer(Ask::new(prompt(1, 17), 2));
    let whole_blocks = world.offer(Ask::new(prompt(1, 16), 2));
    let stranger = world.offer(Ask { tenant: 7, ..Ask::new(prompt(1, 17), 2) });
    world.drain();
    world.assert_whole_answers();
    assert_eq!(cached(world.end(first)), 0);
    assert_eq!(cached(world.end(again)), 16);
    assert_eq!(cached(world.end(whole_blocks)), 12, "one token is left to compute");
    assert_eq!(cached(world.end(stranger)), 0, "another tenant's salt finds nothing");
}

#[test]
fn where_blocks_are_short_the_last_to_come_gives_way_and_is_computed_again() {
    let limits = EngineLimits { blocks_total: 16, ..LIMITS };
    let mut world = World::new(1, 2, limits);
    for n in 0..4 {
        world.offer(Ask::new(prompt(n, 10), 30));
    }
    world.drain();
    world.assert_whole_answers();
    assert!(world.journal.count("Preempted {") > 0, "nobody was preempted");
}

#[test]
fn a_victim_that_the_policy_names_is_preempted_and_finishes_all_the_same() {
    let mut world = World::new(1, 1, LIMITS);
    let script = Script::new("victims", |view, calls| {
        let mut decision = generous(view, calls)?;
        if calls == 6 {
            decision.victims = view.sequences.id.clone();
        }
        Ok(decision)
    });
    world.install(0, &Arc::new(script));
    world.offer(Ask::new(prompt(1, 6), 10));
    world.offer(Ask::new(prompt(2, 6), 10));
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.journal.count("Preempted {"), 2);
}

#[test]
fn cancellation_frees_blocks_at_every_stage() {
    for steps in 0..12 {
        for depth in [1, 2] {
            let mut world = World::new(1, depth, LIMITS);
            let id = world.offer(Ask::new(prompt(1, 20), 30));
            world.run(steps);
            world.cancel(id);
            world.drain();
            world.assert_whole_answers();
            let Some(TokenEvent::End(end)) = world.end(id) else { panic!("no end") };
            assert_eq!(end.reason, FinishReason::Cancelled);
        }
    }
}

#[test]
fn a_reader_that_falls_behind_is_cancelled_and_holds_up_nobody() {
    let mut world = World::new(1, 1, LIMITS);
    let slow = world.offer(Ask { close_after: Some(3), ..Ask::new(prompt(1, 5), 20) });
    let other = world.offer(Ask::new(prompt(2, 5), 20));
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.tokens(slow).len(), 3);
    assert_eq!(world.tokens(other).len(), 20);
}

#[test]
fn order_and_chunks_of_a_policy_are_followed() {
    let mut world = World::new(1, 1, LIMITS);
    let script = Script::new("last-come", |view, calls| {
        let mut decision = generous(view, calls)?;
        decision.max_running = 1;
        let rows = 0..view.sequences.id.len();
        decision.order = rows
            .rev()
            .filter(|&row| view.sequences.phase[row] == phase::WAITING)
            .map(|row| view.sequences.id[row])
            .collect();
        decision.chunks = view.sequences.id.iter().map(|&id| Chunk { id, tokens: 2 }).collect();
        Ok(decision)
    });
    world.install(0, &Arc::new(script));
    let first = world.offer(Ask::new(prompt(1, 8), 2));
    let last = world.offer(Ask::new(prompt(2, 8), 2));
    world.run(4);
    assert!(world.tokens(last).is_empty(), "two tokens a step: four steps for the prompt");
    world.run(8);
    assert_eq!((world.tokens(first).len(), world.tokens(last).len()), (0, 2));
    world.drain();
    world.assert_whole_answers();
}

#[test]
fn a_prompt_that_cannot_fit_is_refused_and_an_answer_is_cut_at_the_models_length() {
    let mut world = World::new(1, 1, LIMITS);
    let too_long = world.offer(Ask::new(prompt(1, 64), 4));
    let cut = world.offer(Ask::new(prompt(2, 60), 50));
    world.drain();
    assert!(matches!(world.end(too_long), Some(TokenEvent::Rejected(rejection)) if rejection.reason.contains("64")));
    assert_eq!(world.tokens(cut), expected(&prompt(2, 60), 4));
}

#[test]
fn the_central_queue_is_bounded_and_says_when_to_come_back() {
    let mut world = World::new(1, 1, LIMITS);
    let asked: Vec<_> = (0..60).map(|n| world.offer(Ask::new(prompt(n, 4), 4))).collect();
    let rejected = asked.iter().filter(|&&id| matches!(world.end(id), Some(TokenEvent::Rejected(_)))).count();
    assert_eq!(rejected, 20);
    world.drain();
    world.assert_whole_answers();
}

#[test]
fn what_a_lost_replica_had_not_begun_is_served_by_another() {
    let mut world = World::new(2, 1, LIMITS);
    let asked: Vec<_> = (0..6).map(|n| world.offer(Ask::new(prompt(n, 30), 8))).collect();
    world.run(2);
    world.lose(0);
    world.drain();
    world.assert_whole_answers();
    let whole = asked.iter().filter(|&&id| world.tokens(id).len() == 8).count();
    assert_eq!(whole, 6, "nothing had been sent yet, so nothing failed");
    assert_eq!(world.journal.count("ReplicaLost"), 1);
}

#[test]
fn a_request_that_was_with_two_lost_replicas_is_refused() {
    let mut world = World::new(1, 1, LIMITS);
    let id = world.offer(Ask::new(prompt(1, 50), 8));
    for _ in 0..2 {
        world.run(1);
        world.lose(0);
    }
    world.drain();
    world.assert_answers();
    assert_eq!(world.failure(id).map(|failure| failure.kind), Some(FailureKind::Poison));
}

#[test]
fn a_limit_of_zero_cannot_stop_the_engine() {
    let mut world = World::new(1, 1, LIMITS);
    let never = |_: &_, _| Ok(BatchingDecision { max_running: 0, token_budget: 0, ..BatchingDecision::default() });
    world.install(0, &Arc::new(Script::new("never", never)));
    world.offer(Ask::new(prompt(1, 5), 3));
    world.drain();
    world.assert_whole_answers();
    assert!(world.journal.count("work-conservation") > 0);
    assert_eq!(world.journal.count("Fallback"), 0, "a legitimate limit is no fault");
}

#[test]
fn nobody_starves_under_a_policy_that_always_prefers_others() {
    let mut world = World::new(1, 1, LIMITS);
    let unfair = Script::new("unfair", |view, calls| {
        let mut decision = generous(view, calls)?;
        decision.max_running = 2;
        let rows = 0..view.sequences.id.len();
        decision.chunks = rows
            .filter(|&row| view.sequences.tenant[row] == 1)
            .map(|row| Chunk { id: view.sequences.id[row], tokens: 0 })
            .collect();
        Ok(decision)
    });
    world.install(0, &Arc::new(unfair));
    let starved = world.offer(Ask { tenant: 1, ..Ask::new(prompt(99, 5), 2) });
    for n in 0..200 {
        world.offer(Ask::new(prompt(n, 5), 8));
        world.run(4);
        world.clock.advance(sluice_core::SECOND / 2);
    }
    assert!(world.end(starved).is_some(), "it waited for more than a minute and a half");
    assert!(world.journal.count("starvation") > 0);
    world.drain();
    world.assert_whole_answers();
}

#[test]
fn a_policy_that_preempts_everything_cannot_stop_the_engine() {
    // Three tokens a step are less than a block, so the prefix cache saves nothing of what is preempted.
    let mut world = World::new(1, 1, EngineLimits { max_batched_tokens: 3, ..LIMITS });
    let preempting = Script::new("preempting", |view, calls| {
        let mut decision = generous(view, calls)?;
        let running = |row: &usize| matches!(view.sequences.phase[*row], phase::PREFILL | phase::DECODE);
        decision.victims = (0..view.sequences.len()).filter(running).map(|row| view.sequences.id[row]).collect();
        Ok(decision)
    });
    world.install(0, &Arc::new(preempting));
    for n in 0..3 {
        world.offer(Ask::new(prompt(n, 30), 6));
    }
    world.run(400);
    assert_eq!(world.pool.in_flight() + world.pool.queued(), 0, "they are done, if slowly");
    world.assert_whole_answers();
}
