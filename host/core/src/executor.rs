//! What computes a batch: a model on a device, or a fake one.

use crate::{Batch, Nanos, StepOutput};

/// A step that was submitted. Tickets finish in the order in which they were given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ticket(pub u64);

/// The device is gone or in an unknown state: the replica is lost, its requests are offered again.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the executor failed: {message}")]
pub struct ExecutorError {
    pub message: String,
}

/// Owned by one replica and driven on its thread. A step allocates nothing that grows.
pub trait Executor {
    /// Steps that may be in flight: 1 where `submit` computes, 2 where a device does while the host plans.
    fn depth(&self) -> usize {
        1
    }

    /// Called once per step. `now` is when it is called.
    fn submit(&mut self, batch: &Batch, now: Nanos) -> Result<Ticket, ExecutorError>;

    /// The oldest ticket, if it has finished. Never blocks.
    fn collect(&mut self, now: Nanos) -> Result<Option<(Ticket, StepOutput)>, ExecutorError>;

    /// Blocks until the oldest ticket has finished; called only while one is in flight.
    fn wait(&mut self) -> Result<(), ExecutorError> {
        Ok(())
    }
}
