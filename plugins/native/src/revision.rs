//! A revision whose instances are native, so that the engine can be driven without a runtime for components.

use std::marker::PhantomData;

use sluice_core::{
    AdmissionPolicy, BatchingPolicy, Digest, FaultKind, Instantiate, PolicyFault, RevisionId, RoutingPolicy, Slot,
};
use sluice_sdk::admission::Admission;
use sluice_sdk::batching::Batching;
use sluice_sdk::guest::configure;
use sluice_sdk::routing::Routing;

use crate::Native;

/// Its digest is all zeros: there is no component.
pub struct NativeRevision<P> {
    id: RevisionId,
    policy: PhantomData<fn() -> P>,
}

impl<P: sluice_sdk::Policy> NativeRevision<P> {
    /// `config` is the JSON object that a component would take.
    pub fn new(slot: Slot, config: &str) -> Self {
        let id = RevisionId {
            slot,
            name: P::NAME.to_owned(),
            version: P::VERSION.to_owned(),
            digest: Digest::NATIVE,
            config: config.to_owned(),
        };
        Self { id, policy: PhantomData }
    }

    fn configured(&self) -> Result<Box<Native<P>>, PolicyFault> {
        let fault = |message| PolicyFault {
            policy: self.id.name.clone(),
            digest: Digest::NATIVE,
            kind: FaultKind::Configuration(message),
        };
        configure::<P>(&self.id.config).map(|policy| Box::new(Native::new(policy))).map_err(fault)
    }
}

macro_rules! instantiate {
    ($($slot:ident as $policy:ident),*) => {$(
        impl<P: $slot + Send> Instantiate<dyn $policy> for NativeRevision<P> {
            fn revision(&self) -> &RevisionId {
                &self.id
            }

            fn instantiate(&self) -> Result<Box<dyn $policy>, PolicyFault> {
                Ok(self.configured()?)
            }
        }
    )*};
}

instantiate!(Admission as AdmissionPolicy, Routing as RoutingPolicy, Batching as BatchingPolicy);

#[cfg(test)]
mod tests {
    use super::*;
    use sluice_core::BatchingDecision;
    use sluice_core::view::{BatchingView, EngineLimits};

    #[test]
    fn a_native_revision_makes_configured_instances() {
        let revision = NativeRevision::<first_come::FirstCome>::new(Slot::Batching, r#"{"max_running": 3}"#);
        let limits = EngineLimits { max_sequences: 9, max_batched_tokens: 64, ..EngineLimits::default() };
        let mut policy = Instantiate::<dyn BatchingPolicy>::instantiate(&revision).unwrap();
        let decision = policy.plan(&BatchingView { limits, ..BatchingView::default() }).unwrap();
        assert_eq!(decision, BatchingDecision { max_running: 3, token_budget: 64, ..BatchingDecision::default() });
    }

    #[test]
    fn a_configuration_that_is_refused_is_a_fault() {
        let revision = NativeRevision::<first_come::FirstCome>::new(Slot::Batching, r#"{"max_runing": 3}"#);
        let fault = Instantiate::<dyn BatchingPolicy>::instantiate(&revision).err().unwrap();
        assert!(fault.to_string().contains("the nearest is `max_running`"), "{fault}");
    }
}
