//! A bound on the central queue, with a Retry-After measured from the rate at which requests complete.

use crate::admission::{ArrivalView, Rejection};
use crate::{Nanos, SECOND};

/// Both bounds hold; a queue that is empty takes any one request, so that no prompt is refused for ever.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct QueueBound {
    pub max_requests: u32,
    pub max_tokens: u64,
    pub max_retry_after: Nanos,
}

impl QueueBound {
    /// Why this request finds no place, if it finds none.
    pub fn refuse(&self, view: &ArrivalView) -> Option<Rejection> {
        let pool = &view.pool;
        if pool.queued_requests == 0 {
            return None;
        }
        let tokens = pool.queued_tokens.saturating_add(view.request.prompt_tokens.into());
        let reason = if pool.queued_requests >= self.max_requests {
            format!("the queue holds {} requests, its bound", pool.queued_requests)
        } else if tokens > self.max_tokens {
            format!("the queue would hold {tokens} prompt tokens, more than its bound of {}", self.max_tokens)
        } else {
            return None;
        };
        Some(Rejection::busy(reason, self.retry_after(view)))
    }

    /// Until half of what waits has completed at the present rate; at least a second, for a rate that is not known
    /// is no reason to come back at once.
    pub fn retry_after(&self, view: &ArrivalView) -> Nanos {
        let rate = view.pool.completion_rate;
        let nanos = f64::from(view.pool.queued_requests) / 2.0 / rate * SECOND as f64;
        let measured = if rate.is_finite() && rate > 0.0 { nanos as Nanos } else { 0 };
        measured.max(SECOND).min(self.max_retry_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND: QueueBound = QueueBound { max_requests: 4, max_tokens: 100, max_retry_after: 30 * SECOND };

    fn check(queued: (u32, u64), prompt: u32, rate: f64, expected: Option<Nanos>) {
        let mut view = ArrivalView::default();
        (view.pool.queued_requests, view.pool.queued_tokens) = queued;
        view.pool.completion_rate = rate;
        view.request.prompt_tokens = prompt;
        let refused = BOUND.refuse(&view);
        assert_eq!(
            refused.as_ref().map(|r| (r.caller, r.retry_after)),
            expected.map(|after| (false, after)),
            "{view:?}"
        );
    }

    #[test]
    fn the_queue_is_bounded_by_requests_and_by_prompt_tokens() {
        check((3, 30), 10, 1.0, None);
        check((4, 30), 10, 1.0, Some(2 * SECOND));
        check((3, 95), 10, 0.5, Some(3 * SECOND));
        check((3, 90), 10, 0.5, None);
    }

    #[test]
    fn an_empty_queue_takes_even_a_prompt_beyond_its_bound() {
        check((0, 0), 1000, 1.0, None);
    }

    #[test]
    fn retry_after_is_a_second_where_nothing_is_known_and_never_beyond_its_bound() {
        for rate in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            check((4, 0), 1, rate, Some(SECOND));
        }
        check((4, 0), 1, 1e-9, Some(30 * SECOND));
    }
}
