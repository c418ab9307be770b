//! The configuration: typed in four places, meant once.

mod meant;
mod read;
mod sections;

pub use meant::{
    EngineConfig, KvBlocks, LogFormat, ModelConfig, ModelSource, PolicySource, ServeConfig, ServedName, ServerConfig,
};
pub use read::{environment, file};
pub use sections::{EngineSection, LogSection, ModelSection, PoliciesSection, ServerSection, Settings};

/// What was typed does not make sense; the message names the key, and where it was typed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{origin}: {problem}")]
pub struct ConfigError {
    pub origin: String,
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(origin: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { origin: origin.into(), problem: problem.into() }
    }
}

#[cfg(test)]
mod tests;
