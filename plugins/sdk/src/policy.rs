//! What all policies share: a configuration, events, and state that outlives a swap.

use crate::{Configuration, Events};

/// Implemented by the export macros: what the policy's own Cargo.toml says of it.
pub trait Package {
    const NAME: &'static str;
    const VERSION: &'static str;
    const DESCRIPTION: &'static str;
}

/// The defaults are those of a policy that learns nothing and remembers nothing.
pub trait Policy: Package + Sized + 'static {
    type Config: Configuration;

    /// Names the layout of the exported bytes; change it whenever they change. Empty for a policy without state.
    const STATE_SCHEMA: &'static str = "";

    /// Once, before anything else. The error names what is wrong with the values taken together; each alone is
    /// within its range.
    fn new(config: Self::Config) -> Result<Self, String>;

    /// Before a decision, when something happened since the last.
    fn observe(&mut self, _events: &Events) {}

    /// Every few seconds, and when this instance is replaced.
    fn export_state(&self) -> Vec<u8> {
        Vec::new()
    }

    /// At most once, before the first decision; `bytes` have this policy's schema. False is a cold start.
    fn import_state(&mut self, _bytes: &[u8]) -> bool {
        false
    }
}
