//! A policy's component: refused, or loaded, configured and asked, within the limits of any other.
//!
//! Almost everything is refused before it is compiled: by its outline, by its types, or at its first bad function.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use sluice_core::view::{BatchingView, FlowView, RoutingView};
use sluice_core::{DeploymentClass, Policy, PolicyLoader, Revision};
use sluice_runtime::{Runtime, Silent};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new(Arc::new(Silent)).expect("the machine runs components"));

fuzz_target!(|bytes: &[u8]| {
    let Ok(loaded) = RUNTIME.load(bytes, DeploymentClass::Standard) else { return };
    match loaded.revision("{}") {
        Revision::Admission(source) => {
            if let Ok(mut policy) = source.instantiate() {
                let _next = policy.next(&FlowView::default());
                keep(policy.as_mut());
            }
        }
        Revision::Routing(source) => {
            if let Ok(mut policy) = source.instantiate() {
                let _route = policy.rank(&RoutingView::default());
                keep(policy.as_mut());
            }
        }
        Revision::Batching(source) => {
            if let Ok(mut policy) = source.instantiate() {
                let _decision = policy.plan(&BatchingView::default());
                keep(policy.as_mut());
            }
        }
    }
});

/// What it exports, it must be able to take back, or refuse.
fn keep<P: Policy + ?Sized>(policy: &mut P) {
    if let Ok(state) = policy.export_state() {
        let _taken = policy.import_state(&state);
    }
}
