//! What the edge holds of the engine: hands requests to the pool's thread.

use std::sync::Arc;

use sluice_core::{FinishReason, Nanos, Request, RequestId};

use crate::order::Stopped;

/// What the edge asks of the pool.
pub enum PoolCommand {
    /// All that a client asks for at once: all of it comes in, or nothing.
    Offer(Vec<Request>),
    /// The client left (`Cancelled`) or a stop string matched (`Stop`).
    Finish(RequestId, FinishReason),
}

/// Cheap to clone. Every request that is offered gets exactly one `Rejected` or `End` through its sink.
#[derive(Clone)]
pub struct PoolHandle {
    commands: Arc<dyn Fn(PoolCommand) -> Result<(), Stopped> + Send + Sync>,
    now: Arc<dyn Fn() -> Nanos + Send + Sync>,
}

impl PoolHandle {
    pub fn new(
        commands: Arc<dyn Fn(PoolCommand) -> Result<(), Stopped> + Send + Sync>,
        now: Arc<dyn Fn() -> Nanos + Send + Sync>,
    ) -> Self {
        Self { commands, now }
    }

    /// All of them come in, or none.
    pub fn offer_all(&self, requests: Vec<Request>) -> Result<(), Stopped> {
        (self.commands)(PoolCommand::Offer(requests))
    }

    /// Ends a request early; what it already holds is freed at the next step boundary. Unknown ids are ignored.
    pub fn finish(&self, id: RequestId, reason: FinishReason) -> Result<(), Stopped> {
        (self.commands)(PoolCommand::Finish(id, reason))
    }

    /// The engine's time, for arrivals and deadlines.
    pub fn now(&self) -> Nanos {
        (self.now)()
    }
}
