//! Ten times what a server can serve: what is let in starts in time and is answered, and the rest is told at once.
//!
//! Over `step-time`, which takes what it can run. A batching policy that asks for more than the cache holds lets
//! requests wait on the replica, out of sight of the queue's bound.

use bounded_queue::BoundedQueue;
use fair_share::FairShare;
use priority::Priority;
use step_time::StepTime;
use token_bucket::TokenBucket;

use crate::arrivals::{Arrival, of_tenant, poisson, together};
use crate::card::{Card, LARGE, SMALL};
use crate::outcome::quantiles;
use crate::server::{Admission, Server, admission, batching};

/// Requests a second: the small card serves about 2.5 of them, the large one 14.
const SMALL_OVERLOAD: f64 = 25.0;
const LARGE_OVERLOAD: f64 = 140.0;
/// The bound on the wait that the policies are configured with, in seconds: their default.
const MAX_WAIT: f64 = 10.0;
const MAX_REQUESTS: u32 = 1024;

/// One tenant sends nine tenths of it, three others, each more than its share, the rest.
fn tenants(per_second: f64, seconds: u64) -> Vec<Arrival> {
    let light = (2..5).map(|tenant| of_tenant(tenant, poisson(tenant, per_second / 30.0, seconds)));
    together(light.chain([poisson(1, per_second * 0.9, seconds)]))
}

/// Serves it over `step-time`. The 99th percentile of those that were let in waits at most so many seconds.
#[allow(clippy::print_stdout, reason = "numbers for whoever asks for them with --nocapture")]
fn check(card: Card, name: &str, admission: &Admission, arrivals: &[Arrival], longest: f64) {
    let outcome = Server::new(card, admission, &batching::<StepTime>("{}")).serve(arrivals);
    let [p50, p99, last] = quantiles(outcome.waits(), [0.5, 0.99, 1.0]);
    let (answered, refused, most) = (outcome.completed().count(), outcome.rejected, outcome.most_queued);
    println!(
        "{}, {name}: {answered} answered, {refused} refused, {} failed, {most} waited at most, for {p50:.1} s p50, \
         {p99:.1} s p99, {last:.1} s the longest",
        card.name,
        outcome.failed()
    );
    assert_eq!(outcome.failed(), 0, "{name}: who was let in was answered");
    assert!(most <= MAX_REQUESTS, "{name}: {most} requests waited");
    assert!(p99 <= longest, "{name}: the 99th percentile waited {p99} s");
    assert!(refused as usize > answered * 5, "{name}: it was overloaded");
}

#[test]
fn at_ten_times_the_capacity_nobody_who_was_let_in_waits_too_long_or_fails() {
    let load = tenants(SMALL_OVERLOAD, 120);
    check(SMALL, "bounded-queue", &admission::<BoundedQueue>("{}"), &load, MAX_WAIT);
    check(SMALL, "priority", &admission::<Priority>("{}"), &load, MAX_WAIT);
    let unlimited = r#"{"requests_per_s": null, "tokens_per_s": null, "order": "first-come"}"#;
    check(SMALL, "token-bucket", &admission::<TokenBucket>(unlimited), &load, MAX_WAIT);
    let alone = poisson(9, SMALL_OVERLOAD, 120);
    check(SMALL, "bounded-queue, one tenant", &admission::<BoundedQueue>("{}"), &alone, MAX_WAIT);
}

/// When a fair turn comes depends on what others will send, so nobody can say it to a few seconds: half as much again
/// is allowed for, which is half of the server's queue time-out.
#[test]
fn at_ten_times_the_capacity_fair_shares_come_in_time_too() {
    let unlimited = r#"{"requests_per_s": null, "tokens_per_s": null}"#;
    let (small, large) = (tenants(SMALL_OVERLOAD, 120), tenants(LARGE_OVERLOAD, 60));
    for (name, fair) in
        [("fair-share", admission::<FairShare>("{}")), ("token-bucket", admission::<TokenBucket>(unlimited))]
    {
        check(SMALL, name, &fair, &small, 1.5 * MAX_WAIT);
        check(LARGE, name, &fair, &large, 1.5 * MAX_WAIT);
    }
}
