//! A prompt's scores: each token's once, in order, before the answer, whatever becomes of the request on the way.

use std::sync::Arc;

use sluice_core::view::EngineLimits;
use sluice_core::{EndOfStream, FailureKind, FinishReason, RequestId, TokenEvent};

use crate::fake::{NO_NUMBER, Script, expected_scores, generous};
use crate::world::{Ask, LIMITS, World};

/// Eight tokens a step.
const NARROW: EngineLimits = EngineLimits { max_batched_tokens: 8, ..LIMITS };

fn scored(seed: u32, length: u32) -> Ask {
    Ask { prompt_logprobs: Some(2), ..Ask::new((0..length).map(|position| seed * 100 + position).collect(), 3) }
}

fn end(world: &World, id: RequestId) -> EndOfStream {
    match world.end(id) {
        Some(TokenEvent::End(end)) => end,
        other => panic!("{id:?}: {other:?}"),
    }
}

#[test]
fn chunks_of_a_prompt_are_scored_as_they_are_computed() {
    for depth in [1, 2] {
        let mut world = World::new(1, depth, NARROW);
        let (long, short) = (world.offer(scored(1, 30)), world.offer(scored(2, 1)));
        while world.scores(long).is_empty() {
            world.step();
        }
        assert!(world.scores(long).len() < 29, "all at once");
        world.drain();
        world.assert_whole_answers();
        assert_eq!(world.scores(long), expected_scores(&scored(1, 30).prompt, 2));
        assert_eq!(world.scores(short), [], "nothing comes before the first token");
    }
}

#[test]
fn a_prompt_that_is_scored_is_computed_and_shared_but_not_taken_from_the_cache() {
    let mut world = World::new(1, 1, LIMITS);
    let first = world.offer(scored(1, 17));
    world.drain();
    let again = world.offer(scored(1, 17));
    world.drain();
    let plain = world.offer(Ask { prompt_logprobs: None, ..scored(1, 17) });
    world.drain();
    world.assert_whole_answers();
    assert_eq!([first, again, plain].map(|id| end(&world, id).cached_tokens), [0, 0, 16]);
}

#[test]
fn a_victim_is_not_told_twice() {
    for (depth, victim_at) in [(1, 2), (1, 3), (1, 6), (2, 3), (2, 4), (2, 5)] {
        let mut world = World::new(1, depth, NARROW);
        let script = Script::new("victims", move |view, calls| {
            let mut decision = generous(view, calls)?;
            if calls == victim_at {
                decision.victims = view.sequences.id.clone();
            }
            Ok(decision)
        });
        world.install(0, &Arc::new(script));
        world.offer(scored(1, 30));
        world.drain();
        world.assert_whole_answers();
        assert_eq!(world.journal.count("Preempted {"), 1);
    }
}

#[test]
fn scores_that_are_no_numbers_end_one_request() {
    let mut world = World::new(1, 1, LIMITS);
    let mut broken = scored(1, 9);
    broken.prompt[4] = NO_NUMBER;
    let (broken, whole) = (world.offer(Ask { may_fail: true, ..broken }), world.offer(scored(2, 9)));
    world.drain();
    world.assert_whole_answers();
    assert_eq!(world.failure(broken).map(|failure| failure.kind), Some(FailureKind::NotANumber));
    assert_eq!(world.tokens(whole).len(), 3);
}

#[test]
fn a_request_whose_scores_were_sent_is_not_served_again() {
    let mut world = World::new(1, 1, NARROW);
    let told = world.offer(scored(1, 30));
    world.run(4);
    assert!(!world.scores(told).is_empty() && world.tokens(told).is_empty());
    world.lose(0);
    world.drain();
    world.assert_answers();
    let failure = world.failure(told).expect("it failed");
    assert_eq!(failure.kind, FailureKind::ReplicaLost);
    assert!(failure.retry_after.is_some());
}

#[test]
fn a_reader_that_has_left_is_not_told() {
    let mut world = World::new(1, 1, NARROW);
    let left = world.offer(Ask { close_after: Some(1), ..scored(1, 30) });
    world.drain();
    world.assert_answers();
    assert_eq!(end(&world, left).reason, FinishReason::Cancelled);
    assert_eq!(world.scores(left).len(), 8, "one step's");
}
