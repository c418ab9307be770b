//! A revision's source: makes configured instances of one component.

use std::sync::Arc;

use sluice_core::{AdmissionPolicy, BatchingPolicy, FaultKind, Instantiate, PolicyFault, RevisionId, RoutingPolicy};

use crate::bindings::exports::sluice::policy::{admission_policy, batching_policy, routing_policy};
use crate::budget::Voice;
use crate::compiled::{Compiled, Decision, StartError};
use crate::component::Component;
use crate::instance::Origin;

pub(crate) struct Source<D: Decision> {
    pub(crate) id: RevisionId,
    pub(crate) compiled: Arc<Compiled<D>>,
    pub(crate) origin: Arc<Origin>,
    pub(crate) voice: Arc<Voice>,
}

impl<D: Decision> Source<D> {
    fn configured(&self) -> Result<Box<Component<D>>, PolicyFault> {
        let mut component = self.compiled.start(&self.origin, &self.voice).map_err(|error| match error {
            StartError::Fault(fault) => fault,
            StartError::Mismatch(reason) => self.origin.fault(FaultKind::Trap(reason)),
        })?;
        component.configure(&self.id.config)?;
        Ok(Box::new(component))
    }
}

macro_rules! instantiate {
    ($($module:ident as $policy:ident),*) => {$(
        impl Instantiate<dyn $policy> for Source<$module::Guest> {
            fn revision(&self) -> &RevisionId {
                &self.id
            }

            fn instantiate(&self) -> Result<Box<dyn $policy>, PolicyFault> {
                Ok(self.configured()?)
            }
        }
    )*};
}

instantiate!(admission_policy as AdmissionPolicy, routing_policy as RoutingPolicy, batching_policy as BatchingPolicy);
