//! Admission: a queue bounded by requests, prompt tokens and expected wait, served in order of arrival.
//!
//! A queue without a bound turns overload into waiting that nobody waits for; a bound turns it into an early answer
//! that says when to come back. What it has learnt of the rate at which the queue is served outlives a swap.

use sluice_sdk::admission::{Admission, ArrivalView, Flow, FlowView, NextFlow, Rejection, Verdict};
use sluice_sdk::queue::{QueueBound, QueueConfig};
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Events, Policy, config, export_admission};

config! {
    pub struct Config {
        /// The share of the bounds on requests and tokens that one tenant may hold while others wait or run.
        pub tenant_share: f64 = 0.5, 0.0..=1.0;
        ..pub queue: QueueConfig;
    }
}

pub struct BoundedQueue {
    config: Config,
    bound: QueueBound,
}

export_admission!(BoundedQueue);

impl Policy for BoundedQueue {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "bounded-queue/1";

    fn new(config: Config) -> Result<Self, String> {
        Ok(Self { bound: QueueBound::new(config.queue.clone()), config })
    }

    fn observe(&mut self, events: &Events) {
        self.bound.observe(events);
    }

    fn export_state(&self) -> Vec<u8> {
        let mut state = Writer::default();
        self.bound.export(&mut state);
        state.finish()
    }

    fn import_state(&mut self, bytes: &[u8]) -> bool {
        self.bound.import(&mut Reader::new(bytes)).is_some()
    }
}

impl Admission for BoundedQueue {
    fn admit(&mut self, view: &ArrivalView) -> Verdict {
        self.bound.watch(view);
        match self.beyond_its_share(view).or_else(|| self.bound.refuse(view)) {
            Some(rejection) => Verdict::Reject(rejection),
            None => Verdict::Accept(view.request.priority),
        }
    }

    /// The most urgent head, and among equals the one that has waited longest.
    fn next(&mut self, view: &FlowView) -> NextFlow {
        view.serve(view.most_urgent())
    }
}

impl BoundedQueue {
    /// Whether the tenant would hold more of the queue than it may while there are others.
    fn beyond_its_share(&self, view: &ArrivalView) -> Option<Rejection> {
        let tenant = view.request.tenant;
        if view.flows().all(|flow| flow.tenant == tenant) {
            return None;
        }
        let own = view.flows().find(|flow| flow.tenant == tenant && flow.queued_requests > 0)?;
        self.share_is_used_up(&own, view.request.prompt_tokens).then(|| {
            let held = own.queued_requests;
            let reason = format!("this key has {held} requests in the queue, its share while others wait");
            Rejection::too_much(reason, self.bound.retry_after(view))
        })
    }

    fn share_is_used_up(&self, own: &Flow, prompt_tokens: u32) -> bool {
        let share = self.config.tenant_share;
        let requests = f64::from(own.queued_requests) + 1.0;
        let tokens = own.queued_tokens as f64 + f64::from(prompt_tokens);
        requests > f64::from(self.config.queue.max_requests) * share
            || tokens > self.config.queue.max_tokens as f64 * share
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_sdk::SECOND;

    fn flow(tenant: u64, queued_requests: u32, head_wait: u64) -> Flow {
        Flow {
            tenant,
            weight: 1.0,
            queued_requests,
            queued_tokens: u64::from(queued_requests) * 10,
            head_wait: Some(head_wait),
            head_prompt_tokens: None,
            head_max_new_tokens: None,
            head_priority: 0,
            in_flight_requests: 0,
            served_tokens: 0,
        }
    }

    /// What tenant 1 is told, by HTTP status, when these wait.
    fn check(flows: &[Flow], prompt_tokens: u32, expected: u16) {
        let queue = QueueConfig { max_requests: 8, max_tokens: 100, ..QueueConfig::default() };
        let config = Config { queue, ..Config::default() };
        let mut view = ArrivalView { flows: flows.iter().copied().collect(), ..ArrivalView::default() };
        view.request.tenant = 1;
        view.request.priority = 3;
        view.request.prompt_tokens = prompt_tokens;
        view.pool.queued_requests = flows.iter().map(|flow| flow.queued_requests).sum();
        view.pool.queued_tokens = flows.iter().map(|flow| flow.queued_tokens).sum();
        view.pool.completion_rate = 2.0;
        let status = match BoundedQueue::new(config).unwrap().admit(&view) {
            Verdict::Accept(3) => 200,
            Verdict::Reject(Rejection { caller: false, .. }) => 503,
            Verdict::Reject(Rejection { caller: true, .. }) => 429,
            other => panic!("{other:?}"),
        };
        assert_eq!(status, expected, "{flows:?}");
    }

    #[test]
    fn a_queue_with_room_takes_the_request_with_its_own_priority() {
        check(&[], 10, 200);
        check(&[flow(1, 7, 0)], 10, 200);
    }

    #[test]
    fn a_full_queue_is_busy() {
        check(&[flow(1, 8, 0)], 10, 503);
        check(&[flow(2, 8, 0)], 10, 503);
        check(&[flow(2, 7, 0)], 31, 503);
    }

    #[test]
    fn a_tenant_beyond_its_share_asks_for_too_much_while_others_are_there() {
        check(&[flow(1, 4, 0), flow(2, 1, 0)], 1, 429);
        check(&[flow(1, 3, 0), flow(2, 1, 0)], 1, 200);
        check(&[flow(1, 3, 0), flow(2, 1, 0)], 21, 429);
    }

    #[test]
    fn a_tenant_alone_may_fill_the_queue_and_one_without_a_queue_may_always_start_one() {
        check(&[flow(1, 7, 0)], 1, 200);
        check(&[flow(2, 7, 0)], 1, 200);
    }

    #[test]
    fn the_most_urgent_head_is_served_and_then_the_oldest() {
        let mut policy = BoundedQueue::new(Config::default()).unwrap();
        let mut next =
            |flows: &[Flow]| policy.next(&FlowView { flows: flows.iter().copied().collect(), ..FlowView::default() });
        assert_eq!(next(&[flow(1, 1, 5), flow(2, 1, 9), flow(3, 0, 99)]), NextFlow::Serve(2));
        assert_eq!(next(&[flow(1, 1, 5), flow(2, 1, 5)]), NextFlow::Serve(1));
        let urgent = Flow { head_priority: 1, ..flow(3, 1, 0) };
        assert_eq!(next(&[flow(1, 1, 5), urgent]), NextFlow::Serve(3));
        assert_eq!(next(&[]), NextFlow::HoldUntil(SECOND));
    }

    #[test]
    fn what_was_learnt_of_the_rate_survives_a_swap() {
        let mut old = BoundedQueue::new(Config::default()).unwrap();
        let mut view = ArrivalView::default();
        view.pool.queued_requests = 20;
        assert!(matches!(old.admit(&view), Verdict::Accept(_)));
        view.now = 30 * SECOND;
        assert!(matches!(old.admit(&view), Verdict::Reject(_)), "nothing was served for so long");
        let mut new = BoundedQueue::new(Config::default()).unwrap();
        assert!(new.import_state(&old.export_state()));
        assert!(matches!(new.admit(&view), Verdict::Reject(_)));
        assert!(!new.import_state(b"nonsense"));
    }
}
