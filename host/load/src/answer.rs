//! An answer as it comes in: when its first output, its last and its end arrived, and what it said.

use std::time::Duration;

use tokio::time::Instant;

use crate::chunk::Chunk;
use crate::failure::Failure;
use crate::record::Asked;
use crate::usage::Usage;

/// Times are since the load began.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answer {
    pub(crate) first_output: Option<Duration>,
    pub(crate) last_output: Option<Duration>,
    /// Between each two chunks that carried output. Chunks that arrived in one piece have no gap between them.
    pub(crate) gaps: Vec<Duration>,
    /// That carried output.
    pub(crate) chunks: u32,
    pub(crate) usage: Option<Usage>,
    pub(crate) ended: Duration,
    pub(crate) failure: Option<Failure>,
    finished: bool,
}

impl Answer {
    /// One of which nothing came.
    pub(crate) fn none(failure: Failure, ended: Duration) -> Self {
        Self { ended, failure: Some(failure), ..Self::default() }
    }

    /// A part of a stream that arrived at this time.
    pub(crate) fn chunk(&mut self, chunk: Chunk, at: Duration) -> Result<(), Failure> {
        if chunk.output {
            self.first_output.get_or_insert(at);
            if let Some(last) = self.last_output.replace(at) {
                self.gaps.push(at.saturating_sub(last));
            }
        }
        self.said(chunk)
    }

    /// An answer that came in one piece, of which no first output can be told.
    pub(crate) fn whole(&mut self, chunk: Chunk) -> Result<(), Failure> {
        self.said(chunk)
    }

    fn said(&mut self, chunk: Chunk) -> Result<(), Failure> {
        self.chunks += u32::from(chunk.output);
        self.finished |= chunk.finished;
        self.usage = chunk.usage.or(self.usage);
        match chunk.error {
            Some(error) => Err(Failure::StreamError { code: error.code, message: error.message }),
            None => Ok(()),
        }
    }

    /// What is wrong with an answer that came to its end.
    pub(crate) fn check(&self, asked: &Asked) -> Result<(), Failure> {
        if !self.finished {
            return Err(Failure::Truncated);
        }
        match self.usage.and_then(|usage| usage.contradiction(asked, self.chunks > 0)) {
            Some(contradiction) => Err(Failure::WrongUsage(contradiction)),
            None => Ok(()),
        }
    }
}

/// The time that all others are measured from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin(Instant);

impl Origin {
    pub(crate) fn now() -> Self {
        Self(Instant::now())
    }

    pub(crate) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }

    pub(crate) fn at(self, offset: Duration) -> Instant {
        self.0 + offset
    }
}
