//! Compiles a policy on a thread that steps back, so that the threads that step are not held up by it.

use std::sync::Arc;
use std::thread;

use sluice_core::{DeploymentClass, LoadError, LoadedPolicy, PolicyLoader};

/// Of the compiling thread; on Linux a niceness belongs to one thread, and nobody needs a privilege to step back.
const NICENESS: i32 = 10;

pub(crate) struct PatientLoader(pub(crate) Arc<dyn PolicyLoader>);

impl PolicyLoader for PatientLoader {
    fn load(&self, component: &[u8], class: DeploymentClass) -> Result<Arc<dyn LoadedPolicy>, LoadError> {
        thread::scope(|scope| {
            let compiling = scope.spawn(|| {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    tracing::debug!(%error, "the compiler keeps its priority");
                }
                self.0.load(component, class)
            });
            compiling.join().unwrap_or_else(|_| Err(LoadError::Compile("the compiler panicked".into())))
        })
    }
}
