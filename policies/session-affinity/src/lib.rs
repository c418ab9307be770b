//! Routing: a session stays with its replica, by rendezvous hashing with bounded loads.
//!
//! Every replica draws a number from the session and itself, and the highest draw has it (Thaler and Ravishankar,
//! "Using name-based mappings to increase hit rates", 1998). Nothing is remembered, so nothing is lost in a swap or a
//! restart, and when a replica comes or goes only the sessions that draw it move. No replica is given more than its
//! share of the load and a little more; what would exceed it goes to the next draw (Mirrokni, Thorup and
//! Zadimoghaddam, "Consistent hashing with bounded loads", 2018).

use std::cmp::Reverse;

use sluice_sdk::routing::{Choice, Replica, Route, Routing, View};
use sluice_sdk::{MILLISECOND, Policy, Request, choice, config, export_routing};

choice! {
    /// What a request without a session follows.
    pub enum Fallback {
        /// Its tenant, as if that were its session.
        Tenant = "tenant",
        /// The least outstanding work.
        LeastLoaded = "least-loaded",
    }
}

config! {
    pub struct Config {
        /// What a request without a session follows: its tenant, or the load.
        pub without_session: Fallback = Fallback::LeastLoaded;
        /// A replica is full at so many times the mean of the requests in flight.
        pub load_factor: f64 = 1.25, 1.0..=1000.0;
        /// Below so many requests in flight a replica is never full: where there is little load, balance is worth
        /// less than a warm cache.
        pub min_requests: u32 = 4, 0..=65_536;
        /// How long a request is held while no replica is ready, in milliseconds.
        pub hold_ms: u64 = 10, 1..=1000;
    }
}

pub struct SessionAffinity(Config);

export_routing!(SessionAffinity);

impl Policy for SessionAffinity {
    type Config = Config;

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self(config))
    }
}

impl Routing for SessionAffinity {
    /// In the order of the draws, those that are full after the others. A cost is a place in that order.
    fn rank(&mut self, view: &View) -> Route {
        let mut ready: Vec<Replica> = view.ready().collect();
        if ready.is_empty() {
            return Route::HoldUntil(view.now.saturating_add(self.0.hold_ms * MILLISECOND));
        }
        match self.key(&view.request) {
            Some(key) => {
                let bound = self.bound(&ready);
                let full = |replica: &Replica| f64::from(replica.in_flight_requests) >= bound;
                ready.sort_unstable_by_key(|it| (full(it), Reverse(draw(key, it.id)), it.id));
            }
            None => ready.sort_unstable_by_key(|it| (it.outstanding_with(&view.request), it.in_flight_requests, it.id)),
        }
        let choices = (0..).zip(&ready).map(|(place, it)| Choice { replica: it.id, cost: f64::from(place) });
        Route::Ranked(choices.collect())
    }
}

impl SessionAffinity {
    /// What decides where the request goes, or nothing where load does. A session belongs to its tenant.
    fn key(&self, request: &Request) -> Option<u64> {
        match (request.session, self.0.without_session) {
            (Some(session), _) => Some(mix(request.tenant).wrapping_add(session)),
            (None, Fallback::Tenant) => Some(mix(request.tenant)),
            (None, Fallback::LeastLoaded) => None,
        }
    }

    /// So many requests in flight are a replica's share of the load, this request included.
    fn bound(&self, ready: &[Replica]) -> f64 {
        let in_flight: f64 = ready.iter().map(|replica| f64::from(replica.in_flight_requests)).sum();
        let mean = (in_flight + 1.0) / ready.len() as f64;
        (mean * self.0.load_factor).ceil().max(self.0.min_requests.into())
    }
}

/// A replica's number for a key.
fn draw(key: u64, replica: u32) -> u64 {
    mix(mix(key) ^ u64::from(replica))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every bit of the result depends on every bit.
fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::routing::ReplicaState;

    fn replica(id: u32, in_flight_requests: u32) -> Replica {
        Replica {
            id,
            state: ReplicaState::Ready,
            in_flight_requests,
            in_flight_tokens: u64::from(in_flight_requests) * 10,
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

    fn rank(config: Config, tenant: u64, session: Option<u64>, replicas: &[Replica]) -> Vec<u32> {
        let mut view = View { now: 5, replicas: replicas.iter().copied().collect(), ..View::default() };
        (view.request.tenant, view.request.session) = (tenant, session);
        match SessionAffinity(config).rank(&view) {
            Route::Ranked(choices) => choices.iter().map(|choice| choice.replica).collect(),
            Route::HoldUntil(until) => {
                assert_eq!(until, 5 + 10 * MILLISECOND);
                Vec::new()
            }
        }
    }

    fn home(session: u64, replicas: &[Replica]) -> u32 {
        rank(Config::default(), 1, Some(session), replicas)[0]
    }

    #[test]
    fn sessions_spread_evenly() {
        let replicas: Vec<_> = (0..5).map(|id| replica(id, 0)).collect();
        let mut counts = [0_u32; 5];
        (0..10_000).for_each(|session| counts[home(session, &replicas) as usize] += 1);
        assert!(counts.iter().all(|count| (1850..2150).contains(count)), "{counts:?}");
    }

    #[test]
    fn when_a_replica_goes_only_its_own_sessions_move() {
        let all: Vec<_> = (0..5).map(|id| replica(id, 0)).collect();
        let lost: Vec<_> = all.iter().map(|it| if it.id == 2 { gone(*it) } else { *it }).collect();
        for session in 0..1000 {
            let (before, after) = (home(session, &all), home(session, &lost));
            assert!(after != 2 && (before == 2 || before == after), "session {session}: {before}, then {after}");
            assert_eq!(after, *rank(Config::default(), 1, Some(session), &all).iter().find(|id| **id != 2).unwrap());
        }
    }

    fn gone(replica: Replica) -> Replica {
        Replica { state: ReplicaState::Lost, ..replica }
    }

    #[test]
    fn a_full_replica_gives_way_to_the_next_draw() {
        let idle = [replica(0, 4), replica(1, 4), replica(2, 4)];
        let order = rank(Config::default(), 1, Some(7), &idle);
        let mut busy = idle;
        busy[order[0] as usize].in_flight_requests = 12;
        assert_eq!(rank(Config::default(), 1, Some(7), &busy), [order[1], order[2], order[0]]);
    }

    #[test]
    fn where_there_is_little_load_nobody_is_full() {
        let idle = [replica(0, 0), replica(1, 0)];
        let first = home(7, &idle);
        let mut busy = idle;
        busy[first as usize].in_flight_requests = 3;
        assert_eq!(home(7, &busy), first);
        busy[first as usize].in_flight_requests = 4;
        assert_ne!(home(7, &busy), first);
    }

    #[test]
    fn no_replica_is_given_more_than_its_share_by_few_sessions() {
        let mut replicas: Vec<_> = (0..4).map(|id| replica(id, 0)).collect();
        for _ in 0..100 {
            let target = home(7, &replicas);
            replicas[target as usize].in_flight_requests += 1;
        }
        let most = replicas.iter().map(|it| it.in_flight_requests).max();
        assert!(most <= Some(32), "{most:?} of 100 on four replicas");
    }

    #[test]
    fn the_same_session_of_another_tenant_is_another_session() {
        let replicas: Vec<_> = (0..5).map(|id| replica(id, 0)).collect();
        let home = |tenant, session| rank(Config::default(), tenant, Some(session), &replicas)[0];
        let same = (0..1000).filter(|&session| home(1, session) == home(2, session)).count();
        assert!((150..250).contains(&same), "{same} of 1000 by chance");
    }

    #[test]
    fn without_a_session_load_or_the_tenant_decides() {
        let replicas = [replica(0, 3), replica(1, 1), replica(2, 2)];
        assert_eq!(rank(Config::default(), 1, None, &replicas), [1, 2, 0]);
        let by_tenant = Config { without_session: Fallback::Tenant, ..Config::default() };
        let homes = |tenant| rank(by_tenant.clone(), tenant, None, &replicas)[0];
        assert_eq!(homes(9), homes(9));
        assert!((0..20).any(|tenant| homes(tenant) != homes(0)));
    }

    #[test]
    fn without_a_ready_replica_the_request_is_held() {
        assert!(rank(Config::default(), 1, Some(1), &[]).is_empty());
        assert!(rank(Config::default(), 1, Some(1), &[gone(replica(0, 0))]).is_empty());
    }
}
