//! The policies that the server starts with: those configured, and over them those in the watched folder.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use sluice_control::{Control, ControlLimits, DeployRequest, Deployment, DirectoryWatch, WatchLimits};
use sluice_core::{DeploymentClass, Slot};
use sluice_http::EdgeLimits;

use crate::config::{FirstPolicy, PoliciesConfig, PolicySource};

/// Deploys what is configured, and over it what lies in the folder: in the order of `Slot::ALL`.
pub(crate) fn deploy(config: &PoliciesConfig, control: &Control) -> Result<(Vec<Deployment>, Option<DirectoryWatch>)> {
    let configured = Slot::ALL.into_iter().zip(&config.first).map(|(slot, first)| deploy_one(slot, first, control));
    let mut deployed = configured.collect::<Result<Vec<_>>>()?;
    let mut folder = config.directory.as_deref().map(open).transpose()?;
    let found = folder.as_mut().map(|folder| folder.deploy_present(control)).unwrap_or_default();
    for (slot, outcome) in found {
        if let Ok(done) = outcome {
            deployed[slot as usize] = done;
        }
    }
    Ok((deployed, folder))
}

fn open(folder: &Path) -> Result<DirectoryWatch> {
    let limits = WatchLimits {
        component_bytes: EdgeLimits::default().component_bytes,
        configuration_bytes: ControlLimits::default().configuration_bytes,
    };
    Ok(DirectoryWatch::open(folder, limits)?)
}

/// The shipped and the given policies go the way of every other: probed, then installed.
fn deploy_one(slot: Slot, first: &FirstPolicy, control: &Control) -> Result<Deployment> {
    let read;
    let (component, name) = match &first.source {
        PolicySource::Shipped(policy) => (policy.component, policy.name.to_owned()),
        PolicySource::File(path) => {
            let name = path.display().to_string();
            read = fs::read(path).with_context(|| name.clone())?;
            (read.as_slice(), name)
        }
    };
    let class = DeploymentClass::Standard;
    let request = DeployRequest { component, config: first.config.as_deref(), class, slot: Some(slot), by: "startup" };
    control.deploy(&request).with_context(|| format!("the {slot} policy {name}"))
}
