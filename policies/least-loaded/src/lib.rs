//! Routing: the replica with the least outstanding work, once it has taken the request.

use sluice_sdk::routing::{Choice, Route, Routing, View};
use sluice_sdk::{MILLISECOND, Policy, config, export_routing};

config! {
    pub struct Config {
        /// How long a request is held while no replica is ready, in milliseconds.
        pub hold_ms: u64 = 10, 1..=1000;
    }
}

pub struct LeastLoaded(Config);

export_routing!(LeastLoaded);

impl Policy for LeastLoaded {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Routing for LeastLoaded {
    /// Tokens count, not requests: those in flight, and those of the prompt that no prefix cache holds. Among equals
    /// the one with fewer requests, then the first, whose cache so stays warm.
    fn rank(&mut self, view: &View) -> Route {
        let mut ready: Vec<_> = view
            .ready()
            .map(|replica| (replica.outstanding_with(&view.request), replica.in_flight_requests, replica.id))
            .collect();
        if ready.is_empty() {
            return Route::HoldUntil(view.now.saturating_add(self.0.hold_ms * MILLISECOND));
        }
        ready.sort_unstable();
        Route::Ranked(ready.into_iter().map(|(tokens, _, replica)| Choice { replica, cost: tokens as f64 }).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::routing::{Replica, ReplicaState};

    fn replica(id: u32, in_flight_requests: u32, in_flight_tokens: u64, cached_prefix_tokens: u32) -> Replica {
        Replica {
            id,
            state: ReplicaState::Ready,
            in_flight_requests,
            in_flight_tokens,
            running: None,
            waiting: None,
            waiting_uncached_tokens: None,
            kv_used: None,
            kv_capacity_tokens: None,
            tokens_per_second: None,
            ttft_average: None,
            tpot_average: None,
            error_rate: None,
            cached_prefix_tokens: Some(cached_prefix_tokens),
            age: None,
        }
    }

    fn check(replicas: impl IntoIterator<Item = Replica>, expected: &[u32]) {
        let mut view = View { now: 5, replicas: replicas.into_iter().collect(), ..View::default() };
        view.request.prompt_tokens = 100;
        let ids = match LeastLoaded(Config::default()).rank(&view) {
            Route::Ranked(choices) => choices.iter().map(|choice| choice.replica).collect(),
            Route::HoldUntil(until) => {
                assert_eq!(until, 5 + 10 * MILLISECOND);
                Vec::new()
            }
        };
        assert_eq!(ids, expected);
    }

    #[test]
    fn fewer_tokens_in_flight_come_first() {
        check([replica(0, 1, 500, 0), replica(1, 9, 20, 0), replica(2, 1, 300, 0)], &[1, 2, 0]);
    }

    #[test]
    fn a_cached_prefix_counts_as_work_that_is_done() {
        check([replica(0, 1, 50, 0), replica(1, 1, 90, 80)], &[1, 0]);
        check([replica(0, 1, 50, 0), replica(1, 1, 190, 80)], &[0, 1]);
    }

    #[test]
    fn among_equals_fewer_requests_then_the_first() {
        check([replica(3, 2, 0, 0), replica(2, 2, 0, 0), replica(1, 1, 0, 0)], &[1, 2, 3]);
    }

    #[test]
    fn only_ready_replicas_are_ranked_and_without_one_the_request_is_held() {
        let lost = Replica { state: ReplicaState::Lost, ..replica(0, 0, 0, 0) };
        let draining = Replica { state: ReplicaState::Draining, ..replica(1, 0, 0, 0) };
        check([lost, replica(2, 9, 900, 0), draining], &[2]);
        check([lost, draining], &[]);
        check([], &[]);
    }
}
