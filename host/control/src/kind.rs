//! What differs between the three slots: the policy trait, the view, and how a candidate is probed.

use std::sync::Arc;

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingPolicy, Instantiate, Policy, PolicyFault, ReplicaId, Revision, RoutingPolicy, Seat, Slot,
};
use sluice_engine::check;
use sluice_engine::order::{OrderSender, Seats};

pub(crate) trait Kind: Sized {
    type Policy: Policy + ?Sized;
    type View: Send + 'static;

    const SLOT: Slot;

    /// What makes instances for this slot, if the revision is one of its revisions.
    fn source(revision: &Revision) -> Option<Source<Self>>;

    /// The seats of this slot: one, or one per replica.
    fn seats(seats: &Seats) -> Vec<SeatOf<Self>>;

    /// One decision of a candidate that is thrown away afterwards, on a copy of a live view.
    fn probe(candidate: &mut Self::Policy, view: &Self::View) -> Result<(), ProbeFailure>;
}

pub(crate) type Source<K> = Arc<dyn Instantiate<<K as Kind>::Policy>>;

pub(crate) type SeatOf<K> = (Seat, OrderSender<<K as Kind>::Policy, <K as Kind>::View>);

#[derive(Debug)]
pub(crate) enum ProbeFailure {
    Fault(PolicyFault),
    Invalid(String),
}

impl std::fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Fault(fault) => fault.fmt(f),
            Self::Invalid(reason) => write!(f, "its decision cannot be carried out: {reason}"),
        }
    }
}

impl From<PolicyFault> for ProbeFailure {
    fn from(fault: PolicyFault) -> Self {
        Self::Fault(fault)
    }
}

pub(crate) struct Admission;
pub(crate) struct Routing;
pub(crate) struct Batching;

impl Kind for Admission {
    type Policy = dyn AdmissionPolicy;
    type View = (ArrivalView, FlowView);

    const SLOT: Slot = Slot::Admission;

    fn source(revision: &Revision) -> Option<Source<Self>> {
        if let Revision::Admission(source) = revision { Some(Arc::clone(source)) } else { None }
    }

    fn seats(seats: &Seats) -> Vec<SeatOf<Self>> {
        vec![(Seat { slot: Slot::Admission, replica: None }, seats.admission.clone())]
    }

    fn probe(candidate: &mut Self::Policy, (arrival, flow): &Self::View) -> Result<(), ProbeFailure> {
        let verdict = candidate.admit(arrival)?;
        check::verdict(arrival, &verdict).map_err(ProbeFailure::Invalid)?;
        // Where nothing waits, the question who is next has no right answer, and the engine never asks it.
        if flow.flows.is_empty() {
            return Ok(());
        }
        let next = candidate.next(flow)?;
        check::next_flow(flow, &next).map_err(ProbeFailure::Invalid)
    }
}

impl Kind for Routing {
    type Policy = dyn RoutingPolicy;
    type View = RoutingView;

    const SLOT: Slot = Slot::Routing;

    fn source(revision: &Revision) -> Option<Source<Self>> {
        if let Revision::Routing(source) = revision { Some(Arc::clone(source)) } else { None }
    }

    fn seats(seats: &Seats) -> Vec<SeatOf<Self>> {
        vec![(Seat { slot: Slot::Routing, replica: None }, seats.routing.clone())]
    }

    fn probe(candidate: &mut Self::Policy, view: &Self::View) -> Result<(), ProbeFailure> {
        let route = candidate.rank(view)?;
        check::route(view, &route).map_err(ProbeFailure::Invalid)
    }
}

impl Kind for Batching {
    type Policy = dyn BatchingPolicy;
    type View = BatchingView;

    const SLOT: Slot = Slot::Batching;

    fn source(revision: &Revision) -> Option<Source<Self>> {
        if let Revision::Batching(source) = revision { Some(Arc::clone(source)) } else { None }
    }

    fn seats(seats: &Seats) -> Vec<SeatOf<Self>> {
        let seat = |(index, sender): (usize, &OrderSender<_, _>)| {
            let replica = u32::try_from(index).ok().map(ReplicaId);
            (Seat { slot: Slot::Batching, replica }, OrderSender::clone(sender))
        };
        seats.batching.iter().enumerate().map(seat).collect()
    }

    fn probe(candidate: &mut Self::Policy, view: &Self::View) -> Result<(), ProbeFailure> {
        let decision = candidate.plan(view)?;
        check::batching(view, &decision).map_err(ProbeFailure::Invalid)
    }
}
