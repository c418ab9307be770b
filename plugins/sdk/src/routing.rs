//! Routing: which replica takes it?

use crate::Request;
pub use crate::bindings::routing::exports::sluice::policy::routing_policy::{
    Choice, ReplicaTable, Route, RoutingView as View,
};
pub use crate::rows::{Replica, ReplicaState};

pub trait Routing: crate::Policy {
    /// Once per request that is about to leave the central queue.
    fn rank(&mut self, view: &View) -> Route;
}

impl View {
    pub fn replicas(&self) -> impl DoubleEndedIterator<Item = Replica> + ExactSizeIterator + Clone + '_ {
        self.replicas.rows()
    }

    /// Only these can be given the request.
    pub fn ready(&self) -> impl Iterator<Item = Replica> + Clone + '_ {
        self.replicas().filter(|replica| replica.state == ReplicaState::Ready)
    }
}

impl Replica {
    /// Tokens outstanding if it took the request: what it has in flight, and what of the prompt it would have to
    /// compute.
    pub fn outstanding_with(&self, request: &Request) -> u64 {
        let cached = self.cached_prefix_tokens.unwrap_or(0);
        self.in_flight_tokens.saturating_add(request.prompt_tokens.saturating_sub(cached).into())
    }
}

/// Exports a routing policy from its crate: the component on wasm32, the name and version everywhere.
#[macro_export]
macro_rules! export_routing {
    ($policy:ident) => {
        $crate::package!($policy);

        #[cfg(target_arch = "wasm32")]
        #[allow(unsafe_code, reason = "the canonical ABI's exports are generated")]
        const _: () = {
            use $crate::routing::{Route, Routing, View};

            $crate::component!($policy, routing);

            impl $crate::bindings::routing::exports::sluice::policy::routing_policy::Guest for Component {
                fn rank(view: View) -> Route {
                    INSTANCE.with(|instance| instance.call(|policy| policy.rank(&view)))
                }
            }
        };
    };
}
