//! Routing: the better of two replicas drawn at random.
//!
//! Reports of load are always a little old, and whoever picks the best of all sends everyone to the same replica
//! until the next report. Two random choices spread nearly as well and never herd (Mitzenmacher, 2001).

use sluice_sdk::routing::{Choice, Replica, Route, Routing, View};
use sluice_sdk::{MILLISECOND, Policy, config, export_routing};

config! {
    pub struct Config {
        /// How long a request is held while no replica is ready, in milliseconds.
        pub hold_ms: u64 = 10, 1..=1000;
    }
}

pub struct TwoChoices(Config);

export_routing!(TwoChoices);

impl Policy for TwoChoices {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Routing for TwoChoices {
    /// The two that were drawn come first, the better one before the other; the rest follow in a random rotation,
    /// for when both are full.
    fn rank(&mut self, view: &View) -> Route {
        let mut drawn: Vec<Replica> = view.ready().collect();
        if drawn.is_empty() {
            return Route::HoldUntil(view.now.saturating_add(self.0.hold_ms * MILLISECOND));
        }
        draw_two(&mut drawn, view.random);
        let cost = |replica: &Replica| replica.outstanding_with(&view.request);
        let two = drawn.len().min(2);
        drawn[..two].sort_by_key(cost);
        Route::Ranked(drawn.iter().map(|it| Choice { replica: it.id, cost: cost(it) as f64 }).collect())
    }
}

/// Rotates a random element to the front and swaps another random one behind it.
fn draw_two(replicas: &mut [Replica], random: u64) {
    let count = replicas.len() as u64;
    replicas.rotate_left((random % count) as usize);
    if count > 2 {
        let second = 1 + (random / count) % (count - 1);
        replicas.swap(1, second as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::routing::ReplicaState;

    fn replica(id: u32, in_flight_tokens: u64) -> Replica {
        Replica {
            id,
            state: ReplicaState::Ready,
            in_flight_requests: 0,
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
            cached_prefix_tokens: None,
            age: None,
        }
    }

    fn rank(replicas: &[Replica], random: u64) -> Vec<u32> {
        let view = View { now: 5, random, replicas: replicas.iter().copied().collect(), ..View::default() };
        match TwoChoices(Config::default()).rank(&view) {
            Route::Ranked(choices) => choices.iter().map(|choice| choice.replica).collect(),
            Route::HoldUntil(until) => {
                assert_eq!(until, 5 + 10 * MILLISECOND);
                Vec::new()
            }
        }
    }

    #[test]
    fn every_pair_is_drawn_equally_often_and_the_better_one_leads() {
        let replicas = [replica(0, 40), replica(1, 10), replica(2, 30), replica(3, 20)];
        let mut pairs = std::collections::BTreeMap::<_, u32>::new();
        for random in 0..1200 {
            let ranked = rank(&replicas, random);
            let load = |id: u32| replicas[id as usize].in_flight_tokens;
            assert!(load(ranked[0]) < load(ranked[1]));
            *pairs.entry((ranked[0].min(ranked[1]), ranked[0].max(ranked[1]))).or_default() += 1;
        }
        assert_eq!(pairs.into_values().collect::<Vec<_>>(), [200; 6]);
    }

    #[test]
    fn every_ready_replica_is_ranked_once() {
        let replicas: Vec<_> = (0..5).map(|id| replica(id, 0)).collect();
        for random in [0, 1, 7, 12_345, u64::MAX] {
            let mut ranked = rank(&replicas, random);
            ranked.sort_unstable();
            assert_eq!(ranked, [0, 1, 2, 3, 4]);
        }
    }

    #[test]
    fn a_cached_prefix_counts_as_work_that_is_done() {
        let cached = Replica { cached_prefix_tokens: Some(60), ..replica(1, 20) };
        let mut view = View { replicas: [replica(0, 0), cached].into_iter().collect(), ..View::default() };
        view.request.prompt_tokens = 64;
        let Route::Ranked(choices) = TwoChoices(Config::default()).rank(&view) else { panic!("held") };
        assert_eq!(choices, [Choice { replica: 1, cost: 24.0 }, Choice { replica: 0, cost: 64.0 }]);
    }

    #[test]
    fn without_a_ready_replica_the_request_is_held() {
        assert!(rank(&[], 1).is_empty());
        assert!(rank(&[Replica { state: ReplicaState::Lost, ..replica(0, 0) }], 1).is_empty());
    }
}
