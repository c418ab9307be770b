//! Ten times what a server can serve: what is let in starts in time and is answered, and the rest is told at once.
//!
//! Over `step-time`, which takes what it can run. A batching policy that asks for more than the cache holds lets
//! requests wait on the replica, where no order of the queue and no bound on it reaches them: what holds then is less.

use bounded_queue::BoundedQueue;
use fair_share::FairShare;
use first_come::FirstCome;
use priority::Priority;
use sluice_core::SECOND;
use sluice_core::view::EngineLimits;
use step_time::StepTime;
use token_bucket::TokenBucket;

use crate::arrivals::{Arrival, of_tenant, poisson, together};
use crate::card::{Card, LARGE, SMALL};
use crate::outcome::{Outcome, quantiles};
use crate::server::{Admission, Batching, Server, admission, batching};

/// Requests a second: the small card serves about 2.5 of them, the large one 14.
const SMALL_OVERLOAD: f64 = 25.0;
const LARGE_OVERLOAD: f64 = 140.0;
/// The bound on the wait that the policies are configured with, in seconds: their default.
const MAX_WAIT: f64 = 10.0;
const MAX_REQUESTS: u32 = 1024;
/// After so many seconds without a turn the server gives a request up.
const QUEUE_TIMEOUT: f64 = 30.0;
/// Token buckets that never run out.
const UNLIMITED: &str = r#"{"requests_per_s": null, "tokens_per_s": null}"#;
const UNLIMITED_FIRST_COME: &str = r#"{"requests_per_s": null, "tokens_per_s": null, "order": "first-come"}"#;

/// The small card with a third of its blocks: they hold one sequence of the greatest length, and little beside it.
const CRAMPED: Card =
    Card { name: "24 GB, few blocks", limits: EngineLimits { blocks_total: 600, ..SMALL.limits }, ..SMALL };

/// One tenant sends nine tenths of it, three others, each more than its share, the rest.
fn tenants(per_second: f64, seconds: u64) -> Vec<Arrival> {
    let light = (2..5).map(|tenant| of_tenant(tenant, poisson(tenant, per_second / 30.0, seconds)));
    together(light.chain([poisson(1, per_second * 0.9, seconds)]))
}

/// Priorities -1, 0 and 1 in turn, whoever sends.
fn of_all_priorities(arrivals: Vec<Arrival>) -> Vec<Arrival> {
    (-1..=1).cycle().zip(arrivals).map(|(priority, arrival)| Arrival { priority, ..arrival }).collect()
}

/// How long those of that priority waited who were let in, at the 99th percentile, in seconds.
fn waited(outcome: &Outcome, arrivals: &[Arrival], priority: i32) -> f64 {
    let of_it = outcome.finished.iter().filter(|it| arrivals[it.id.0 as usize].priority == priority);
    let waits = of_it.filter_map(|it| it.scheduled.map(|at| (at - it.arrival) as f64 / SECOND as f64));
    let [p99] = quantiles(waits.collect(), [0.99]);
    p99
}

/// Serves it over `step-time`. The 99th percentile of those that were let in waits at most so many seconds.
fn check(card: Card, name: &str, admission: &Admission, arrivals: &[Arrival], longest: f64) {
    let outcome = overload(card, name, admission, &batching::<StepTime>("{}"), arrivals);
    let [p99] = quantiles(outcome.waits(), [0.99]);
    assert_eq!(outcome.failed(), 0, "{name}: who was let in was answered");
    assert!(p99 <= longest, "{name}: the 99th percentile waited {p99} s");
}

/// What holds whatever the policies: the queue is bounded, and most of what was offered was refused at once.
#[allow(clippy::print_stdout, reason = "numbers for whoever asks for them with --nocapture")]
fn overload(card: Card, name: &str, admission: &Admission, batching: &Batching, arrivals: &[Arrival]) -> Outcome {
    let outcome = Server::new(card, admission, batching).serve(arrivals);
    let [p50, p99, last] = quantiles(outcome.waits(), [0.5, 0.99, 1.0]);
    let (answered, refused, most) = (outcome.completed().count(), outcome.rejected, outcome.most_queued);
    println!(
        "{}, {name}: {answered} answered, {refused} refused, {} failed, {most} waited at most, for {p50:.1} s p50, \
         {p99:.1} s p99, {last:.1} s the longest",
        card.name,
        outcome.failed()
    );
    assert!(most <= MAX_REQUESTS, "{name}: {most} requests waited");
    assert!(refused as usize > answered * 5, "{name}: it was overloaded");
    outcome
}

#[test]
fn at_ten_times_the_capacity_nobody_who_was_let_in_waits_too_long_or_fails() {
    let load = tenants(SMALL_OVERLOAD, 120);
    check(SMALL, "bounded-queue", &admission::<BoundedQueue>("{}"), &load, MAX_WAIT);
    check(SMALL, "priority", &admission::<Priority>("{}"), &load, MAX_WAIT);
    check(SMALL, "token-bucket", &admission::<TokenBucket>(UNLIMITED_FIRST_COME), &load, MAX_WAIT);
    let alone = poisson(9, SMALL_OVERLOAD, 120);
    check(SMALL, "bounded-queue, one tenant", &admission::<BoundedQueue>("{}"), &alone, MAX_WAIT);
}

/// When a fair turn comes depends on what others will send, so nobody can say it to a few seconds: half as much again
/// is allowed for, which is half of the server's queue time-out.
#[test]
fn at_ten_times_the_capacity_fair_shares_come_in_time_too() {
    let (small, large) = (tenants(SMALL_OVERLOAD, 120), tenants(LARGE_OVERLOAD, 60));
    for (name, fair) in
        [("fair-share", admission::<FairShare>("{}")), ("token-bucket", admission::<TokenBucket>(UNLIMITED))]
    {
        check(SMALL, name, &fair, &small, 1.5 * MAX_WAIT);
        check(LARGE, name, &fair, &large, 1.5 * MAX_WAIT);
    }
}

/// The bound on the wait is for the most urgent. Whoever is less urgent is passed by those that come later, which no
/// one can foresee on arrival: what is promised to them is that hardly one is let in for nothing.
#[test]
fn at_ten_times_the_capacity_the_most_urgent_wait_no_longer_than_the_bound() {
    let load = of_all_priorities(tenants(SMALL_OVERLOAD, 120));
    for (name, admission, longest) in [
        ("bounded-queue, priorities", admission::<BoundedQueue>("{}"), MAX_WAIT),
        ("priority, priorities", admission::<Priority>("{}"), MAX_WAIT),
        ("token-bucket, priorities", admission::<TokenBucket>(UNLIMITED_FIRST_COME), MAX_WAIT),
        ("fair-share, priorities", admission::<FairShare>("{}"), 1.5 * MAX_WAIT),
        ("token-bucket, fair, priorities", admission::<TokenBucket>(UNLIMITED), 1.5 * MAX_WAIT),
    ] {
        let outcome = overload(SMALL, name, &admission, &batching::<StepTime>("{}"), &load);
        let urgent = waited(&outcome, &load, 1);
        assert!(urgent <= longest, "{name}: the 99th percentile of the most urgent waited {urgent} s");
        assert!(outcome.failed() * 20 <= outcome.finished.len(), "{name}: {} failed", outcome.failed());
    }
}

/// `first-come` asks for 64 sequences, whatever the cache holds. Those that do not fit wait on the replica and not in
/// the queue, so the bound on the wait does not hold here, and some are let in for nothing. What holds is the time-out
/// of the server, and that it goes on answering.
#[test]
fn at_ten_times_the_capacity_a_batch_beyond_the_cache_waits_up_to_the_time_out_and_no_longer() {
    let load = of_all_priorities(tenants(SMALL_OVERLOAD, 120));
    for (name, admission) in [
        ("bounded-queue over first-come", admission::<BoundedQueue>("{}")),
        ("priority over first-come", admission::<Priority>("{}")),
        ("token-bucket over first-come", admission::<TokenBucket>(UNLIMITED)),
        ("fair-share over first-come", admission::<FairShare>("{}")),
    ] {
        let outcome = overload(CRAMPED, name, &admission, &batching::<FirstCome>("{}"), &load);
        let [longest] = quantiles(outcome.waits(), [1.0]);
        assert!(outcome.preempted > 0, "{name}: the cache was too small");
        // A step may pass between the time-out and the look at it.
        assert!(longest <= QUEUE_TIMEOUT + 1.0, "{name}: somebody waited {longest} s");
        assert!(outcome.completed().count() > outcome.finished.len() / 2, "{name}: {} failed", outcome.failed());
    }
}
