//! How long an answer may take: until its first token, between two, and in all.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sluice_telemetry::Timeout;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::config::AnswerLimits;

/// One timer for everything. Progress only notes the time: the timer finds out when it fires that it has to wait on.
pub(crate) struct Watch {
    limits: AnswerLimits,
    began: Instant,
    /// When something came last, if anything has come.
    last: Option<Instant>,
    /// When a sign of life was sent last.
    signed: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// A year: what is added to an instant has to have an end.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);
const SHORTEST: Duration = Duration::from_millis(1);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Due {
    /// Nothing was sent for a while: whoever is in between should not think that nothing will.
    SignOfLife,
    Late(Timeout),
}

impl Watch {
    /// Begins now. Within a runtime.
    pub(crate) fn new(limits: AnswerLimits) -> Self {
        let bounded = |limit: Duration| limit.clamp(SHORTEST, LONGEST);
        let limits = AnswerLimits {
            first_token: bounded(limits.first_token),
            stall: bounded(limits.stall),
            total: bounded(limits.total),
            sign_of_life: bounded(limits.sign_of_life),
            ..limits
        };
        let began = Instant::now();
        let first = began + limits.first_token.min(limits.total);
        Self { limits, began, last: None, signed: None, timer: Box::pin(sleep_until(first)) }
    }

    /// When the answer is late, however well it goes.
    pub(crate) fn ends(&self) -> Instant {
        self.began + self.limits.total
    }

    /// Something has come.
    pub(crate) fn progressed(&mut self) {
        // From here on other limits count, which may be shorter.
        if self.last.replace(Instant::now()).is_none() {
            let next = self.next();
            self.timer.as_mut().reset(next);
        }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Due> {
        loop {
            ready!(self.timer.as_mut().poll(cx));
            let due = self.due(Instant::now());
            let next = self.next();
            self.timer.as_mut().reset(next);
            if let Some(due) = due {
                return Poll::Ready(due);
            }
        }
    }

    /// What has to be done before anything can come.
    pub(crate) async fn within<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Timeout> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            loop {
                if let Due::Late(what) = ready!(self.poll(cx)) {
                    return Poll::Ready(Err(what));
                }
            }
        })
        .await
    }

    fn due(&mut self, now: Instant) -> Option<Due> {
        if now >= self.ends() {
            return Some(Due::Late(Timeout::Total));
        }
        let Some(last) = self.last else {
            return (now >= self.began + self.limits.first_token).then_some(Due::Late(Timeout::FirstToken));
        };
        if now >= last + self.limits.stall {
            return Some(Due::Late(Timeout::Stall));
        }
        let quiet = now >= self.signed.map_or(last, |signed| signed.max(last)) + self.limits.sign_of_life;
        quiet.then(|| {
            self.signed = Some(now);
            Due::SignOfLife
        })
    }

    fn next(&self) -> Instant {
        let total = self.ends();
        let Some(last) = self.last else { return total.min(self.began + self.limits.first_token) };
        let sent = self.signed.map_or(last, |signed| signed.max(last));
        total.min(last + self.limits.stall).min(sent + self.limits.sign_of_life)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, sleep};

    use super::*;

    const LIMITS: AnswerLimits = AnswerLimits {
        first_token: Duration::from_secs(10),
        stall: Duration::from_secs(7),
        total: Duration::from_secs(30),
        sign_of_life: Duration::from_secs(3),
        choices: 1,
    };

    /// What comes next, and after how many seconds in all.
    async fn next(watch: &mut Watch) -> (Due, u64) {
        let due = poll_fn(|cx| watch.poll(cx)).await;
        (due, (Instant::now() - watch.began).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_first_token_it_is_late() {
        let mut watch = Watch::new(LIMITS);
        assert_eq!(next(&mut watch).await, (Due::Late(Timeout::FirstToken), 10));
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_before_takes_of_the_same_time() {
        let mut watch = Watch::new(LIMITS);
        let seconds = Duration::from_secs;
        assert_eq!(watch.within(async { sleep(seconds(4)).await }).await, Ok(()));
        assert_eq!(watch.within(sleep(seconds(7))).await, Err(Timeout::FirstToken));
        assert_eq!(watch.began.elapsed(), seconds(10));
    }

    #[tokio::test(start_paused = true)]
    async fn signs_of_life_fill_the_time_until_it_has_stalled() {
        let mut watch = Watch::new(LIMITS);
        advance(Duration::from_secs(9)).await;
        watch.progressed();
        assert_eq!(next(&mut watch).await, (Due::SignOfLife, 12));
        advance(Duration::from_secs(1)).await;
        watch.progressed();
        assert_eq!(next(&mut watch).await, (Due::SignOfLife, 16));
        assert_eq!(next(&mut watch).await, (Due::SignOfLife, 19));
        assert_eq!(next(&mut watch).await, (Due::Late(Timeout::Stall), 20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_answer_ends_with_its_whole_time() {
        let mut watch = Watch::new(LIMITS);
        for _ in 0..14 {
            advance(Duration::from_secs(2)).await;
            watch.progressed();
            assert!(poll_fn(|cx| Poll::Ready(watch.poll(cx))).await.is_pending());
        }
        assert_eq!(next(&mut watch).await, (Due::Late(Timeout::Total), 30));
    }
}
