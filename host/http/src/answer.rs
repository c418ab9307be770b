//! Follows one request's tokens to their end, as text; whoever drops it before has cancelled the request.

use std::future::poll_fn;
use std::task::{Context, Poll};

use sluice_core::{EndOfStream, FinishReason, Nanos, RequestId, TokenEvent};
use sluice_engine::handle::PoolHandle;
use sluice_telemetry::Counted;

use crate::channel::Receiver;
use crate::error::ApiError;
use crate::live::LiveAnswer;
use crate::text::Decoder;

pub(crate) struct Answer {
    pub(crate) asked: Asked,
    pub(crate) receiver: Receiver,
    pub(crate) decoder: Box<dyn Decoder>,
    pub(crate) progress: Progress,
    pub(crate) _live: LiveAnswer,
    pub(crate) _counted: Counted,
}

/// The request that it answers.
pub(crate) struct Asked {
    pub(crate) id: RequestId,
    pub(crate) pool: PoolHandle,
    pub(crate) arrival: Nanos,
    pub(crate) prompt_tokens: u32,
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
    ended: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: u32,
    pub(crate) completion: u32,
    pub(crate) cached: u32,
}

/// How an answer ended: with a reason that clients know, or with an error.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Ending {
    Finished { reason: &'static str, usage: Usage },
    Failed(ApiError),
}

impl Answer {
    /// Waits until it is decided whether the request gets an answer at all, while an error can still be a status.
    pub(crate) async fn begin(&mut self) -> Result<(), ApiError> {
        poll_fn(|cx| self.receiver.poll_events(cx, &mut self.progress.events)).await;
        let error = match self.progress.events.first() {
            Some(TokenEvent::Rejected(rejection)) => Some(ApiError::from(rejection)),
            Some(TokenEvent::End(end)) => self.error_of(end),
            Some(TokenEvent::Token(_) | TokenEvent::Prompt(_)) | None => None,
        };
        match error {
            None => Ok(()),
            Some(error) => {
                self.ended(error.code());
                Err(error)
            }
        }
    }

    /// Gives the text of every token that has come to `write`, which is empty where it is held back. `None` as long
    /// as more will come.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, write: &mut dyn FnMut(&str)) -> Poll<Option<Ending>> {
        if self.progress.events.is_empty() {
            std::task::ready!(self.receiver.poll_events(cx, &mut self.progress.events));
        }
        let mut events = std::mem::take(&mut self.progress.events);
        let mut ending = None;
        for event in events.drain(..) {
            match event {
                TokenEvent::Token(sampled) => self.token(sampled.token, write),
                TokenEvent::Prompt(_) => {}
                TokenEvent::End(end) => ending = Some(self.end(&end, write)),
                TokenEvent::Rejected(rejection) => ending = Some(self.fail((&rejection).into())),
            }
        }
        // The list keeps its memory.
        self.progress.events = events;
        Poll::Ready(ending)
    }

    fn token(&mut self, token: u32, write: &mut dyn FnMut(&str)) {
        let Progress { text, stopped, completion_tokens, .. } = &mut self.progress;
        if *stopped {
            return;
        }
        *completion_tokens += 1;
        text.clear();
        if self.decoder.push(token, text) {
            *stopped = true;
            // If the engine has stopped, the end comes all the same.
            let _stopped = self.asked.pool.finish(self.asked.id, FinishReason::Stop);
        }
        write(text);
    }

    fn end(&mut self, end: &EndOfStream, write: &mut dyn FnMut(&str)) -> Ending {
        let mut stopped = self.progress.stopped;
        if let Some(error) = self.error_of(end).filter(|_| !stopped) {
            return self.fail(error);
        }
        let text = &mut self.progress.text;
        text.clear();
        if !stopped {
            stopped = self.decoder.finish(text);
            if !text.is_empty() {
                write(text);
            }
        }
        let reason = if end.reason == FinishReason::Length && !stopped { "length" } else { "stop" };
        self.ended(reason);
        let usage = Usage {
            prompt: self.asked.prompt_tokens,
            completion: self.progress.completion_tokens,
            cached: end.cached_tokens,
        };
        Ending::Finished { reason, usage }
    }

    fn fail(&mut self, error: ApiError) -> Ending {
        self.ended(error.code());
        Ending::Failed(error)
    }

    fn error_of(&self, end: &EndOfStream) -> Option<ApiError> {
        match end.reason {
            FinishReason::Stop | FinishReason::Length => None,
            FinishReason::Failed => {
                let reason = end.failure.as_ref().map_or("for an unknown reason", |failure| failure.message.as_str());
                Some(ApiError::failed(reason))
            }
            FinishReason::Cancelled => Some(ApiError::failed("it was cancelled, since it was not read fast enough")),
        }
    }

    fn ended(&mut self, how: &str) {
        self.progress.ended = true;
        self.log("request finished", how);
    }

    fn log(&self, message: &str, how: &str) {
        let asked = &self.asked;
        let milliseconds = asked.pool.now().saturating_sub(asked.arrival) / sluice_core::MILLISECOND;
        tracing::info!(
            request = asked.id.0,
            prompt_tokens = asked.prompt_tokens,
            completion_tokens = self.progress.completion_tokens,
            milliseconds,
            how,
            "{message}"
        );
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if !self.progress.ended {
            // If the engine has stopped, there is nothing to free.
            let _stopped = self.asked.pool.finish(self.asked.id, FinishReason::Cancelled);
            self.log("request aborted", "the client left");
        }
    }
}
