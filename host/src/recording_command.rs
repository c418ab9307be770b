//! `sluice policy record` and `replay`: fetches a seat's flight recorder, and lets a component decide again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use reqwest::Method;
use sluice_core::{LoadedPolicy, PolicyLoader as _, Revision, RevisionId, Slot};
use sluice_engine::recorder::{HostVersions, Recording, RevisionRecord};
use sluice_engine::replay::{Difference, ReplayReport, legible, replay as play, slot_of};
use sluice_runtime::{Runtime, Silent};

use crate::admin_client::{AdminClient, bytes};
use crate::cli::ReplayArguments;
use crate::policy_command::{read, read_component};
use crate::server::versions;

/// Of a file; a ring is far smaller.
const MAX_RECORDING: u64 = 256 << 20;
/// Differences that are shown, and the characters of a decision.
const SHOWN: (usize, usize) = (5, 300);

pub(crate) async fn record(slot: Slot, replica: Option<u32>, output: &Path, admin: &AdminClient) -> Result<String> {
    let query: Vec<_> = replica.map(|replica| ("replica", replica.to_string())).into_iter().collect();
    let bytes = bytes(admin.request(Method::GET, &format!("admin/policies/{slot}/recording"), &query)).await?;
    let recording = Recording::from_bytes(&bytes)?;
    fs::write(output, &bytes).with_context(|| output.display().to_string())?;
    Ok(format!("{}: {}", output.display(), head(&recording)))
}

/// The report, and success if nothing differs.
pub(crate) fn replay(arguments: &ReplayArguments) -> Result<(String, ExitCode)> {
    let path = &arguments.recording;
    let bytes = read(path, "recording", MAX_RECORDING)?;
    let recording = Recording::from_bytes(&bytes).with_context(|| path.display().to_string())?;
    let component = read_component(&arguments.component)?;
    let policy = Runtime::for_replay(Arc::new(Silent))?.load(&component, arguments.class)?;
    if let Some(slot) = slot_of(&recording).filter(|slot| *slot != policy.slot()) {
        bail!("{} is of {slot}, but {} is a policy for {}", path.display(), policy.descriptor().name, policy.slot());
    }
    let (config, whence) = configuration(arguments.config.as_deref(), &recording, policy.as_ref())?;
    let revision = policy.revision(&config);
    let report = match &revision {
        Revision::Admission(source) => play(&recording, source),
        Revision::Routing(source) => play(&recording, source),
        Revision::Batching(source) => play(&recording, source),
    };
    let report = report.with_context(|| path.display().to_string())?;
    let code = if report.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    let mut text = head(&recording);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "replayed: {}, {whence}", line(revision.id()));
    text += &told(&report, &recording.versions);
    Ok((text, code))
}

/// What the component is configured with, and where that comes from.
fn configuration(given: Option<&Path>, recording: &Recording, policy: &dyn LoadedPolicy) -> Result<(String, String)> {
    if let Some(path) = given {
        let config = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        return Ok((config, format!("as {} says", path.display())));
    }
    let latest = |same: &dyn Fn(&RevisionRecord) -> bool| recording.revisions().rev().find(|record| same(record));
    if let Some(record) = latest(&|record| record.digest == policy.digest()) {
        return Ok((record.config.clone(), "configured as it was recorded".to_owned()));
    }
    let name = &policy.descriptor().name;
    Ok(match latest(&|record| record.name == *name) {
        Some(record) => {
            let whence = format!("configured as {name}@{} ({}) was recorded", record.version, record.digest.short());
            (record.config.clone(), whence)
        }
        None => ("{}".to_owned(), format!("without a configuration: no {name} is recorded")),
    })
}

/// What was recorded, and by whom.
fn head(recording: &Recording) -> String {
    let HostVersions { host, wasmtime, interface } = &recording.versions;
    let slot = slot_of(recording).map_or_else(|| "nothing decided".to_owned(), |slot| slot.to_string());
    let (entries, dropped) = (recording.entries.len(), recording.dropped);
    let mut text = format!("{slot}, {entries} entries, {dropped} older ones dropped\n");
    let _ = writeln!(text, "recorded by: sluice {host}, wasmtime {wasmtime}, interface {interface}");
    let mut seen: Vec<&RevisionRecord> = Vec::new();
    for record in recording.revisions() {
        if !seen.contains(&record) {
            let RevisionRecord { name, version, digest, config } = record;
            let _ = writeln!(text, "recorded: {name}@{version} {digest} {config}");
            seen.push(record);
        }
    }
    text
}

fn line(id: &RevisionId) -> String {
    format!("{}@{} {} {}", id.name, id.version, id.digest, id.config)
}

fn told(report: &ReplayReport, recorded: &HostVersions) -> String {
    let ReplayReport { own, decisions, faults, passed_over, differences, fuel } = report;
    let whose = if *own { "its own decisions only" } else { "all decisions, since it is not among the recorded" };
    let mut text = format!("compared: {whose}\n");
    let _ = writeln!(text, "decisions: {decisions}\nfaults: {faults} recorded, not compared");
    let _ = writeln!(text, "passed over: {passed_over} decisions of other revisions");
    let here = versions();
    let same = (&recorded.wasmtime, &recorded.interface) == (&here.wasmtime, &here.interface);
    if same {
        let (before, now, apart) = (fuel.recorded, fuel.replayed, fuel.differences);
        let _ = writeln!(text, "fuel: {before} recorded, {now} replayed, {apart} decisions took another amount");
    } else {
        let _ = writeln!(
            text,
            "made with another version: this program has wasmtime {} and interface {}, so fuel is not compared",
            here.wasmtime, here.interface
        );
    }
    let _ = writeln!(text, "differences: {}", differences.len());
    text.extend(differences.iter().take(SHOWN.0).map(shown));
    if differences.len() > SHOWN.0 {
        let _ = writeln!(text, "  and {} more", differences.len() - SHOWN.0);
    }
    text
}

fn shown(difference: &Difference) -> String {
    let Difference { entry, tag, recorded, replayed } = difference;
    let replayed = match replayed {
        Ok(decision) => legible(*tag, decision),
        Err(fault) => fault.to_string(),
    };
    format!("  entry {entry}\n    recorded {}\n    replayed {}\n", short(&legible(*tag, recorded)), short(&replayed))
}

fn short(text: &str) -> String {
    match text.char_indices().nth(SHOWN.1) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
