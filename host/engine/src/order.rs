//! What control may ask of a seat, where one policy instance sits. Orders are carried out at a step boundary.

use std::sync::Arc;

use sluice_core::view::RoutingView;
use sluice_core::view::{ArrivalView, BatchingView, FlowView};
use sluice_core::{AdmissionPolicy, BatchingPolicy, Digest, Installed, Instantiate, Policy, RevisionId, RoutingPolicy};

use crate::recorder::Ring;

/// Called once with the answer, on the thread that steps: it must return at once. Dropped uncalled if the
/// thread ends first.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// A revision ready to take a seat: its instance is built and configured, and another one like it was probed.
pub struct Prepared<P: Policy + ?Sized> {
    pub source: Arc<dyn Instantiate<P>>,
    pub instance: Box<P>,
}

pub enum Order<P: Policy + ?Sized, V> {
    /// A copy of the view that the policy would be given now, to probe a candidate with.
    Snapshot(Reply<V>),
    /// The instance before hands over its state and stays warm as the previous one.
    Install {
        prepared: Prepared<P>,
        reply: Reply<Installed>,
    },
    /// The previous revision takes its seat back.
    Rollback(Reply<Result<Installed, NoPrevious>>),
    /// This digest struck out, here or elsewhere: it leaves the seat, is no longer the previous one, and may not come
    /// back. The answer is what is in force then; `None` is the native rule. Twice is the same as once.
    Evict {
        digest: Digest,
        reply: Reply<Option<RevisionId>>,
    },
    Status(Reply<SeatStatus>),
    /// What the seat's flight recorder holds.
    Record(Reply<Ring>),
}

/// Nothing was in this seat before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no previous revision to go back to")]
pub struct NoPrevious;

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeatStatus {
    /// `None`: the native rule decides.
    pub active: Option<RevisionId>,
    pub previous: Option<RevisionId>,
    pub decisions: u64,
    pub fallbacks: u64,
    /// Strikes within the guard's window.
    pub strikes: u32,
    pub quarantined: Vec<Digest>,
}

/// The thread that holds the seat has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the engine has stopped")]
pub struct Stopped;

/// Hands an order to the thread that holds a seat and wakes it.
pub type OrderSender<P, V> = Arc<dyn Fn(Order<P, V>) -> Result<(), Stopped> + Send + Sync>;

/// Every seat there is: what control holds of the engine.
#[derive(Clone)]
pub struct Seats {
    pub admission: OrderSender<dyn AdmissionPolicy, (ArrivalView, FlowView)>,
    pub routing: OrderSender<dyn RoutingPolicy, RoutingView>,
    /// One per replica, in the order of their ids.
    pub batching: Vec<OrderSender<dyn BatchingPolicy, BatchingView>>,
}
