//! Admission: the most urgent first, with ageing, and the least urgent refused first as the queue fills.
//!
//! Strict priority starves whoever is not urgent, so a request gains a level for every so many seconds that it waits
//! (ageing, as in the priority queues of operating systems). And a queue that fills refuses the least urgent first,
//! while there is still room for the rest: what is not let in cannot be late.
//!
//! The order among the requests of one tenant is the host's: by priority, then by arrival. Ageing is between tenants.

use std::cmp::Reverse;

use sluice_sdk::admission::{Admission, ArrivalView, Flow, FlowView, NextFlow, Verdict};
use sluice_sdk::queue::{QueueBound, QueueConfig};
use sluice_sdk::state::{Reader, Writer};
use sluice_sdk::{Events, Policy, SECOND, config, export_admission};

config! {
    pub struct Config {
        /// A request gains a level of priority for every so many seconds that it waits; 0 for never.
        pub ageing_s: f64 = 5.0, 0.0..=86_400.0;
        /// The share of the queue's bounds that requests of priority 0 may fill.
        pub normal_share: f64 = 0.8, 0.0..=1.0;
        /// The share of the queue's bounds that requests of a priority below 0 may fill.
        pub low_share: f64 = 0.5, 0.0..=1.0;
        ..pub queue: QueueConfig;
    }
}

pub struct Priority {
    config: Config,
    bound: QueueBound,
}

export_admission!(Priority);

impl Policy for Priority {
    type Config = Config;
    const STATE_SCHEMA: &'static str = "priority/1";

    fn new(config: Config) -> Result<Self, String> {
        if config.low_share > config.normal_share {
            return Err("`low_share` must not be above `normal_share`".to_owned());
        }
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

impl Admission for Priority {
    fn admit(&mut self, view: &ArrivalView) -> Verdict {
        self.bound.watch(view);
        let share = self.share(view.request.priority);
        match self.bound.refuse_behind(view, view.pool.queued_requests.into(), share) {
            Some(rejection) => Verdict::Reject(rejection),
            None => Verdict::Accept(view.request.priority),
        }
    }

    /// The most urgent head, its age included; among equals the one that has waited longest.
    fn next(&mut self, view: &FlowView) -> NextFlow {
        let urgency = |flow: &Flow| self.urgency(flow);
        let most = view.waiting().max_by(|a, b| {
            let by_urgency = urgency(a).total_cmp(&urgency(b));
            by_urgency.then(a.head_wait.cmp(&b.head_wait)).then(Reverse(a.tenant).cmp(&Reverse(b.tenant)))
        });
        view.serve(most)
    }
}

impl Priority {
    fn share(&self, priority: i32) -> f64 {
        match priority {
            ..0 => self.config.low_share,
            0 => self.config.normal_share,
            1.. => 1.0,
        }
    }

    /// The level of a flow's head, with what it has gained by waiting.
    fn urgency(&self, flow: &Flow) -> f64 {
        let waited = flow.head_wait.unwrap_or(0) as f64 / SECOND as f64;
        let gained = if self.config.ageing_s > 0.0 { waited / self.config.ageing_s } else { 0.0 };
        f64::from(flow.head_priority) + gained
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Priority {
        Priority::new(Config::default()).unwrap()
    }

    fn flow(tenant: u64, head_priority: i32, head_wait: u64) -> Flow {
        Flow {
            tenant,
            weight: 1.0,
            queued_requests: 1,
            queued_tokens: 10,
            head_wait: Some(head_wait),
            head_prompt_tokens: None,
            head_max_new_tokens: None,
            head_priority,
            in_flight_requests: 0,
            served_tokens: 0,
        }
    }

    fn check(config: Config, flows: &[Flow], expected: NextFlow) {
        let view = FlowView { flows: flows.iter().copied().collect(), ..FlowView::default() };
        assert_eq!(Priority::new(config).unwrap().next(&view), expected, "{flows:?}");
    }

    #[test]
    fn the_most_urgent_is_served_and_among_equals_the_oldest() {
        let default = Config::default;
        check(default(), &[flow(1, 0, SECOND), flow(2, 5, 0), flow(3, -3, 2 * SECOND)], NextFlow::Serve(2));
        check(default(), &[flow(1, 0, SECOND), flow(2, 0, 2 * SECOND)], NextFlow::Serve(2));
        check(default(), &[flow(2, 0, SECOND), flow(1, 0, SECOND)], NextFlow::Serve(1));
        check(default(), &[], NextFlow::HoldUntil(SECOND));
    }

    #[test]
    fn who_waits_gains_a_level_every_five_seconds() {
        check(Config::default(), &[flow(1, 2, 0), flow(2, 0, 9 * SECOND)], NextFlow::Serve(1));
        check(Config::default(), &[flow(1, 2, 0), flow(2, 0, 11 * SECOND)], NextFlow::Serve(2));
    }

    #[test]
    fn without_ageing_priority_is_strict() {
        let strict = Config { ageing_s: 0.0, ..Config::default() };
        check(strict, &[flow(1, 1, 0), flow(2, 0, 1_000_000 * SECOND)], NextFlow::Serve(1));
    }

    #[test]
    fn the_least_urgent_are_refused_first_as_the_queue_fills() {
        let queue = QueueConfig { max_requests: 100, max_wait_s: 0.0, ..QueueConfig::default() };
        let mut policy = Priority::new(Config { queue, ..Config::default() }).unwrap();
        let mut refused = |priority: i32, queued: u32| {
            let mut view = ArrivalView::default();
            view.request.priority = priority;
            view.pool.queued_requests = queued;
            match policy.admit(&view) {
                Verdict::Reject(rejection) => !rejection.caller,
                verdict => verdict != Verdict::Accept(priority),
            }
        };
        for (priority, room) in [(-1, 50), (-100, 50), (0, 80), (1, 100), (100, 100)] {
            assert!(!refused(priority, room - 1), "{priority}");
            assert!(refused(priority, room), "{priority}");
        }
    }

    #[test]
    fn shares_that_contradict_each_other_are_refused() {
        assert!(Priority::new(Config { low_share: 0.9, ..Config::default() }).is_err());
    }

    #[test]
    fn what_was_learnt_of_the_rate_survives_a_swap() {
        let (old, mut new) = (policy(), policy());
        assert!(new.import_state(&old.export_state()));
        assert!(!new.import_state(&[]));
    }
}
