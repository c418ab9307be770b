//! Admission: may this request come in, and who is served next?

use std::cmp::Reverse;

pub use crate::bindings::admission::exports::sluice::policy::admission_policy::{
    ArrivalView, FlowTable, FlowView, NextFlow, Pool, Rejection, Verdict,
};
pub use crate::rows::Flow;
use crate::{Nanos, SECOND};

pub trait Admission: crate::Policy {
    /// Once per request that arrives.
    fn admit(&mut self, view: &ArrivalView) -> Verdict;

    /// When a replica has room and more than one flow waits.
    fn next(&mut self, view: &FlowView) -> NextFlow;
}

impl ArrivalView {
    /// What waited or ran before the request came.
    pub fn flows(&self) -> impl DoubleEndedIterator<Item = Flow> + ExactSizeIterator + Clone + '_ {
        self.flows.rows()
    }

    /// Requests that are served before this one where tenants share by weight: its tenant's own, each with what others
    /// are served beside it. Tenants that do not wait are served what they ask for, which shows in what they have in
    /// flight; those that wait share the rest.
    pub fn ahead_by_weight(&self) -> f64 {
        let request = &self.request;
        let (mut own, mut content, mut weights) = (0, 0_u32, request.tenant_weight);
        for flow in self.flows() {
            if flow.tenant == request.tenant {
                own = flow.queued_requests;
            } else if flow.queued_requests == 0 {
                content = content.saturating_add(flow.in_flight_requests);
            } else {
                weights += flow.weight;
            }
        }
        let rest = 1.0 - f64::from(content) / f64::from(self.pool.in_flight_requests.max(1));
        f64::from(own) / (rest * request.tenant_weight / weights).max(f64::MIN_POSITIVE)
    }
}

impl FlowView {
    pub fn flows(&self) -> impl DoubleEndedIterator<Item = Flow> + ExactSizeIterator + Clone + '_ {
        self.flows.rows()
    }

    /// The flows that have a request to be served.
    pub fn waiting(&self) -> impl Iterator<Item = Flow> + Clone + '_ {
        self.flows().filter(|flow| flow.queued_requests > 0)
    }

    /// Of those that wait, the one with the most urgent head, and among equals the one that has waited longest.
    pub fn most_urgent(&self) -> Option<Flow> {
        self.waiting().max_by_key(|flow| (flow.head_priority, flow.head_wait, Reverse(flow.tenant)))
    }

    /// Serves this flow; the question comes again within a second where there is none.
    pub fn serve(&self, flow: Option<Flow>) -> NextFlow {
        flow.map_or(NextFlow::HoldUntil(self.now.saturating_add(SECOND)), |flow| NextFlow::Serve(flow.tenant))
    }
}

impl Rejection {
    /// The server is busy (503).
    pub fn busy(reason: impl Into<String>, retry_after: Nanos) -> Self {
        Self { caller: false, reason: reason.into(), retry_after }
    }

    /// This caller asks for too much (429).
    pub fn too_much(reason: impl Into<String>, retry_after: Nanos) -> Self {
        Self { caller: true, reason: reason.into(), retry_after }
    }
}

/// Exports an admission policy from its crate: the component on wasm32, the name and version everywhere.
#[macro_export]
macro_rules! export_admission {
    ($policy:ident) => {
        $crate::package!($policy);

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the canonical ABI's exports are generated")]
        const _: () = {
            use $crate::admission::{Admission, ArrivalView, FlowView, NextFlow, Verdict};

            $crate::component!($policy, admission);

            impl $crate::bindings::admission::exports::sluice::policy::admission_policy::Guest for Component {
                fn admit(view: ArrivalView) -> Verdict {
                    INSTANCE.with(|instance| instance.call(|policy| policy.admit(&view)))
                }

                fn next(view: FlowView) -> NextFlow {
                    INSTANCE.with(|instance| instance.call(|policy| policy.next(&view)))
                }
            }
        };
    };
}
