//! A policy of every slot that always decides the same: a recording is replayed to it for the reading alone.

use std::sync::Arc;

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingDecision, BatchingPolicy, CallCost, Digest, Events, Instantiate, NextFlow, Policy,
    PolicyFault, RevisionId, Route, RoutingPolicy, Slot, State, Verdict,
};

/// The policy, and what makes it.
pub struct Idle {
    revision: RevisionId,
}

struct Seated;

impl Idle {
    pub fn source(slot: Slot) -> Arc<Self> {
        let (name, version, config) = ("idle".to_owned(), String::new(), String::new());
        Arc::new(Self { revision: RevisionId { slot, name, version, digest: Digest([0; 32]), config } })
    }
}

impl Policy for Seated {
    fn observe(&mut self, _: &Events) -> Result<(), PolicyFault> {
        Ok(())
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        Ok(State { schema: String::new(), bytes: Vec::new() })
    }

    fn import_state(&mut self, _: &State) -> Result<bool, PolicyFault> {
        Ok(true)
    }

    fn last_cost(&self) -> CallCost {
        CallCost::default()
    }
}

impl AdmissionPolicy for Seated {
    fn admit(&mut self, _: &ArrivalView) -> Result<Verdict, PolicyFault> {
        Ok(Verdict::Accept { priority: 0 })
    }

    fn next(&mut self, _: &FlowView) -> Result<NextFlow, PolicyFault> {
        Ok(NextFlow::HoldUntil(0))
    }
}

impl RoutingPolicy for Seated {
    fn rank(&mut self, _: &RoutingView) -> Result<Route, PolicyFault> {
        Ok(Route::HoldUntil(0))
    }
}

impl BatchingPolicy for Seated {
    fn plan(&mut self, _: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        Ok(BatchingDecision::default())
    }
}

macro_rules! instantiate {
    ($($policy:ident),*) => {$(
        impl Instantiate<dyn $policy> for Idle {
            fn revision(&self) -> &RevisionId {
                &self.revision
            }

            fn instantiate(&self) -> Result<Box<dyn $policy>, PolicyFault> {
                Ok(Box::new(Seated))
            }
        }
    )*};
}

instantiate!(AdmissionPolicy, RoutingPolicy, BatchingPolicy);
