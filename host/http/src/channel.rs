//! The bounded, non-blocking way of one request's tokens from a step thread to the connection that writes them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use sluice_core::{EndOfStream, Failure, FailureKind, FinishReason, SinkClosed, TokenEvent, TokenSink};

use crate::wakes::Handover;

/// The engine's end. When it goes without having sent the last event, the reader is told so.
pub(crate) struct Sender(Arc<Shared>);

/// The connection's end.
pub(crate) struct Receiver(Arc<Shared>);

pub(crate) struct Shared {
    state: Mutex<State>,
    capacity: usize,
    wakes: Arc<Handover>,
}

#[derive(Default)]
struct State {
    events: Vec<TokenEvent>,
    waker: Option<Waker>,
    /// The last event has been put in: nothing more is taken.
    ended: bool,
    /// Nobody reads any more.
    gone: bool,
}

/// `capacity` tokens may be unread; the last event always finds room.
pub(crate) fn channel(capacity: usize, wakes: Arc<Handover>) -> (Sender, Receiver) {
    let shared = Arc::new(Shared { state: Mutex::new(State::default()), capacity, wakes });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl Shared {
    /// Ends the answer in the engine's place.
    pub(crate) fn fail(&self, failure: Failure) {
        let end = EndOfStream { reason: FinishReason::Failed, failure: Some(failure), cached_tokens: 0 };
        let _already_ended = self.push(TokenEvent::End(end));
    }

    fn push(&self, event: TokenEvent) -> Result<(), SinkClosed> {
        let waker = {
            let mut state = self.state();
            if state.gone || state.ended {
                return Err(SinkClosed);
            }
            match event {
                TokenEvent::Token(_) if state.events.len() >= self.capacity => return Err(SinkClosed),
                TokenEvent::Token(_) => {}
                TokenEvent::Prompt(_) => {}
                TokenEvent::Rejected(_) | TokenEvent::End(_) => state.ended = true,
            }
            state.events.push(event);
            state.waker.take()
        };
        if let Some(waker) = waker {
            self.wakes.wake(waker);
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TokenSink for Sender {
    fn send(&self, event: TokenEvent) -> Result<(), SinkClosed> {
        self.0.push(event)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.0.fail(Failure::new(FailureKind::Internal, "the engine dropped the request"));
    }
}

impl Receiver {
    pub(crate) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.0)
    }

    /// Ready once something has come, which then is in `events`; it must be empty before.
    pub(crate) fn poll_events(&self, cx: &mut Context<'_>, events: &mut Vec<TokenEvent>) -> Poll<()> {
        let mut state = self.0.state();
        if state.events.is_empty() {
            if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                state.waker = Some(cx.waker().clone());
            }
            return Poll::Pending;
        }
        // Both keep their memory: after the first few tokens nothing is allocated any more.
        std::mem::swap(&mut state.events, events);
        Poll::Ready(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.gone = true;
        state.events = Vec::new();
        state.waker = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::SampledToken;

    fn token(token: u32) -> TokenEvent {
        TokenEvent::Token(SampledToken::plain(token))
    }

    fn end(reason: FinishReason) -> TokenEvent {
        TokenEvent::End(EndOfStream { reason, failure: None, cached_tokens: 0 })
    }

    fn read(receiver: &Receiver) -> Vec<TokenEvent> {
        let mut events = Vec::new();
        let mut cx = Context::from_waker(Waker::noop());
        let _pending = receiver.poll_events(&mut cx, &mut events);
        events
    }

    #[test]
    fn a_reader_that_falls_behind_is_closed_but_learns_of_the_end() {
        let (sender, receiver) = channel(2, Arc::default());
        assert_eq!(sender.send(token(1)), Ok(()));
        assert_eq!(sender.send(token(2)), Ok(()));
        assert_eq!(sender.send(token(3)), Err(SinkClosed));
        assert_eq!(sender.send(end(FinishReason::Cancelled)), Ok(()));
        assert_eq!(sender.send(end(FinishReason::Stop)), Err(SinkClosed));
        assert_eq!(read(&receiver), [token(1), token(2), end(FinishReason::Cancelled)]);
    }

    #[test]
    fn a_reader_that_left_closes_the_sink() {
        let (sender, receiver) = channel(2, Arc::default());
        drop(receiver);
        assert_eq!(sender.send(token(1)), Err(SinkClosed));
    }

    #[test]
    fn an_engine_that_forgets_a_request_fails_it() {
        let (sender, receiver) = channel(2, Arc::default());
        drop(sender);
        assert!(matches!(&read(&receiver)[..], [TokenEvent::End(end)] if end.reason == FinishReason::Failed));
    }
}
