//! Routing: the replica that has computed most of the prompt already, unless it is overloaded.
//!
//! Where a request lands decides where its prefix is cached, so a conversation that stays in one place computes only
//! its last turn. Three published routers agree on the terms: SGLang leaves its cached replica when loads drift apart
//! (Zheng et al., arXiv 2312.07104), Preble follows the cache where it holds most of the prompt and explores by load
//! where it does not (Srivatsa et al., arXiv 2407.00023), and Mooncake's conductor compares the time to the first
//! token: what waits to be computed there, and what is left of the prompt (Qin et al., arXiv 2407.00079).

use sluice_sdk::routing::{Choice, Replica, Route, Routing, View};
use sluice_sdk::{MILLISECOND, Policy, config, export_routing};

config! {
    pub struct Config {
        /// The share of the prompt that some replica must have cached for the cache to decide; below it, load does.
        pub min_cached_share: f64 = 0.5, 0.0..=1.0;
        /// A replica is overloaded with more requests in flight than this many times those of the least loaded,
        pub overload_ratio: f64 = 1.5, 1.0..=1000.0;
        /// and so many more.
        pub overload_requests: u32 = 8, 0..=65_536;
        /// How long a request is held while no replica is ready, in milliseconds.
        pub hold_ms: u64 = 10, 1..=1000;
    }
}

pub struct PrefixAffinity(Config);

export_routing!(PrefixAffinity);

impl Policy for PrefixAffinity {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Routing for PrefixAffinity {
    /// Overloaded replicas come last. Of the others, the one that has the least to compute before the first token, and
    /// among equals the least loaded.
    fn rank(&mut self, view: &View) -> Route {
        let Some(bound) = view.ready().map(|replica| replica.in_flight_requests).min().map(|least| self.bound(least))
        else {
            return Route::HoldUntil(view.now.saturating_add(self.0.hold_ms * MILLISECOND));
        };
        let by_cache = self.cache_decides(view);
        let mut ranked: Vec<_> = view
            .ready()
            .map(|replica| {
                let load = replica.outstanding_with(&view.request);
                let cost = if by_cache { before_first_token(&replica, view.request.prompt_tokens) } else { load };
                let overloaded = f64::from(replica.in_flight_requests) > bound;
                (overloaded, cost, load, replica.in_flight_requests, replica.id)
            })
            .collect();
        ranked.sort_unstable();
        let choices = ranked.into_iter().map(|(_, cost, _, _, replica)| Choice { replica, cost: cost as f64 });
        Route::Ranked(choices.collect())
    }
}

impl PrefixAffinity {
    /// Requests in flight beyond which a replica is overloaded, where the least loaded has so many.
    fn bound(&self, least: u32) -> f64 {
        f64::from(least) * self.0.overload_ratio + f64::from(self.0.overload_requests)
    }

    fn cache_decides(&self, view: &View) -> bool {
        let most = view.ready().map(|replica| cached(&replica, view.request.prompt_tokens)).max().unwrap_or(0);
        most > 0 && f64::from(most) >= f64::from(view.request.prompt_tokens) * self.0.min_cached_share
    }
}

/// Tokens of prompts that are computed there before this one has its first token.
fn before_first_token(replica: &Replica, prompt_tokens: u32) -> u64 {
    let left = prompt_tokens - cached(replica, prompt_tokens);
    replica.waiting_uncached_tokens.unwrap_or(0).saturating_add(left.into())
}

fn cached(replica: &Replica, prompt_tokens: u32) -> u32 {
    replica.cached_prefix_tokens.unwrap_or(0).min(prompt_tokens)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::routing::ReplicaState;

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

    /// The order for a prompt of 100 tokens.
    fn check(replicas: impl IntoIterator<Item = Replica>, expected: &[u32]) {
        let mut view = View { now: 5, replicas: replicas.into_iter().collect(), ..View::default() };
        view.request.prompt_tokens = 100;
        let ids: Vec<u32> = match PrefixAffinity(Config::default()).rank(&view) {
            Route::Ranked(choices) => choices.iter().map(|choice| choice.replica).collect(),
            Route::HoldUntil(until) => {
                assert_eq!(until, 5 + 10 * MILLISECOND);
                Vec::new()
            }
        };
        assert_eq!(ids, expected);
    }

    #[test]
    fn the_longest_cached_prefix_wins_over_a_lighter_load() {
        check([replica(0, 1, 50, 0), replica(1, 5, 9000, 96), replica(2, 1, 40, 64)], &[1, 2, 0]);
    }

    #[test]
    fn prompts_that_wait_to_be_computed_count_as_much_as_what_is_left_of_this_one() {
        let busy = Replica { waiting_uncached_tokens: Some(97), ..replica(0, 1, 0, 96) };
        check([busy, replica(1, 1, 0, 0)], &[1, 0]);
        let busy = Replica { waiting_uncached_tokens: Some(95), ..replica(0, 1, 0, 96) };
        check([busy, replica(1, 1, 0, 0)], &[0, 1]);
    }

    #[test]
    fn an_overloaded_replica_comes_last_whatever_it_has_cached() {
        check([replica(0, 9, 0, 100), replica(1, 0, 0, 0)], &[1, 0]);
        check([replica(0, 8, 0, 100), replica(1, 0, 0, 0)], &[0, 1]);
        check([replica(0, 38, 0, 100), replica(1, 20, 0, 0)], &[0, 1]);
        check([replica(0, 39, 0, 100), replica(1, 20, 0, 0)], &[1, 0]);
    }

    #[test]
    fn a_prefix_that_is_a_small_part_of_the_prompt_does_not_decide() {
        check([replica(0, 1, 900, 49), replica(1, 1, 50, 0)], &[1, 0]);
        check([replica(0, 1, 900, 50), replica(1, 1, 50, 0)], &[0, 1]);
    }

    #[test]
    fn among_equals_the_least_loaded_and_then_the_first() {
        check([replica(2, 1, 70, 80), replica(1, 1, 60, 80), replica(0, 1, 60, 80)], &[0, 1, 2]);
        check([replica(2, 2, 60, 0), replica(1, 1, 60, 0), replica(0, 1, 90, 0)], &[1, 2, 0]);
    }

    #[test]
    fn a_cache_cannot_hold_more_than_the_prompt() {
        check([replica(0, 1, 50, u32::MAX), replica(1, 1, 10, 100)], &[1, 0]);
    }

    #[test]
    fn only_ready_replicas_are_ranked_and_without_one_the_request_is_held() {
        let lost = Replica { state: ReplicaState::Lost, ..replica(0, 0, 0, 100) };
        check([lost, replica(2, 9, 900, 0)], &[2]);
        check([lost], &[]);
        check([], &[]);
    }
}
