//! The seam to whatever runs components: verifies and compiles one, and makes revisions of it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::{
    AdmissionPolicy, BatchingPolicy, Descriptor, Digest, Instantiate, PolicyFault, RevisionId, RoutingPolicy, Slot,
};

/// Which limits a deployment runs under.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DeploymentClass {
    #[default]
    Standard,
    /// For languages that bring an interpreter along: more memory, longer deadlines.
    Script,
}

impl DeploymentClass {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Script => "script",
        }
    }
}

impl fmt::Display for DeploymentClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown deployment class `{0}`: there are standard and script")]
pub struct UnknownClass(pub String);

impl FromStr for DeploymentClass {
    type Err = UnknownClass;

    fn from_str(name: &str) -> Result<Self, UnknownClass> {
        [Self::Standard, Self::Script]
            .into_iter()
            .find(|class| class.as_str() == name)
            .ok_or_else(|| UnknownClass(name.to_owned()))
    }
}

pub trait PolicyLoader: Send + Sync {
    /// Takes as long as compiling takes, so it is never called on a thread that steps.
    fn load(&self, component: &[u8], class: DeploymentClass) -> Result<Arc<dyn LoadedPolicy>, LoadError>;
}

/// A compiled component that has described itself.
pub trait LoadedPolicy: Send + Sync {
    fn slot(&self) -> Slot;
    fn digest(&self) -> Digest;
    fn class(&self) -> DeploymentClass;
    fn descriptor(&self) -> &Descriptor;

    /// `config` is a JSON object; whether the policy takes it shows when it is instantiated.
    fn revision(&self, config: &str) -> Revision;
}

/// What makes instances, for the slot that it fits.
#[derive(Clone)]
pub enum Revision {
    Admission(Arc<dyn Instantiate<dyn AdmissionPolicy>>),
    Routing(Arc<dyn Instantiate<dyn RoutingPolicy>>),
    Batching(Arc<dyn Instantiate<dyn BatchingPolicy>>),
}

impl Revision {
    pub fn id(&self) -> &RevisionId {
        match self {
            Self::Admission(source) => source.revision(),
            Self::Routing(source) => source.revision(),
            Self::Batching(source) => source.revision(),
        }
    }
}

/// Why a file cannot become a policy. Each says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LoadError {
    #[error("the component has {bytes} bytes; at most {limit} are taken: build it with --release and strip it")]
    TooLarge { bytes: usize, limit: usize },
    #[error("not a WebAssembly component: {reason}. {remedy}")]
    NotAComponent { reason: String, remedy: String },
    #[error(
        "exports none of sluice:policy/{{admission,routing,batching}}-policy@0.1.0 together with \
         sluice:policy/lifecycle@0.1.0, but {exports}: implement one of the worlds in wit/"
    )]
    WrongWorld { exports: String },
    #[error(
        "imports `{import}`, which no policy may: only sluice:policy/host@0.1.0 is there; build for wasm32-unknown-unknown"
    )]
    ForbiddenImport { import: String },
    #[error("does not match the interface it names: {0}")]
    Mismatch(String),
    #[error("does not compile: {0}")]
    Compile(String),
    #[error("cannot describe itself: {0}")]
    Describe(PolicyFault),
}
