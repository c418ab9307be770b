//! Where a request's tokens go: bounded and non-blocking, so that a slow reader never holds up a step.

use crate::{Failure, FinishReason, Rejection, SampledToken, ScoredToken};

#[derive(Clone, PartialEq, Debug)]
pub enum TokenEvent {
    /// The request was not let in; nothing follows.
    Rejected(Rejection),
    /// The next tokens of the prompt, from its second on, where the request asked how likely they are. All of them
    /// come before the first `Token`.
    Prompt(Vec<ScoredToken>),
    Token(SampledToken),
    End(EndOfStream),
}

/// The last event of every request that was accepted, exactly once.
#[derive(Clone, PartialEq, Debug)]
pub struct EndOfStream {
    pub reason: FinishReason,
    /// What went wrong, where the reason is `Failed`.
    pub failure: Option<Failure>,
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
