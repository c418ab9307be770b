//! The configuration: typed in four places, meant once.

mod engine;
mod layers;
mod meant;
mod model;
mod policies;
mod read;
mod sections;
mod server;

pub use engine::{DeviceChoice, EngineConfig, EngineConfigs, KeepDequantized, KvBlocks};
pub use layers::Layers;
pub use meant::{LogFormat, ServeConfig};
pub use model::{ModelConfig, ModelSource, ServedName};
pub use policies::{FirstPolicy, PoliciesConfig, PolicySource};
pub use read::{environment, file};
pub use sections::{
    AuditSection, AuthSection, EngineSection, LogSection, MetricsSection, ModelSection, PoliciesSection, ServerSection,
    Settings, TimeoutsSection, TlsSection,
};
pub use server::{AuthConfig, ServerConfig, TlsConfig};

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

fn at_least_one(key: &str, value: u64) -> Result<(), ConfigError> {
    if value == 0 { Err(ConfigError::new(key, "must be at least 1")) } else { Ok(()) }
}

#[cfg(test)]
mod tests;
