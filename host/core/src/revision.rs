//! A revision: one component with one configuration, in one of the three slots.

use std::fmt;
use std::str::FromStr;

use crate::{Policy, PolicyFault};

/// The three decisions, by the names they have in every layer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Slot {
    Admission,
    Routing,
    Batching,
}

impl Slot {
    pub const ALL: [Self; 3] = [Self::Admission, Self::Routing, Self::Batching];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::Routing => "routing",
            Self::Batching => "batching",
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("unknown slot `{0}`: there are admission, routing and batching")]
pub struct UnknownSlot(pub String);

impl FromStr for Slot {
    type Err = UnknownSlot;

    fn from_str(name: &str) -> Result<Self, UnknownSlot> {
        Self::ALL.into_iter().find(|slot| slot.as_str() == name).ok_or_else(|| UnknownSlot(name.to_owned()))
    }
}

/// SHA-256 of a component's bytes. All zeros stands for code that is not a component: the native rules.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    pub const NATIVE: Self = Self([0; 32]);

    pub fn of(bytes: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The first twelve hexadecimal digits: for people and for metrics.
    pub fn short(&self) -> String {
        self.to_string()[..12].to_owned()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

/// Which revision: what it is, and with which configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RevisionId {
    pub slot: Slot,
    /// As the policy describes itself.
    pub name: String,
    pub version: String,
    pub digest: Digest,
    /// The JSON object it is configured with.
    pub config: String,
}

/// Makes instances of one revision: for a swap, and afresh after a trap. `P` is one of the three policy traits.
pub trait Instantiate<P: Policy + ?Sized>: Send + Sync {
    fn revision(&self) -> &RevisionId;

    /// A configured instance in its first state.
    fn instantiate(&self) -> Result<Box<P>, PolicyFault>;
}
