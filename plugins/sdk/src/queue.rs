//! A bound on the central queue: by requests, by prompt tokens, and by how long it can be expected to take.
//!
//! A queue may be short and still take too long. By Little's law it takes what waits ÷ the rate at which it is
//! served, so a request that would wait beyond the bound is refused while its client can still go elsewhere, instead
//! of being thrown away when it has waited in vain.

use crate::admission::{ArrivalView, Rejection};
use crate::state::{Reader, Writer};
use crate::{Events, Nanos, SECOND, config};

config! {
    /// What a policy that bounds the queue lets its operator set.
    pub struct QueueConfig {
        /// Requests that may wait.
        pub max_requests: u32 = 1024, 1..=1_048_576;
        /// Prompt tokens that may wait.
        pub max_tokens: u64 = 4_194_304, 1..=1_099_511_627_776;
        /// Nobody is let in who would have to wait for longer, in seconds, at the rate at which the queue was lately
        /// served; 0 for no such bound. Keep it below the server's queue time-out.
        pub max_wait_s: f64 = 10.0, 0.0..=86_400.0;
        /// A client is never told to stay away for longer, in seconds.
        pub max_retry_after_s: u64 = 60, 1..=3600;
    }
}

/// Lengths of answers are not known when a queue is measured, and where few are served in the bound their mean is far
/// from the next ones'. So a queue is full before the bound: at this share of it.
const FULL: f64 = 0.55;

/// All bounds hold; a queue that is empty takes any one request, so that no prompt is refused for ever.
#[derive(Clone, PartialEq, Debug)]
pub struct QueueBound {
    config: QueueConfig,
    service: ServiceRate,
}

impl QueueBound {
    pub fn new(config: QueueConfig) -> Self {
        Self { service: ServiceRate::new(config.max_wait_s * FULL), config }
    }

    /// Counts what was served. To be called from [`Policy::observe`](crate::Policy::observe).
    pub fn observe(&mut self, events: &Events) {
        let served = events.finished.rows().filter(|ended| ended.scheduled.is_some()).count();
        self.service.completed = self.service.completed.saturating_add(u32::try_from(served).unwrap_or(u32::MAX));
    }

    /// To be called once for each request that arrives, before anything refuses it: a queue is measured while it is
    /// watched.
    pub fn watch(&mut self, view: &ArrivalView) {
        self.service.watch(view);
    }

    /// Why this request finds no place behind all that waits, if it finds none.
    pub fn refuse(&self, view: &ArrivalView) -> Option<Rejection> {
        self.refuse_behind(view, view.pool.queued_requests.into(), 1.0)
    }

    /// The same for a request that is served after `ahead` others and may fill `share` of the bounds.
    pub fn refuse_behind(&self, view: &ArrivalView, ahead: f64, share: f64) -> Option<Rejection> {
        let pool = &view.pool;
        if pool.queued_requests == 0 {
            return None;
        }
        let tokens = pool.queued_tokens.saturating_add(view.request.prompt_tokens.into());
        let wait = self.wait(view, ahead, share);
        let reason = if f64::from(pool.queued_requests) >= f64::from(self.config.max_requests) * share {
            format!("the queue holds {} requests, its bound", pool.queued_requests)
        } else if tokens as f64 > self.config.max_tokens as f64 * share {
            format!("the queue would hold {tokens} prompt tokens, more than its bound")
        } else if self.config.max_wait_s > 0.0 && wait > self.config.max_wait_s * FULL * share {
            format!("the wait would be about {} s, beyond its bound", wait as u64)
        } else {
            return None;
        };
        Some(Rejection::busy(reason, self.retry_after(view)))
    }

    /// How long it can be expected to wait, in seconds, as far as anything shows it.
    fn wait(&self, view: &ArrivalView, ahead: f64, share: f64) -> f64 {
        if !self.service.is_measured() && f64::from(view.pool.queued_requests) < CROWD * share {
            return own_wait(view);
        }
        self.service.seconds(ahead + held_back(view)).max(own_wait(view))
    }

    /// Until half of what waits has completed at the present rate; at least a second, for a rate that is not known
    /// is no reason to come back at once.
    pub fn retry_after(&self, view: &ArrivalView) -> Nanos {
        let rate = view.pool.completion_rate;
        let nanos = f64::from(view.pool.queued_requests) / 2.0 / rate * SECOND as f64;
        let measured = if rate.is_finite() && rate > 0.0 { nanos as Nanos } else { 0 };
        measured.max(SECOND).min(self.config.max_retry_after_s * SECOND)
    }

    /// For a successor: what was learnt of the rate.
    pub fn export(&self, state: &mut Writer) {
        state.f64(self.service.served);
        state.f64(self.service.seconds);
    }

    /// `None`, and nothing changed, where it is not what `export` writes.
    pub fn import(&mut self, state: &mut Reader<'_>) -> Option<()> {
        let known = |value: f64| value.is_finite() && value > 0.0;
        let (served, seconds) = (state.f64().filter(|it| known(*it))?, state.f64().filter(|it| known(*it))?);
        (self.service.served, self.service.seconds) = (served, seconds);
        Some(())
    }
}

/// Requests that wait on replicas, too. While anybody waits in the queue every replica has as many as it takes, so
/// those that are not running are the share of its places that is not in use.
fn held_back(view: &ArrivalView) -> f64 {
    let idle = (1.0 - view.pool.sequence_saturation).clamp(0.0, 1.0);
    f64::from(view.pool.in_flight_requests) * idle
}

/// How long the tenant's next request has waited already, in seconds: one that comes now will hardly wait less.
fn own_wait(view: &ArrivalView) -> f64 {
    let own = view.flows().find(|flow| flow.tenant == view.request.tenant);
    own.and_then(|flow| flow.head_wait).unwrap_or(0) as f64 / SECOND as f64
}

/// How many requests may wait while nobody knows how fast they are served: whoever has a server to himself may send it
/// a crowd at once.
const CROWD: f64 = 128.0;
/// What shows in less time than this, in seconds, is no rate: answers come in batches.
const SHORTEST_MEASURE: f64 = 0.25;
/// At first so many are taken to be served within the bound, as if that had been seen for so many seconds. Where much
/// is asked and little is served, what comes in before anything is known waits for longest, so it is little.
const ASSUMED: f64 = 64.0;
const ASSUMED_SECONDS: f64 = 0.1;
/// A rate is forgotten when nobody has waited for so long: what is asked then may be other work.
const FORGOTTEN_AFTER: Nanos = 5 * SECOND;
/// What was seen in so much time counts; what lies further back counts half, and half of that again.
const MEMORY_SECONDS: f64 = 20.0;

/// The rate at which a queue is served: completions per second while somebody waited. What completes while nobody
/// waits says how much was asked for, not how much could have been served.
#[derive(Clone, PartialEq, Debug)]
struct ServiceRate {
    served: f64,
    seconds: f64,
    /// What is taken to be served in a second before anything is known.
    assumed: f64,
    /// Completions since the last look.
    completed: u32,
    /// The last look, if somebody waited then.
    since: Option<Nanos>,
    /// The last look at which somebody waited, or the first of all.
    waited: Option<Nanos>,
}

impl ServiceRate {
    /// The longer nothing completes, the less is believed of what is assumed.
    fn new(seconds: f64) -> Self {
        let assumed = ASSUMED / if seconds > 0.0 { seconds } else { 1.0 };
        let (served, seconds) = (assumed * ASSUMED_SECONDS, ASSUMED_SECONDS);
        Self { served, seconds, assumed, completed: 0, since: None, waited: None }
    }

    fn watch(&mut self, view: &ArrivalView) {
        let completed = std::mem::take(&mut self.completed);
        let waiting = view.pool.queued_requests > 0;
        if let Some(since) = self.since.filter(|_| waiting) {
            self.served += f64::from(completed);
            self.seconds += view.now.saturating_sub(since) as f64 / SECOND as f64;
            while self.seconds > 2.0 * MEMORY_SECONDS {
                self.served /= 2.0;
                self.seconds /= 2.0;
            }
        }
        self.since = waiting.then_some(view.now);
        if waiting {
            self.waited = Some(view.now);
        } else if view.now.saturating_sub(*self.waited.get_or_insert(view.now)) > FORGOTTEN_AFTER {
            (self.served, self.seconds) = (self.assumed * ASSUMED_SECONDS, ASSUMED_SECONDS);
        }
    }

    fn is_measured(&self) -> bool {
        self.seconds >= ASSUMED_SECONDS + SHORTEST_MEASURE
    }

    /// How long it takes to serve so many.
    fn seconds(&self, requests: f64) -> f64 {
        requests * self.seconds / self.served
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::Flow;
    use crate::{FinishReason, FinishedRequest};

    fn bound(max_wait_s: f64) -> QueueBound {
        let config = QueueConfig { max_requests: 400, max_tokens: 1000, max_wait_s, max_retry_after_s: 30 };
        QueueBound::new(config)
    }

    fn view(now: Nanos, queued_requests: u32) -> ArrivalView {
        let mut view = ArrivalView { now, ..ArrivalView::default() };
        view.pool.queued_requests = queued_requests;
        view
    }

    fn completions(count: u64, scheduled: Option<Nanos>) -> Events {
        let row = |number| FinishedRequest {
            number,
            id: number,
            tenant: 1,
            replica: 0,
            reason: FinishReason::Stop,
            arrival: 0,
            scheduled,
            first_token: None,
            finished: 0,
            prompt_tokens: 1,
            cached_tokens: 0,
            generated_tokens: 1,
        };
        Events { finished: (0..count).map(row).collect(), ..Events::default() }
    }

    /// A bound that saw ten requests a second served, for so many seconds in which somebody waited.
    fn after(seconds: u64, per_second: u64) -> QueueBound {
        let mut bound = bound(20.0);
        for second in 0..=seconds {
            bound.watch(&view(second * SECOND, 50));
            bound.observe(&completions(per_second, Some(1)));
        }
        bound
    }

    fn check(queued: (u32, u64), prompt: u32, rate: f64, expected: Option<Nanos>) {
        let mut view = view(0, queued.0);
        view.pool.queued_tokens = queued.1;
        view.pool.completion_rate = rate;
        view.request.prompt_tokens = prompt;
        let refused = bound(0.0).refuse(&view);
        assert_eq!(
            refused.as_ref().map(|r| (r.caller, r.retry_after)),
            expected.map(|after| (false, after)),
            "{view:?}"
        );
    }

    #[test]
    fn the_queue_is_bounded_by_requests_and_by_prompt_tokens() {
        check((399, 30), 10, 1.0, None);
        check((400, 30), 10, 100.0, Some(2 * SECOND));
        check((30, 995), 10, 5.0, Some(3 * SECOND));
        check((30, 990), 10, 5.0, None);
    }

    #[test]
    fn an_empty_queue_takes_even_a_prompt_beyond_its_bound() {
        check((0, 0), 10_000, 1.0, None);
    }

    #[test]
    fn retry_after_is_a_second_where_nothing_is_known_and_never_beyond_its_bound() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            check((400, 0), 1, rate, Some(SECOND));
        }
        check((400, 0), 1, 1e-9, Some(30 * SECOND));
    }

    #[test]
    fn the_wait_is_what_waits_over_the_rate_at_which_it_is_served() {
        let bound = after(100, 10);
        assert!(bound.refuse(&view(0, 105)).is_none());
        let refused = bound.refuse(&view(0, 125)).unwrap();
        assert!(refused.reason.contains("about 12 s"), "{}", refused.reason);
    }

    #[test]
    fn who_is_served_before_others_waits_for_fewer_and_a_share_of_the_bound_is_less() {
        let bound = after(100, 10);
        assert!(bound.refuse_behind(&view(0, 300), 100.0, 1.0).is_none());
        assert!(bound.refuse_behind(&view(0, 100), 100.0, 0.5).is_some());
        assert!(bound.refuse_behind(&view(0, 50), 50.0, 0.5).is_none());
    }

    #[test]
    fn before_anything_was_served_a_crowd_may_wait_and_the_longer_nothing_is_the_fewer() {
        let mut bound = bound(20.0);
        bound.watch(&view(0, 0));
        assert!(bound.refuse(&view(0, 127)).is_none());
        assert!(bound.refuse(&view(0, 128)).is_some());
        bound.watch(&view(SECOND, 9));
        bound.watch(&view(3 * SECOND, 9));
        assert!(bound.refuse(&view(3 * SECOND, 3)).is_none());
        assert!(bound.refuse(&view(3 * SECOND, 4)).is_some());
    }

    #[test]
    fn a_crowd_that_has_hardly_waited_shows_nothing_of_how_long_it_will() {
        let mut bound = bound(20.0);
        for step in 0..100 {
            let mut view = view(u64::from(step) * SECOND / 500, step);
            // Nothing has completed yet, and the replica has not said yet what it runs.
            view.pool.in_flight_requests = 100;
            bound.watch(&view);
            assert!(bound.refuse(&view).is_none(), "{step}");
        }
    }

    #[test]
    fn a_rate_is_forgotten_when_nobody_has_waited_for_a_while() {
        let mut bound = after(100, 1);
        assert!(bound.refuse(&view(0, 60)).is_some());
        bound.watch(&view(104 * SECOND, 0));
        assert!(bound.refuse(&view(0, 60)).is_some(), "a pause is no news");
        bound.watch(&view(106 * SECOND, 0));
        assert!(bound.refuse(&view(0, 60)).is_none());
    }

    #[test]
    fn who_waits_on_a_replica_waits_before_those_in_the_queue() {
        let bound = after(100, 10);
        for (saturation, refused) in [(1.0, false), (0.5, true), (7.0, false), (f64::NAN, false)] {
            let mut view = view(0, 100);
            (view.pool.in_flight_requests, view.pool.sequence_saturation) = (200, saturation);
            assert_eq!(bound.refuse(&view).is_some(), refused, "{saturation}");
        }
    }

    #[test]
    fn a_tenant_whose_requests_have_waited_too_long_already_is_let_in_no_more() {
        let bound = after(100, 10);
        for (tenant, refused) in [(1, true), (2, false)] {
            let mut view = view(0, 2);
            view.request.tenant = tenant;
            view.flows.push(Flow {
                tenant: 1,
                weight: 1.0,
                queued_requests: 2,
                queued_tokens: 2,
                head_wait: Some(16 * SECOND),
                head_prompt_tokens: None,
                head_max_new_tokens: None,
                head_priority: 0,
                in_flight_requests: 1,
                served_tokens: 0,
            });
            assert_eq!(bound.refuse(&view).is_some(), refused, "tenant {tenant}");
        }
    }

    #[test]
    fn what_completes_while_nobody_waits_says_nothing_of_what_could_be_served() {
        let mut bound = bound(20.0);
        for second in 0..1000 {
            bound.watch(&view(second * 10 * SECOND, 0));
            bound.observe(&completions(1, Some(1)));
        }
        assert!(bound.refuse(&view(0, 60)).is_none());
    }

    #[test]
    fn who_left_the_queue_unserved_does_not_count() {
        let mut bound = bound(20.0);
        for second in 0..10 {
            bound.watch(&view(second * SECOND, 50));
            bound.observe(&completions(100, None));
        }
        assert!(bound.refuse(&view(0, 50)).is_some());
    }

    #[test]
    fn a_rate_that_changes_is_learnt_and_a_successor_goes_on_with_it() {
        let mut old = after(100, 10);
        for second in 101..300 {
            old.watch(&view(second * SECOND, 50));
            old.observe(&completions(1, Some(1)));
        }
        assert!(old.refuse(&view(0, 17)).is_some());
        let mut state = Writer::default();
        old.export(&mut state);
        let bytes = state.finish();
        let mut new = bound(20.0);
        assert!(new.import(&mut Reader::new(&bytes)).is_some());
        new.watch(&view(400 * SECOND, 0));
        assert!(new.refuse(&view(0, 17)).is_some());
        let bad = [f64::NAN.to_le_bytes(), 1.0_f64.to_le_bytes()].concat();
        assert!(bound(20.0).import(&mut Reader::new(&bad)).is_none());
    }
}
