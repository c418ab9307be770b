//! Admission: virtual token counters, so that tenants share the service by weight, whoever sends more.
//!
//! Sheng et al., "Fairness in Serving Large Language Models", arXiv 2401.00588: the waiting tenant with the smallest
//! counter is served next; its prompt is charged when it is dispatched, its output, which weighs more, when it ends.
//! Who returns after an absence is lifted to those who wait, so that idling earns no credit.

mod accounts;

use sluice_sdk::admission::{Admission, ArrivalView, FlowView, NextFlow, Verdict};
use sluice_sdk::queue::{QueueBound, QueueConfig};
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Events, Policy, config, export_admission};

use accounts::Accounts;

config! {
    pub struct Config {
        /// What a prompt token costs.
        pub prompt_weight: f64 = 1.0, 0.0..=1000.0;
        /// What a generated token costs.
        pub output_weight: f64 = 2.0, 0.0..=1000.0;
        /// Tenants that are remembered.
        pub max_tenants: u32 = 4096, 1..=16_384;
        ..pub queue: QueueConfig;
    }
}

pub struct FairShare {
    config: Config,
    bound: QueueBound,
    accounts: Accounts,
    /// What a request and its output cost, as the last ones did; 0 before any ended.
    mean_cost: f64,
    mean_output: f64,
}

/// When a tenant's turn comes depends on what others will send, so its wait is taken to be so much longer.
const UNFORESEEN: f64 = 1.5;
/// How fast the mean follows.
const FOLLOW: f64 = 0.05;

export_admission!(FairShare);

impl Policy for FairShare {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "fair-share/3";

    fn new(config: Config) -> Result<Self, String> {
        let bound = QueueBound::new(config.queue.clone());
        Ok(Self { accounts: Accounts::new(config.max_tenants), bound, mean_cost: 0.0, mean_output: 0.0, config })
    }

    /// Charges what was not charged at dispatch: the output, and the prompts of requests that were dispatched
    /// without a question because nobody else waited.
    fn observe(&mut self, events: &Events) {
        self.bound.observe(events);
        let Config { prompt_weight, output_weight, .. } = self.config;
        for ended in events.finished.rows() {
            let cost =
                f64::from(ended.prompt_tokens) * prompt_weight + f64::from(ended.generated_tokens) * output_weight;
            let follow = if self.mean_cost > 0.0 { FOLLOW } else { 1.0 };
            self.mean_output += (f64::from(ended.generated_tokens) * output_weight - self.mean_output) * follow;
            self.mean_cost += (cost - self.mean_cost) * follow;
            self.accounts.charge(ended.tenant, |account| {
                let paid = account.ahead.min(ended.prompt_tokens.into());
                account.ahead -= paid;
                let prompt = u64::from(ended.prompt_tokens) - paid;
                prompt as f64 * prompt_weight + f64::from(ended.generated_tokens) * output_weight
            });
        }
    }

    fn export_state(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.bound.export(&mut state);
        state.f64(self.mean_cost);
        state.f64(self.mean_output);
        self.accounts.export(&mut state);
        state.finish()
    }

    fn import_state(&mut self, bytes: &[u8]) -> bool {
        let mut state = Reader::new(bytes);
        let mut bound = QueueBound::new(self.config.queue.clone());
        let means = bound.import(&mut state).and_then(|()| Some((mean(&mut state)?, mean(&mut state)?)));
        let Some((mean_cost, mean_output)) = means else { return false };
        let Some(accounts) = Accounts::import(&mut state, self.config.max_tenants) else { return false };
        (self.mean_cost, self.mean_output) = (mean_cost, mean_output);
        (self.bound, self.accounts) = (bound, accounts);
        true
    }
}

impl Admission for FairShare {
    fn admit(&mut self, view: &ArrivalView) -> Verdict {
        self.bound.watch(view);
        if let Some(rejection) = self.bound.refuse_behind(view, self.ahead(view) * UNFORESEEN, 1.0) {
            return Verdict::Reject(rejection);
        }
        self.lift(view);
        Verdict::Accept(view.request.priority)
    }

    /// The smallest counter, and among equals the head that has waited longest.
    fn next(&mut self, view: &FlowView) -> NextFlow {
        view.waiting().for_each(|flow| {
            self.accounts.open(flow.tenant, flow.weight);
        });
        let poorest = view.waiting().min_by(|a, b| {
            let counters = self.accounts.counter(a.tenant).total_cmp(&self.accounts.counter(b.tenant));
            counters.then(b.head_wait.cmp(&a.head_wait)).then(a.tenant.cmp(&b.tenant))
        });
        if let Some(flow) = poorest {
            let prompt = flow.head_prompt_tokens.unwrap_or(0);
            self.accounts.charge(flow.tenant, |account| {
                account.ahead += u64::from(prompt);
                f64::from(prompt) * self.config.prompt_weight
            });
        }
        view.serve(poorest)
    }
}

impl FairShare {
    /// A tenant that has nothing waiting joins at the smallest counter of those who have, or, if nobody has, where
    /// time stands; it never falls.
    fn lift(&mut self, view: &ArrivalView) {
        let tenant = view.request.tenant;
        let waiting = || view.flows().filter(|flow| flow.queued_requests > 0);
        if waiting().any(|flow| flow.tenant == tenant) {
            return;
        }
        let smallest = waiting().map(|flow| self.accounts.counter(flow.tenant)).min_by(f64::total_cmp);
        let floor = smallest.unwrap_or(self.accounts.now);
        let account = self.accounts.open(tenant, view.request.tenant_weight);
        account.counter = account.counter.max(floor);
    }

    /// Requests that are served before this one: those of a fair turn, and before it what those with smaller counters
    /// are served until they have caught up.
    fn ahead(&self, view: &ArrivalView) -> f64 {
        let request = &view.request;
        let own = view.flows().find(|flow| flow.tenant == request.tenant);
        let in_flight = own.map_or(0, |flow| flow.in_flight_requests);
        let counter = self.expected(request.tenant, request.tenant_weight, in_flight);
        let others = view.flows().filter(|flow| flow.tenant != request.tenant && flow.queued_requests > 0);
        let behind = others.map(|flow| {
            let other = self.expected(flow.tenant, flow.weight, flow.in_flight_requests);
            (counter - other).max(0.0) * flow.weight
        });
        let catching_up = if self.mean_cost > 0.0 { behind.sum::<f64>() / self.mean_cost } else { 0.0 };
        view.ahead_by_weight() + catching_up
    }

    /// Where a counter will stand when what is in flight has ended and its output is charged.
    fn expected(&self, tenant: u64, weight: f64, in_flight: u32) -> f64 {
        self.accounts.counter(tenant) + f64::from(in_flight) * self.mean_output / weight.max(f64::MIN_POSITIVE)
    }
}

fn mean(state: &mut Reader<'_>) -> Option<f64> {
    state.f64().filter(|mean| mean.is_finite() && *mean >= 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::admission::Flow;
    use sluice_sdk::{FinishReason, FinishedRequest};

    fn policy() -> FairShare {
        FairShare::new(Config::default()).unwrap()
    }

    fn flow(tenant: u64, weight: f64, queued_requests: u32) -> Flow {
        Flow {
            tenant,
            weight,
            queued_requests,
            queued_tokens: 100,
            head_wait: Some(0),
            head_prompt_tokens: Some(100),
            head_max_new_tokens: Some(10),
            head_priority: 0,
            in_flight_requests: 0,
            served_tokens: 0,
        }
    }

    fn arrive(policy: &mut FairShare, tenant: u64, flows: &[Flow]) {
        let mut view = ArrivalView { flows: flows.iter().copied().collect(), ..ArrivalView::default() };
        view.request.tenant = tenant;
        view.request.tenant_weight = 1.0;
        assert_eq!(policy.admit(&view), Verdict::Accept(0));
    }

    fn next(policy: &mut FairShare, flows: &[Flow]) -> u64 {
        match policy.next(&FlowView { flows: flows.iter().copied().collect(), ..FlowView::default() }) {
            NextFlow::Serve(tenant) => tenant,
            NextFlow::HoldUntil(_) => panic!("held"),
        }
    }

    fn finish(policy: &mut FairShare, tenant: u64, prompt_tokens: u32, generated_tokens: u32) {
        let mut events = Events::default();
        events.finished.push(FinishedRequest {
            number: 1,
            id: 1,
            tenant,
            replica: 0,
            reason: FinishReason::Stop,
            arrival: 0,
            scheduled: None,
            first_token: None,
            finished: 0,
            prompt_tokens,
            cached_tokens: 0,
            generated_tokens,
        });
        policy.observe(&events);
    }

    /// How often each tenant is served in so many rounds in which all wait.
    fn check(flows: &[Flow], rounds: usize, expected: &[usize]) {
        let mut policy = policy();
        let mut served = vec![0; flows.len()];
        for _ in 0..rounds {
            let tenant = next(&mut policy, flows);
            served[flows.iter().position(|flow| flow.tenant == tenant).unwrap()] += 1;
            finish(&mut policy, tenant, 100, 50);
        }
        assert_eq!(served, expected);
    }

    #[test]
    fn tenants_are_served_by_weight_however_much_they_send() {
        check(&[flow(1, 1.0, 1000), flow(2, 1.0, 1)], 100, &[50, 50]);
        check(&[flow(1, 3.0, 1), flow(2, 1.0, 1)], 100, &[75, 25]);
    }

    #[test]
    fn output_weighs_twice_as_much_as_the_prompt() {
        let mut policy = policy();
        finish(&mut policy, 1, 100, 0);
        finish(&mut policy, 2, 0, 49);
        assert_eq!((policy.accounts.counter(1), policy.accounts.counter(2)), (100.0, 198.0));
    }

    #[test]
    fn a_prompt_is_charged_once_at_dispatch_or_at_the_end() {
        let mut policy = policy();
        assert_eq!(next(&mut policy, &[flow(1, 1.0, 1)]), 1);
        assert_eq!(policy.accounts.counter(1), 100.0);
        finish(&mut policy, 1, 100, 10);
        assert_eq!(policy.accounts.counter(1), 120.0);
        finish(&mut policy, 1, 100, 10);
        assert_eq!(policy.accounts.counter(1), 240.0);
    }

    #[test]
    fn who_returns_is_lifted_to_those_who_wait_and_never_falls() {
        let mut policy = policy();
        policy.accounts.charge(1, |_| 5000.0);
        policy.accounts.open(2, 1.0).counter = 10.0;
        arrive(&mut policy, 2, &[flow(1, 1.0, 3)]);
        assert_eq!(policy.accounts.counter(2), 5000.0);
        policy.accounts.charge(2, |_| 1000.0);
        arrive(&mut policy, 2, &[flow(1, 1.0, 3)]);
        assert_eq!(policy.accounts.counter(2), 6000.0);
    }

    #[test]
    fn who_returns_to_an_empty_queue_is_lifted_to_where_time_stands() {
        let mut policy = policy();
        policy.accounts.open(2, 1.0).counter = 10.0;
        policy.accounts.charge(1, |_| 700.0);
        arrive(&mut policy, 2, &[]);
        assert_eq!(policy.accounts.counter(2), 700.0);
    }

    #[test]
    fn who_has_something_waiting_is_not_lifted() {
        let mut policy = policy();
        policy.accounts.open(2, 1.0).counter = 10.0;
        policy.accounts.charge(1, |_| 700.0);
        arrive(&mut policy, 2, &[flow(1, 1.0, 1), flow(2, 1.0, 1)]);
        assert_eq!(policy.accounts.counter(2), 10.0);
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut policy = FairShare::new(Config {
            queue: QueueConfig { max_requests: 2, ..QueueConfig::default() },
            ..Config::default()
        })
        .unwrap();
        let mut view = ArrivalView::default();
        view.pool.queued_requests = 2;
        assert!(matches!(policy.admit(&view), Verdict::Reject(rejection) if !rejection.caller));
    }

    #[test]
    fn a_successor_goes_on_where_the_counters_stood() {
        let mut old = policy();
        finish(&mut old, 2, 10, 0);
        finish(&mut old, 1, 1000, 0);
        let mut new = policy();
        assert!(new.import_state(&old.export_state()));
        assert_eq!(next(&mut new, &[flow(1, 1.0, 1), flow(2, 1.0, 1)]), 2);
        let mut cold = policy();
        assert!(!cold.import_state(b"nonsense"));
        assert_eq!(cold.accounts, Accounts::new(4096), "a cold start");
    }

    #[test]
    fn a_successor_expects_the_wait_that_its_predecessor_did() {
        let mut old = policy();
        finish(&mut old, 1, 100, 50);
        let mut view = ArrivalView { flows: [flow(2, 1.0, 9)].into_iter().collect(), ..ArrivalView::default() };
        (view.request.tenant, view.request.tenant_weight) = (1, 1.0);
        old.accounts.open(2, 1.0).counter = 0.0;
        assert_eq!(old.ahead(&view), 1.0, "200 tokens, at 200 a request");
        let mut new = policy();
        assert!(new.import_state(&old.export_state()));
        assert_eq!(new.ahead(&view), 1.0);
        let mut bytes = old.export_state();
        bytes[16..24].copy_from_slice(&f64::NAN.to_le_bytes());
        assert!(!policy().import_state(&bytes), "a mean that is none");
    }

    #[test]
    fn a_tenant_waits_for_its_own_requests_and_for_what_others_are_served_beside_them() {
        let check = |own: Flow, other: Flow, expected: f64| {
            let mut view = ArrivalView { flows: [own, other].into_iter().collect(), ..ArrivalView::default() };
            view.request.tenant = 1;
            view.request.tenant_weight = 1.0;
            view.pool.in_flight_requests = own.in_flight_requests + other.in_flight_requests;
            assert_eq!(policy().ahead(&view), expected, "{own:?} beside {other:?}");
        };
        let running = |in_flight_requests, flow| Flow { in_flight_requests, ..flow };
        check(flow(1, 1.0, 9), flow(2, 1.0, 500), 18.0);
        check(flow(1, 1.0, 9), flow(2, 2.0, 500), 27.0);
        check(running(3, flow(1, 1.0, 9)), running(1, flow(2, 1.0, 0)), 12.0);
        check(flow(1, 1.0, 0), flow(2, 1.0, 500), 0.0);
    }

    #[test]
    fn a_tenant_ahead_of_others_waits_until_they_have_caught_up() {
        let mut policy = policy();
        finish(&mut policy, 1, 100, 0);
        policy.accounts.open(1, 1.0).counter = 500.0;
        policy.accounts.open(2, 2.0).counter = 300.0;
        let mut view = ArrivalView { flows: [flow(2, 2.0, 9)].into_iter().collect(), ..ArrivalView::default() };
        (view.request.tenant, view.request.tenant_weight) = (1, 1.0);
        assert_eq!(policy.ahead(&view), 4.0, "400 tokens, at 100 a request");
        (view.request.tenant, view.request.tenant_weight) = (2, 2.0);
        assert_eq!(policy.ahead(&view), 9.0, "its own alone");
    }
}
