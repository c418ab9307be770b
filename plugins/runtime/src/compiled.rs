//! A component that was compiled for its slot: linked once, so that an instance costs microseconds.

use std::sync::Arc;

use sluice_core::{LoadError, PolicyFault};
use wasmtime::Store;
use wasmtime::component::InstancePre;

use crate::Export;
use crate::bindings::exports::sluice::policy::{admission_policy, batching_policy, lifecycle, routing_policy};
use crate::budget::Voice;
use crate::component::Component;
use crate::host::Host;
use crate::instance::{Instance, Origin};

/// The exports of one slot: found by name once per component, and bound once per instance.
pub(crate) trait Decision: Sized + Send + 'static {
    type Indices: Send + Sync;

    fn indices(pre: &InstancePre<Host>) -> wasmtime::Result<Self::Indices>;
    fn bind(
        indices: &Self::Indices,
        store: &mut Store<Host>,
        instance: &wasmtime::component::Instance,
    ) -> wasmtime::Result<Self>;
}

macro_rules! decisions {
    ($($module:ident),*) => {$(
        impl Decision for $module::Guest {
            type Indices = $module::GuestIndices;

            fn indices(pre: &InstancePre<Host>) -> wasmtime::Result<Self::Indices> {
                $module::GuestIndices::new(pre)
            }

            fn bind(
                indices: &Self::Indices,
                store: &mut Store<Host>,
                instance: &wasmtime::component::Instance,
            ) -> wasmtime::Result<Self> {
                indices.load(store, instance)
            }
        }
    )*};
}

decisions!(admission_policy, routing_policy, batching_policy);

pub(crate) struct Compiled<D: Decision> {
    pre: InstancePre<Host>,
    lifecycle: lifecycle::GuestIndices,
    decision: D::Indices,
}

impl<D: Decision> Compiled<D> {
    pub(crate) fn new(pre: InstancePre<Host>) -> Result<Self, LoadError> {
        let mismatch = |error: wasmtime::Error| LoadError::Mismatch(format!("{error:#}"));
        let lifecycle = lifecycle::GuestIndices::new(&pre).map_err(mismatch)?;
        let decision = D::indices(&pre).map_err(mismatch)?;
        Ok(Self { pre, lifecycle, decision })
    }

    /// An instance that is not configured yet.
    pub(crate) fn start(&self, origin: &Arc<Origin>, voice: &Arc<Voice>) -> Result<Component<D>, StartError> {
        let store = Store::new(self.pre.engine(), Host::new(Arc::clone(voice), &origin.limits));
        let mut instance = Instance::new(store, Arc::clone(origin));
        let bare = instance.call(Export::Configure, |store| self.pre.instantiate(store)).map_err(StartError::Fault)?;
        let mismatch = |error: wasmtime::Error| StartError::Mismatch(format!("{error:#}"));
        let store = instance.store();
        let lifecycle = self.lifecycle.load(&mut *store, &bare).map_err(mismatch)?;
        let decision = D::bind(&self.decision, store, &bare).map_err(mismatch)?;
        Ok(Component::new(instance, lifecycle, decision))
    }
}

/// Why there is no instance.
pub(crate) enum StartError {
    Fault(PolicyFault),
    /// An export has another type than the slot asks for: seen on the first instance, so while loading.
    Mismatch(String),
}
