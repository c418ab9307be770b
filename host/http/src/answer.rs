//! Follows one choice's tokens to their end, as text; whoever drops it before has cancelled its request.

use std::sync::Arc;
use std::task::{Context, Poll, ready};

use sluice_core::{EndOfStream, FinishReason, RequestId, SampledToken, ScoredToken, TokenEvent};
use sluice_engine::handle::PoolHandle;

use crate::channel::Receiver;
use crate::error::ApiError;
use crate::live::LiveAnswer;
use crate::text::Decoder;

pub(crate) struct Answer {
    pub(crate) id: RequestId,
    pub(crate) pool: PoolHandle,
    pub(crate) receiver: Receiver,
    pub(crate) decoder: Box<dyn Decoder>,
    /// The prompt, until it was shown, where it is to be shown.
    pub(crate) echo: Option<Arc<str>>,
    /// Nothing behind the prompt is shown.
    pub(crate) silent: bool,
    pub(crate) progress: Progress,
    pub(crate) live: Arc<LiveAnswer>,
}

#[derive(Default)]
pub(crate) struct Progress {
    /// Taken from the receiver and not looked at yet.
    events: Vec<TokenEvent>,
    /// Reused for every token.
    text: String,
    completion_tokens: u32,
    /// A stop string has matched; what still comes is surplus.
    stopped: bool,
    /// The last event has come.
    over: bool,
    ended: Option<Ended>,
}

/// What an answer gives to whoever writes it, in order.
pub(crate) enum Part<'a> {
    /// The next tokens of the prompt, from its second on.
    Scored(&'a [ScoredToken]),
    /// What can be shown now, and the token that it came with; it is empty where the token's text is held back.
    Text(&'a str, Option<&'a SampledToken>),
    /// Why it ended, in clients' words.
    End(&'static str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Ended {
    pub(crate) reason: &'static str,
    pub(crate) completion_tokens: u32,
    /// Of the prompt.
    pub(crate) cached_tokens: u32,
}

impl Answer {
    /// Whether something has come, or why it gets no answer at all.
    pub(crate) fn begun(&mut self, cx: &mut Context<'_>) -> Result<bool, ApiError> {
        if self.receive(cx).is_pending() {
            return Ok(false);
        }
        let error = match self.progress.events.first() {
            Some(TokenEvent::Rejected(rejection)) => Some(ApiError::from(rejection)),
            Some(TokenEvent::End(end)) => error_of(end),
            Some(TokenEvent::Token(_) | TokenEvent::Prompt(_)) | None => None,
        };
        self.progress.over |= error.is_some();
        error.map_or(Ok(true), Err)
    }

    /// Gives the parts of everything that has come to `write`.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, write: &mut dyn FnMut(Part<'_>)) -> Poll<Result<(), ApiError>> {
        ready!(self.receive(cx));
        let mut events = std::mem::take(&mut self.progress.events);
        let mut taken = Ok(());
        for event in events.drain(..) {
            let now = match event {
                TokenEvent::Token(sampled) => {
                    self.token(&sampled, write);
                    Ok(())
                }
                TokenEvent::Prompt(scored) => {
                    write(Part::Scored(&scored));
                    Ok(())
                }
                TokenEvent::End(end) => self.end(&end, write),
                TokenEvent::Rejected(rejection) => Err(ApiError::from(&rejection)),
            };
            self.progress.over |= now.is_err();
            taken = taken.and(now);
        }
        // The list keeps its memory.
        self.progress.events = events;
        Poll::Ready(taken)
    }

    pub(crate) fn ended(&self) -> Option<Ended> {
        self.progress.ended
    }

    pub(crate) fn completion_tokens(&self) -> u32 {
        self.progress.completion_tokens
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.progress.events.is_empty() {
            return self.receiver.poll_events(cx, &mut self.progress.events);
        }
        Poll::Ready(())
    }

    fn token(&mut self, sampled: &SampledToken, write: &mut dyn FnMut(Part<'_>)) {
        self.show_prompt(write);
        if self.silent || self.progress.stopped {
            return;
        }
        let Progress { text, stopped, completion_tokens, .. } = &mut self.progress;
        *completion_tokens += 1;
        text.clear();
        if self.decoder.push(sampled.token, text) {
            *stopped = true;
            // If the engine has stopped, the end comes all the same.
            let _stopped = self.pool.finish(self.id, FinishReason::Stop);
        }
        write(Part::Text(text, Some(sampled)));
    }

    fn end(&mut self, end: &EndOfStream, write: &mut dyn FnMut(Part<'_>)) -> Result<(), ApiError> {
        self.progress.over = true;
        let mut stopped = self.progress.stopped;
        if let Some(error) = error_of(end).filter(|_| !stopped) {
            return Err(error);
        }
        self.show_prompt(write);
        let text = &mut self.progress.text;
        text.clear();
        if !stopped {
            stopped = self.decoder.finish(text);
            if !text.is_empty() {
                write(Part::Text(text, None));
            }
        }
        let length = self.silent || (end.reason == FinishReason::Length && !stopped);
        let reason = if length { "length" } else { "stop" };
        let completion_tokens = self.progress.completion_tokens;
        self.progress.ended = Some(Ended { reason, completion_tokens, cached_tokens: end.cached_tokens });
        write(Part::End(reason));
        Ok(())
    }

    fn show_prompt(&mut self, write: &mut dyn FnMut(Part<'_>)) {
        if let Some(prompt) = self.echo.take() {
            write(Part::Text(&prompt, None));
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.progress.over {
            // If the engine has stopped, there is nothing to free.
            let _stopped = self.pool.finish(self.id, FinishReason::Cancelled);
        }
    }
}

fn error_of(end: &EndOfStream) -> Option<ApiError> {
    match end.reason {
        FinishReason::Stop | FinishReason::Length => None,
        FinishReason::Failed => Some(match &end.failure {
            Some(failure) => ApiError::from(failure),
            None => ApiError::failed("the answer failed for an unknown reason"),
        }),
        FinishReason::Cancelled => {
            Some(ApiError::failed("the answer was cancelled, since it was not read fast enough"))
        }
    }
}
