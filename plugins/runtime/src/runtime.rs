//! The loader: inspects, compiles, links and describes a component, and remembers what it compiled.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use sluice_core::{
    DeploymentClass, Descriptor, Digest, LoadError, LoadedPolicy, PolicyLoader, Revision, RevisionId, Slot,
};
use wasmtime::Engine;
use wasmtime::component::{Component as Code, HasSelf, InstancePre, Linker};

use crate::bindings::exports::sluice::policy::{admission_policy, batching_policy, routing_policy};
use crate::bindings::sluice::policy::{host, types};
use crate::budget::{PolicyLog, Voice};
use crate::compiled::{Compiled, Decision, StartError};
use crate::config::config;
use crate::host::Host;
use crate::instance::Origin;
use crate::source::Source;
use crate::ticker::Ticker;
use crate::{Limits, inspect};

/// Components that stay compiled; the one that was used longest ago makes room.
const CACHED: usize = 32;

/// One per process: one wasmtime engine, one ticker.
pub struct Runtime {
    engine: Engine,
    linker: Linker<Host>,
    ticker: Arc<Ticker>,
    log: Arc<dyn PolicyLog>,
    limits: fn(DeploymentClass) -> Limits,
    cache: Mutex<VecDeque<Arc<Loaded>>>,
    /// One compiles at a time: whoever deploys twice must not take both processors.
    compiling: Mutex<()>,
}

/// The machine has no place for components at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the policy runtime: {0}")]
pub struct RuntimeError(String);

impl Runtime {
    pub fn new(log: Arc<dyn PolicyLog>) -> Result<Self, RuntimeError> {
        Self::limited(log, Limits::of)
    }

    /// Gives the same answers on a busy machine: `Limits::without_haste`.
    pub fn for_replay(log: Arc<dyn PolicyLog>) -> Result<Self, RuntimeError> {
        Self::limited(log, Limits::without_haste)
    }

    fn limited(log: Arc<dyn PolicyLog>, limits: fn(DeploymentClass) -> Limits) -> Result<Self, RuntimeError> {
        let failed = |error: &dyn std::fmt::Display| RuntimeError(format!("{error:#}"));
        let engine = Engine::new(&config()).map_err(|error| failed(&error))?;
        let mut linker = Linker::new(&engine);
        host::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host).map_err(|error| failed(&error))?;
        types::add_to_linker::<Host, HasSelf<Host>>(&mut linker, |host| host).map_err(|error| failed(&error))?;
        let ticker = Arc::new(Ticker::start(&engine).map_err(|error| failed(&error))?);
        Ok(Self { engine, linker, ticker, log, limits, cache: Mutex::default(), compiling: Mutex::default() })
    }

    fn cached(&self, digest: Digest, class: DeploymentClass) -> Option<Arc<Loaded>> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let at = cache.iter().position(|loaded| (loaded.digest(), loaded.class) == (digest, class))?;
        let loaded = cache.remove(at)?;
        cache.push_back(Arc::clone(&loaded));
        Some(loaded)
    }

    fn remember(&self, loaded: &Arc<Loaded>) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.push_back(Arc::clone(loaded));
        if cache.len() > CACHED {
            cache.pop_front();
        }
    }

    /// Wasmtime validates and compiles here, on this thread alone.
    fn link(&self, component: &[u8]) -> Result<InstancePre<Host>, LoadError> {
        let code = Code::from_binary(&self.engine, component).map_err(|error| not_compiled(&error))?;
        self.linker.instantiate_pre(&code).map_err(|error| LoadError::Mismatch(format!("{error:#}")))
    }

    fn compile(&self, component: &[u8], digest: Digest, class: DeploymentClass) -> Result<Loaded, LoadError> {
        let limits = (self.limits)(class);
        let slot = inspect::slot_of(component, limits.component_bytes)?;
        let pre = self.link(component)?;
        let fresh = Fresh {
            class,
            voice: Arc::new(Voice::new(Arc::clone(&self.log), digest, limits)),
            origin: Origin { policy: "unnamed".to_owned(), digest, limits, ticker: Arc::clone(&self.ticker) },
        };
        match slot {
            Slot::Admission => fresh.describe(pre, Compilation::Admission),
            Slot::Routing => fresh.describe(pre, Compilation::Routing),
            Slot::Batching => fresh.describe(pre, Compilation::Batching),
        }
    }
}

impl PolicyLoader for Runtime {
    fn load(&self, component: &[u8], class: DeploymentClass) -> Result<Arc<dyn LoadedPolicy>, LoadError> {
        let digest = Digest::of(component);
        let _one_at_a_time = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(loaded) = self.cached(digest, class) {
            return Ok(loaded);
        }
        let loaded = Arc::new(self.compile(component, digest, class)?);
        self.remember(&loaded);
        Ok(loaded)
    }
}

fn not_compiled(error: &wasmtime::Error) -> LoadError {
    match error.downcast_ref::<wasmparser::BinaryReaderError>() {
        Some(invalid) => inspect::malformed(invalid),
        None => LoadError::Compile(format!("{error:#}")),
    }
}

/// Compiled, not yet described.
struct Fresh {
    class: DeploymentClass,
    voice: Arc<Voice>,
    origin: Origin,
}

impl Fresh {
    fn describe<D: Decision>(
        self,
        pre: InstancePre<Host>,
        wrap: impl FnOnce(Arc<Compiled<D>>) -> Compilation,
    ) -> Result<Loaded, LoadError> {
        let compiled = Arc::new(Compiled::<D>::new(pre)?);
        let origin = Arc::new(self.origin);
        let mut component = compiled.start(&origin, &self.voice).map_err(|error| match error {
            StartError::Fault(fault) => LoadError::Describe(fault),
            StartError::Mismatch(reason) => LoadError::Mismatch(reason),
        })?;
        let descriptor = component.describe().map_err(LoadError::Describe)?;
        self.voice.call_it(&descriptor.name);
        let origin = Arc::new(origin.called(&descriptor.name));
        Ok(Loaded { class: self.class, voice: self.voice, origin, code: wrap(compiled), descriptor })
    }
}

enum Compilation {
    Admission(Arc<Compiled<admission_policy::Guest>>),
    Routing(Arc<Compiled<routing_policy::Guest>>),
    Batching(Arc<Compiled<batching_policy::Guest>>),
}

struct Loaded {
    class: DeploymentClass,
    descriptor: Descriptor,
    code: Compilation,
    origin: Arc<Origin>,
    voice: Arc<Voice>,
}

impl Loaded {
    fn source<D: Decision>(&self, compiled: &Arc<Compiled<D>>, config: &str) -> Arc<Source<D>> {
        let id = RevisionId {
            slot: self.slot(),
            name: self.descriptor.name.clone(),
            version: self.descriptor.version.clone(),
            digest: self.digest(),
            config: config.to_owned(),
        };
        let (origin, voice) = (Arc::clone(&self.origin), Arc::clone(&self.voice));
        Arc::new(Source { id, compiled: Arc::clone(compiled), origin, voice })
    }
}

impl LoadedPolicy for Loaded {
    fn slot(&self) -> Slot {
        match self.code {
            Compilation::Admission(_) => Slot::Admission,
            Compilation::Routing(_) => Slot::Routing,
            Compilation::Batching(_) => Slot::Batching,
        }
    }

    fn digest(&self) -> Digest {
        self.origin.digest
    }

    fn class(&self) -> DeploymentClass {
        self.class
    }

    fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    fn revision(&self, config: &str) -> Revision {
        match &self.code {
            Compilation::Admission(compiled) => Revision::Admission(self.source(compiled, config)),
            Compilation::Routing(compiled) => Revision::Routing(self.source(compiled, config)),
            Compilation::Batching(compiled) => Revision::Batching(self.source(compiled, config)),
        }
    }
}
