//! Where a request's tokens go: bounded and non-blocking, so that a slow reader never holds up a step.

use crate::{FinishReason, Rejection, SampledToken};

#[derive(Clone, PartialEq, Debug)]
pub enum TokenEvent {
    /// The request was not let in; nothing follows.
    Rejected(Rejection),
    Token(SampledToken),
    End(EndOfStream),
}

/// The last event of every request that was accepted, exactly once.
#[derive(Clone, PartialEq, Debug)]
pub struct EndOfStream {
    pub reason: FinishReason,
    /// What went wrong, where the reason is `Failed`.
    pub error: Option<String>,
    /// Tokens of the prompt that came from the prefix cache.
    pub cached_tokens: u32,
}

/// The reader is gone or too far behind: the request is cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SinkClosed;

/// Called on a replica's thread for every token, so it must return at once.
pub trait TokenSink: Send + Sync {
    fn send(&self, event: TokenEvent) -> Result<(), SinkClosed>;
}
