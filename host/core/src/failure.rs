//! Why a request that was let in got no whole answer.

use crate::Nanos;

/// Told to the client.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
    /// When trying again has a chance, where it has one.
    pub retry_after: Option<Nanos>,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum FailureKind {
    /// It waited in the queue for longer than any request may.
    QueueTimeout,
    /// Its replica was lost after it had sent something, so it cannot be served again.
    ReplicaLost,
    /// It was with so many replicas when they were lost that it is held to be the reason.
    Poison,
    /// The model's numbers are none.
    NotANumber,
    /// The server is told to go.
    Stopping,
    /// A fault of the host.
    Internal,
}

impl Failure {
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), retry_after: None }
    }
}
