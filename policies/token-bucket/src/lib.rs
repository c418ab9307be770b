//! Admission: requests and tokens a second for each tenant, by token buckets.
//!
//! Each tenant has two buckets (Turner, "New directions in communications", 1986), one of requests and one of tokens.
//! A request takes its prompt and all that it may generate; what it did not generate is given back when it ends, and
//! one that never ran costs nothing. Who is refused is told to the nanosecond when the same request will pass. The
//! levels outlive a swap: a new version does not refill anybody's bucket.

mod buckets;

use std::collections::BTreeMap;

use sluice_sdk::admission::{Admission, ArrivalView, Flow, FlowView, NextFlow, Rejection, Verdict};
use sluice_sdk::queue::{QueueBound, QueueConfig};
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Events, Policy, Request, choice, config, export_admission};

use buckets::{Buckets, Cost, Rate};

choice! {
    /// Who is served next of those that were let in.
    pub enum Order {
        /// The tenant with the fewest requests in flight for its weight.
        Fair = "fair",
        /// The most urgent, and among equals the one that has waited longest.
        FirstCome = "first-come",
    }
}

config! {
    pub struct Config {
        /// Requests a second of a tenant of weight 1; null for no limit.
        pub requests_per_s: Option<f64> = Some(10.0), 0.001..=1_000_000.0;
        /// Requests that it may send at once.
        pub request_burst: f64 = 50.0, 1.0..=1_000_000.0;
        /// Tokens a second of a tenant of weight 1, prompts and answers together; null for no limit.
        pub tokens_per_s: Option<f64> = Some(20_000.0), 0.001..=1_000_000_000.0;
        /// Tokens that it may ask for at once.
        pub token_burst: f64 = 200_000.0, 1.0..=1_000_000_000.0;
        /// Tenants that are remembered.
        pub max_tenants: u32 = 4096, 1..=16_384;
        /// Who is served next: the tenant with the fewest requests in flight for its weight, or the first to come.
        pub order: Order = Order::Fair;
        ..pub queue: QueueConfig;
    }
}

/// Requests whose reservations are remembered; those before them pay for what they make a second time.
const MAX_RESERVED: usize = 32_768;

pub struct TokenBucket {
    config: Config,
    bound: QueueBound,
    buckets: Buckets,
    /// New tokens that each request in the server has paid for.
    reserved: BTreeMap<u64, u32>,
}

export_admission!(TokenBucket);

impl Policy for TokenBucket {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "token-bucket/1";

    fn new(config: Config) -> Result<Self, String> {
        let bound = QueueBound::new(config.queue.clone());
        Ok(Self { buckets: full(&config), bound, reserved: BTreeMap::new(), config })
    }

    fn observe(&mut self, events: &Events) {
        self.bound.observe(events);
        for ended in events.finished.rows() {
            // Of several answers the first has paid for all, and each is set against it as it ends.
            let reserved = self.reserved.remove(&ended.id);
            let never_ran = ended.scheduled.is_none();
            let prompt = if never_ran { ended.prompt_tokens } else { 0 };
            let unused = f64::from(reserved.unwrap_or(0)) + f64::from(prompt) - f64::from(ended.generated_tokens);
            let requests = f64::from(u8::from(never_ran && reserved.is_some()));
            self.buckets.refund(ended.tenant, Cost { requests, tokens: unused });
        }
    }

    fn export_state(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.bound.export(&mut state);
        self.buckets.export(&mut state);
        for (request, reserved) in &self.reserved {
            state.u64(*request);
            state.u32(*reserved);
        }
        state.finish()
    }

    fn import_state(&mut self, bytes: &[u8]) -> bool {
        let (mut bound, mut buckets) = (QueueBound::new(self.config.queue.clone()), full(&self.config));
        let mut state = Reader::new(bytes);
        let read = bound.import(&mut state).and_then(|()| buckets.import(&mut state));
        let Some(reserved) = read.and_then(|()| reservations(&mut state)) else { return false };
        (self.bound, self.buckets, self.reserved) = (bound, buckets, reserved);
        true
    }
}

impl Admission for TokenBucket {
    fn admit(&mut self, view: &ArrivalView) -> Verdict {
        self.bound.watch(view);
        let (request, cost) = (&view.request, cost(&view.request));
        let wait = self.buckets.wait(request.tenant, request.tenant_weight, cost, view.now);
        if wait > 0 {
            let reason = "this key has used up its requests or tokens for now";
            return Verdict::Reject(Rejection::too_much(reason, wait));
        }
        let ahead = match self.config.order {
            Order::FirstCome => view.pool.queued_requests.into(),
            Order::Fair => view.ahead_by_weight(),
        };
        if let Some(rejection) = self.bound.refuse_behind(view, ahead, 1.0) {
            return Verdict::Reject(rejection);
        }
        self.buckets.take(request.tenant, request.tenant_weight, cost, view.now);
        self.reserve(request);
        Verdict::Accept(request.priority)
    }

    fn next(&mut self, view: &FlowView) -> NextFlow {
        match self.config.order {
            Order::FirstCome => view.serve(view.most_urgent()),
            Order::Fair => view.serve(fewest_in_flight(view)),
        }
    }
}

impl TokenBucket {
    fn reserve(&mut self, request: &Request) {
        self.reserved.insert(request.id, request.max_new_tokens);
        while self.reserved.len() > MAX_RESERVED {
            self.reserved.pop_first();
        }
    }
}

fn full(config: &Config) -> Buckets {
    let requests = Rate { per_second: config.requests_per_s, burst: config.request_burst };
    let tokens = Rate { per_second: config.tokens_per_s, burst: config.token_burst };
    Buckets::new(requests, tokens, config.max_tenants)
}

fn cost(request: &Request) -> Cost {
    let tokens = u64::from(request.prompt_tokens) + u64::from(request.max_new_tokens);
    Cost { requests: 1.0, tokens: tokens as f64 }
}

fn reservations(state: &mut Reader<'_>) -> Option<BTreeMap<u64, u32>> {
    let mut reserved = BTreeMap::new();
    while !state.is_empty() {
        reserved.insert(state.u64()?, state.u32()?);
    }
    Some(reserved)
}

fn fewest_in_flight(view: &FlowView) -> Option<Flow> {
    let by_weight = |flow: &Flow| f64::from(flow.in_flight_requests) / flow.weight.max(f64::MIN_POSITIVE);
    view.waiting().min_by(|a, b| {
        let fewest = by_weight(a).total_cmp(&by_weight(b));
        fewest.then(b.head_wait.cmp(&a.head_wait)).then(a.tenant.cmp(&b.tenant))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::{FinishReason, FinishedRequest, Nanos, SECOND};

    fn policy(config: Config) -> TokenBucket {
        TokenBucket::new(config).unwrap()
    }

    /// One request and 100 tokens a second.
    fn small() -> Config {
        Config {
            requests_per_s: Some(1.0),
            request_burst: 2.0,
            tokens_per_s: Some(100.0),
            token_burst: 1000.0,
            ..Config::default()
        }
    }

    fn arrival(id: u64, max_new_tokens: u32, now: Nanos) -> ArrivalView {
        let mut view = ArrivalView { now, ..ArrivalView::default() };
        let request = &mut view.request;
        (request.id, request.tenant, request.tenant_weight) = (id, 1, 1.0);
        (request.prompt_tokens, request.max_new_tokens) = (100, max_new_tokens);
        view
    }

    /// What the request is told: nothing, or how long to wait.
    fn admit(policy: &mut TokenBucket, id: u64, max_new_tokens: u32, now: Nanos) -> Option<Nanos> {
        match policy.admit(&arrival(id, max_new_tokens, now)) {
            Verdict::Accept(_) => None,
            Verdict::Reject(rejection) if rejection.caller => Some(rejection.retry_after),
            other => panic!("{other:?}"),
        }
    }

    fn end(policy: &mut TokenBucket, id: u64, scheduled: Option<Nanos>, generated_tokens: u32) {
        let mut events = Events::default();
        events.finished.push(FinishedRequest {
            number: 1,
            id,
            tenant: 1,
            replica: 0,
            reason: FinishReason::Stop,
            arrival: 0,
            scheduled,
            first_token: None,
            finished: 0,
            prompt_tokens: 100,
            cached_tokens: 0,
            generated_tokens,
        });
        policy.observe(&events);
    }

    #[test]
    fn beyond_the_requests_a_tenant_is_told_when_the_next_passes() {
        let mut policy = policy(small());
        assert_eq!(admit(&mut policy, 1, 10, 0), None);
        assert_eq!(admit(&mut policy, 2, 10, 0), None);
        assert_eq!(admit(&mut policy, 3, 10, SECOND / 4), Some(3 * SECOND / 4));
        assert_eq!(admit(&mut policy, 3, 10, SECOND), None);
    }

    #[test]
    fn what_was_not_generated_is_given_back() {
        let mut policy = policy(Config { request_burst: 99.0, ..small() });
        assert_eq!(admit(&mut policy, 1, 900, 0), None);
        assert_eq!(admit(&mut policy, 2, 400, 0), Some(5 * SECOND));
        end(&mut policy, 1, Some(1), 400);
        assert_eq!(admit(&mut policy, 2, 400, 0), None);
        end(&mut policy, 1, Some(1), 0);
        assert_eq!(admit(&mut policy, 3, 0, 0), Some(SECOND), "it is given back once");
    }

    #[test]
    fn several_answers_are_one_request_and_cost_what_all_of_them_made() {
        let mut policy = policy(Config { request_burst: 2.0, ..small() });
        // A prompt of 50 tokens, and two answers of up to 400.
        assert_eq!(admit(&mut policy, 1, 800, 0), None);
        end(&mut policy, 1, Some(1), 300);
        end(&mut policy, 2, Some(1), 400);
        assert_eq!(admit(&mut policy, 3, 200, 0), Some(SECOND), "200 tokens are left, and one request");
        assert_eq!(admit(&mut policy, 3, 100, 0), None);
    }

    #[test]
    fn a_request_that_never_ran_costs_nothing() {
        let mut policy = policy(Config { request_burst: 1.0, ..small() });
        assert_eq!(admit(&mut policy, 1, 900, 0), None);
        assert_eq!(admit(&mut policy, 2, 900, 0), Some(10 * SECOND));
        end(&mut policy, 1, None, 0);
        assert_eq!(admit(&mut policy, 2, 900, 0), None);
    }

    #[test]
    fn a_busy_server_takes_nothing_from_the_bucket() {
        let queue = QueueConfig { max_requests: 1, ..QueueConfig::default() };
        let mut policy = policy(Config { queue, ..small() });
        let mut busy = arrival(1, 900, 0);
        busy.pool.queued_requests = 1;
        assert!(matches!(policy.admit(&busy), Verdict::Reject(rejection) if !rejection.caller));
        assert_eq!(admit(&mut policy, 1, 900, 0), None);
    }

    #[test]
    fn reservations_are_bounded() {
        let mut policy = policy(Config { requests_per_s: None, tokens_per_s: None, ..Config::default() });
        (0..MAX_RESERVED as u64 + 5).for_each(|id| assert_eq!(admit(&mut policy, id, 1, 0), None));
        assert_eq!(policy.reserved.len(), MAX_RESERVED);
        assert!(policy.export_state().len() < 1 << 20);
    }

    #[test]
    fn a_swap_refills_nothing_and_forgets_no_reservation() {
        let mut old = policy(Config { request_burst: 9.0, ..small() });
        assert_eq!(admit(&mut old, 1, 900, 0), None);
        let mut new = policy(Config { request_burst: 9.0, ..small() });
        assert!(new.import_state(&old.export_state()));
        assert_eq!(admit(&mut new, 2, 100, 0), Some(2 * SECOND));
        end(&mut new, 1, Some(1), 0);
        assert_eq!(admit(&mut new, 2, 100, 0), None);
        assert!(!new.import_state(b"nonsense"));
    }

    fn flow(tenant: u64, weight: f64, in_flight_requests: u32, head_wait: u64) -> Flow {
        Flow {
            tenant,
            weight,
            queued_requests: 1,
            queued_tokens: 10,
            head_wait: Some(head_wait),
            head_prompt_tokens: None,
            head_max_new_tokens: None,
            head_priority: 0,
            in_flight_requests,
            served_tokens: 0,
        }
    }

    #[test]
    fn the_tenant_with_the_fewest_in_flight_for_its_weight_is_served_or_the_first_to_come() {
        let flows = [flow(1, 1.0, 3, 90), flow(2, 2.0, 4, 10), flow(3, 1.0, 2, 5)];
        let view = FlowView { flows: flows.into_iter().collect(), ..FlowView::default() };
        assert_eq!(policy(Config::default()).next(&view), NextFlow::Serve(2));
        let first_come = Config { order: Order::FirstCome, ..Config::default() };
        assert_eq!(policy(first_come).next(&view), NextFlow::Serve(1));
        assert_eq!(policy(Config::default()).next(&FlowView::default()), NextFlow::HoldUntil(SECOND));
    }
}
