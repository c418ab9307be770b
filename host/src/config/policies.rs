//! Which policies the server starts with, and where new ones come from.

use std::fs;
use std::path::PathBuf;

use sluice_bundle::Shipped;
use sluice_core::Slot;
use toml::Value;

use super::{ConfigError, PoliciesSection};

#[derive(Clone, Debug)]
pub struct PoliciesConfig {
    /// In the order of `Slot::ALL`.
    pub first: [FirstPolicy; 3],
    /// Watched for components.
    pub directory: Option<PathBuf>,
}

/// What a slot starts with.
#[derive(Clone, Debug)]
pub struct FirstPolicy {
    pub source: PolicySource,
    /// A JSON object; without it the policy's own defaults.
    pub config: Option<String>,
}

#[derive(Clone, Debug)]
pub enum PolicySource {
    Shipped(&'static Shipped),
    File(PathBuf),
}

impl PoliciesConfig {
    pub(super) fn of(typed: PoliciesSection) -> Result<Self, ConfigError> {
        Ok(Self {
            first: [
                first(Slot::Admission, typed.admission.as_deref(), typed.admission_config)?,
                first(Slot::Routing, typed.routing.as_deref(), typed.routing_config)?,
                first(Slot::Batching, typed.batching.as_deref(), typed.batching_config)?,
            ],
            directory: typed.directory,
        })
    }
}

fn first(slot: Slot, source: Option<&str>, config: Option<Value>) -> Result<FirstPolicy, ConfigError> {
    let config = config.map(|config| json(slot, config)).transpose()?;
    Ok(FirstPolicy { source: policy_source(slot, source)?, config })
}

/// Whatever looks like a file is one; everything else must be the name of a shipped policy of that slot.
fn policy_source(slot: Slot, typed: Option<&str>) -> Result<PolicySource, ConfigError> {
    let shipped = match typed {
        Some(path) if path.ends_with(".wasm") || path.contains('/') => return Ok(PolicySource::File(path.into())),
        Some(name) => sluice_bundle::shipped(name).filter(|policy| policy.slot == slot.as_str()),
        None => sluice_bundle::default_for(slot.as_str()),
    };
    let names = || {
        let of_slot = sluice_bundle::SHIPPED.iter().filter(|policy| policy.slot == slot.as_str());
        of_slot.map(|policy| policy.name).collect::<Vec<_>>().join(", ")
    };
    shipped.map(PolicySource::Shipped).ok_or_else(|| {
        let problem = format!("no shipped policy `{}`: there are {}, or a .wasm file", typed.unwrap_or(""), names());
        ConfigError::new(format!("policies.{slot}"), problem)
    })
}

/// A table becomes JSON; a string is JSON already, or names a file that holds it. What is in it, the policy judges.
fn json(slot: Slot, typed: Value) -> Result<String, ConfigError> {
    let wrong = |problem: String| ConfigError::new(format!("policies.{slot}_config"), problem);
    let text = match typed {
        Value::String(text) if text.trim_start().starts_with('{') => text,
        Value::String(path) => fs::read_to_string(&path).map_err(|error| wrong(format!("{path}: {error}")))?,
        table => serde_json::to_string(&table).map_err(|error| wrong(error.to_string()))?,
    };
    match serde_json::from_str::<serde_json::Value>(&text) {
        Ok(serde_json::Value::Object(_)) => Ok(text),
        Ok(_) => Err(wrong("must be a table, or a JSON object".to_owned())),
        Err(error) => Err(wrong(format!("is no JSON object: {error}"))),
    }
}
