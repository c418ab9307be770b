//! An SDK policy behind core's traits.

use sluice_core::view::{ArrivalView, BatchingView, FlowView, RoutingView};
use sluice_core::{
    AdmissionPolicy, BatchingDecision, BatchingPolicy, CallCost, Events, NextFlow, Policy, PolicyFault, Route,
    RoutingPolicy, State, Verdict,
};
use sluice_sdk::admission::Admission;
use sluice_sdk::batching::Batching;
use sluice_sdk::guest;
use sluice_sdk::routing::Routing;

use crate::convert;

/// Its calls cost nothing: there is neither fuel nor a clock here.
pub struct Native<P>(P);

impl<P> Native<P> {
    pub fn new(policy: P) -> Self {
        Self(policy)
    }
}

impl<P: sluice_sdk::Policy + Send> Policy for Native<P> {
    fn observe(&mut self, events: &Events) -> Result<(), PolicyFault> {
        self.0.observe(&convert::events(events));
        Ok(())
    }

    fn export_state(&mut self) -> Result<State, PolicyFault> {
        let state = guest::export_state(&self.0);
        Ok(State { schema: state.schema, bytes: state.bytes })
    }

    fn import_state(&mut self, state: &State) -> Result<bool, PolicyFault> {
        let state = sluice_sdk::State { schema: state.schema.clone(), bytes: state.bytes.clone() };
        Ok(guest::import_state(&mut self.0, &state))
    }

    fn last_cost(&self) -> CallCost {
        CallCost::default()
    }
}

impl<P: Admission + Send> AdmissionPolicy for Native<P> {
    fn admit(&mut self, view: &ArrivalView) -> Result<Verdict, PolicyFault> {
        Ok(convert::verdict(self.0.admit(&convert::arrival(view))))
    }

    fn next(&mut self, view: &FlowView) -> Result<NextFlow, PolicyFault> {
        Ok(convert::next_flow(&self.0.next(&convert::flow_view(view))))
    }
}

impl<P: Routing + Send> RoutingPolicy for Native<P> {
    fn rank(&mut self, view: &RoutingView) -> Result<Route, PolicyFault> {
        Ok(convert::route(self.0.rank(&convert::routing(view))))
    }
}

impl<P: Batching + Send> BatchingPolicy for Native<P> {
    fn plan(&mut self, view: &BatchingView) -> Result<BatchingDecision, PolicyFault> {
        Ok(convert::schedule(self.0.plan(&convert::batching(view))))
    }
}
