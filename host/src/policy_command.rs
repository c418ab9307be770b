//! `sluice policy`: talks to a running server's admin listener, and reads components without one.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use serde::Deserialize;
use sluice_control::{Deployment, Entry, Outcome, SlotReport};
use sluice_core::{DeploymentClass, PolicyLoader as _, Slot};
use sluice_runtime::{Limits, Runtime, Silent};

use crate::admin_client::{AdminClient, json};
use crate::cli::PolicyCommand;
use crate::recording_command::{record, replay};

/// What the command says when it has worked, and what it exits with.
pub(crate) async fn run(command: PolicyCommand) -> Result<(String, ExitCode)> {
    let text = match command {
        PolicyCommand::Record { slot, replica, output, admin } => {
            record(slot, replica, &output, &AdminClient::new(&admin)?).await
        }
        PolicyCommand::Replay(arguments) => return replay(&arguments),
        PolicyCommand::List(admin) => {
            let admin = AdminClient::new(&admin)?;
            let Slots { slots } = json(admin.request(Method::GET, "admin/policies", &[])).await?;
            Ok(slots.iter().map(list).collect())
        }
        PolicyCommand::Deploy { component, config, class, slot, admin } => {
            let query = deploy_query(config.as_deref(), class, slot)?;
            let component = read_component(&component)?;
            let request = AdminClient::new(&admin)?.request(Method::POST, "admin/policies", &query);
            deployed(json(request.header("content-type", "application/wasm").body(component)).await?)
        }
        PolicyCommand::Rollback { slot, admin } => {
            let path = format!("admin/policies/{slot}/rollback");
            deployed(json(AdminClient::new(&admin)?.request(Method::POST, &path, &[])).await?)
        }
        PolicyCommand::Inspect { component, class } => inspect(&read_component(&component)?, class),
        PolicyCommand::History(admin) => {
            let admin = AdminClient::new(&admin)?;
            let Entries { entries } = json(admin.request(Method::GET, "admin/history", &[])).await?;
            Ok(entries.iter().map(history_line).collect())
        }
    };
    Ok((text?, ExitCode::SUCCESS))
}

#[derive(Deserialize)]
struct Slots {
    slots: Vec<SlotReport>,
}

#[derive(Deserialize)]
struct Entries {
    entries: Vec<Entry>,
}

fn deploy_query(
    config: Option<&Path>,
    class: DeploymentClass,
    slot: Option<Slot>,
) -> Result<Vec<(&'static str, String)>> {
    let mut query = vec![("class", class.to_string())];
    if let Some(slot) = slot {
        query.push(("slot", slot.to_string()));
    }
    if let Some(path) = config {
        let config = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        query.push(("config", config));
    }
    Ok(query)
}

pub(crate) fn read_component(path: &Path) -> Result<Vec<u8>> {
    read(path, "component", Limits::of(DeploymentClass::Standard).component_bytes as u64)
}

pub(crate) fn read(path: &Path, what: &str, limit: u64) -> Result<Vec<u8>> {
    let size = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    if size > limit {
        bail!("{} has {size} bytes; a {what} has at most {limit}", path.display());
    }
    fs::read(path).with_context(|| path.display().to_string())
}

fn list(slot: &SlotReport) -> String {
    let mut text = String::new();
    let mixed =
        if slot.mixed { format!(", mixed: {} of {}", slot.committed_seats, slot.seats.len()) } else { String::new() };
    let committed = match &slot.committed {
        Some(revision) => format!("{}@{} {} {}", revision.name, revision.version, &revision.digest, revision.config),
        None => "the native rule".to_owned(),
    };
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}: {committed}{mixed}", slot.slot);
    for seat in &slot.seats {
        let active = seat.active.as_deref().unwrap_or("the native rule");
        let count = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
        let (decisions, fallbacks) = (count(seat.decisions), count(seat.fallbacks));
        let _ = writeln!(text, "  {}: {active}, {decisions} decisions, {fallbacks} fallbacks", seat.seat);
    }
    if let Some(previous) = &slot.previous {
        let _ = writeln!(text, "  previous: {}@{} {}", previous.name, previous.version, previous.digest);
    }
    text
}

fn deployed(done: Deployment) -> Result<String> {
    let revision = &done.revision;
    let mut text = format!("{}: {}@{} {}\n", done.slot, revision.name, revision.version, revision.digest);
    for (seat, outcome) in &done.seats {
        let outcome = match outcome {
            Outcome::Committed { handover, evidence, pause_ns } => {
                let pause = *pause_ns as f64 / 1e6;
                let evidence = if evidence.is_empty() { String::new() } else { format!(" ({evidence})") };
                format!("committed, state {handover}{evidence}, pause {pause:.3} ms")
            }
            Outcome::Pending => "commits when its step is over".to_owned(),
            Outcome::Stopped => "is lost, and takes it when it comes back".to_owned(),
        };
        let _ = writeln!(text, "  {seat}: {outcome}");
    }
    Ok(text)
}

fn history_line(entry: &Entry) -> String {
    let Entry { sequence, unix_ms, by, action, subject, outcome, evidence, .. } = entry;
    let (seconds, milliseconds) = (unix_ms / 1000, unix_ms % 1000);
    format!("{sequence} {seconds}.{milliseconds:03} {by} {action} {subject} {outcome}: {evidence}\n")
}

fn inspect(component: &[u8], class: DeploymentClass) -> Result<String> {
    let runtime = Runtime::new(Arc::new(Silent))?;
    let policy = runtime.load(component, class)?;
    let (descriptor, limits) = (policy.descriptor(), Limits::of(class));
    let mut text = format!(
        "{}@{}: {}\nslot: {}\ndigest: {}\nbytes: {}\nstate schema: {}\nconfiguration schema: {}\nlimits ({class}):\n",
        descriptor.name,
        descriptor.version,
        descriptor.description,
        policy.slot(),
        policy.digest(),
        component.len(),
        if descriptor.state_schema.is_empty() { "none" } else { &descriptor.state_schema },
        descriptor.configuration_schema,
    );
    let _ = writeln!(text, "  memory {} MiB, fuel {} a call", limits.memory_bytes >> 20, limits.fuel_per_call);
    let bounds = [
        ("admission", limits.admission),
        ("routing", limits.routing),
        ("batching", limits.batching),
        ("state", limits.state),
        ("configure", limits.configure),
    ];
    for (call, bound) in bounds {
        let _ = writeln!(text, "  {call}: deadline {:?}, result {} KiB", bound.deadline, bound.result_bytes >> 10);
    }
    Ok(text)
}
