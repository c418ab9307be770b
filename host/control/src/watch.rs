//! A folder whose components are deployed whenever they change: `admission.wasm`, `routing.wasm` and `batching.wasm`,
//! each with its configuration in a `.json` beside it, if it has one.
//!
//! Files count by their bytes. One that changes while it is looked at is left alone until it has rested from one look
//! to the next; one that was refused is not tried again until it changes; one that goes away changes nothing. Links are
//! followed, so that a folder of Kubernetes, which replaces all files at once by turning a link, works as it is.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sluice_core::{DeploymentClass, Digest, Slot};

use crate::control::{Control, DeployRequest};
use crate::error::DeployError;
use crate::history::Event;
use crate::report::Deployment;

/// Owns no thread and no clock: whoever has it looks about once a second.
pub struct DirectoryWatch {
    limits: WatchLimits,
    slots: [Watched; 3],
}

#[derive(Clone, Copy, Debug)]
pub struct WatchLimits {
    pub component_bytes: usize,
    pub configuration_bytes: usize,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WatchError {
    #[error("the folder of policies {folder} cannot be watched: {reason}")]
    Folder { folder: String, reason: String },
    #[error("{file} cannot be read: {reason}")]
    Read { file: String, reason: String },
    #[error("{file} has more than {limit} bytes")]
    TooLarge { file: String, limit: usize },
    #[error("{file} is not text")]
    NotText { file: String },
    #[error(transparent)]
    Deploy(#[from] DeployError),
}

/// What became of a file that had changed.
pub type Found = (Slot, Result<Deployment, WatchError>);

/// The files of one slot.
struct Watched {
    slot: Slot,
    component: PathBuf,
    config: PathBuf,
    /// How they were at the last look.
    seen: Option<Stamp>,
    /// What was last deployed or refused.
    settled: Option<Settled>,
    retry: Retry,
}

/// What changes when a file does, without reading it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Stamp {
    component: FileStamp,
    config: Option<FileStamp>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct FileStamp {
    size: u64,
    modified: (i64, i64),
    /// Device and inode: another file under the same name.
    identity: (u64, u64),
}

struct Settled {
    stamp: Stamp,
    /// `None` where they could not be read.
    digests: Option<Digests>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Digests {
    component: Digest,
    config: Option<Digest>,
}

struct Files {
    component: Vec<u8>,
    config: Option<String>,
}

/// Looks to leave out after a failure that was not the component's, doubled with each.
#[derive(Default)]
struct Retry {
    left: u32,
    last: u32,
}

const LONGEST_RETRY: u32 = 64;

impl DirectoryWatch {
    /// Fails if there is no such folder.
    pub fn open(folder: &Path, limits: WatchLimits) -> Result<Self, WatchError> {
        let failed = |error: io::Error| WatchError::Folder { folder: shown(folder), reason: error.to_string() };
        fs::read_dir(folder).map_err(failed)?;
        Ok(Self { limits, slots: Slot::ALL.map(|slot| Watched::new(folder, slot)) })
    }

    /// Deploys what is there now, without waiting for it to rest: at the start, over the policies that are configured.
    pub fn deploy_present(&mut self, control: &Control) -> Vec<Found> {
        self.look(control, true)
    }

    /// Takes as long as the deployments take, if there is something to deploy.
    pub fn poll(&mut self, control: &Control) -> Vec<Found> {
        self.look(control, false)
    }

    fn look(&mut self, control: &Control, at_rest: bool) -> Vec<Found> {
        let limits = &self.limits;
        let found = self.slots.iter_mut().filter_map(|watched| {
            let outcome = watched.look(control, limits, at_rest)?;
            match &outcome {
                Ok(done) => {
                    tracing::info!(slot = %watched.slot, policy = done.revision.name, "deployed from the folder")
                }
                Err(error) => tracing::warn!(slot = %watched.slot, "not deployed from the folder: {error}"),
            }
            Some((watched.slot, outcome))
        });
        found.collect()
    }
}

impl Watched {
    fn new(folder: &Path, slot: Slot) -> Self {
        let file = |extension| folder.join(format!("{slot}.{extension}"));
        let (component, config) = (file("wasm"), file("json"));
        Self { slot, component, config, seen: None, settled: None, retry: Retry::default() }
    }

    fn look(
        &mut self,
        control: &Control,
        limits: &WatchLimits,
        at_rest: bool,
    ) -> Option<Result<Deployment, WatchError>> {
        let stamp = self.stamp();
        let before = std::mem::replace(&mut self.seen, stamp);
        let stamp = stamp?;
        if self.settled.as_ref().is_some_and(|settled| settled.stamp == stamp) {
            return None;
        }
        if before != self.seen {
            self.retry = Retry::default();
        }
        let rests = at_rest || before == self.seen;
        if !rests || self.retry.is_early() || control.is_deploying() {
            return None;
        }
        let files = self.read(limits);
        if self.stamp() != Some(stamp) {
            return None;
        }
        let files = match files {
            Ok(files) => files,
            Err(error) => {
                self.settled = Some(Settled { stamp, digests: None });
                self.note(control, &error);
                return Some(Err(error));
            }
        };
        let digests = self.changed(stamp, &files)?;
        let result = self.deploy(control, &files);
        match &result {
            Err(error) if is_passing(error) => self.retry.later(),
            _ => self.settled = Some(Settled { stamp, digests: Some(digests) }),
        }
        Some(result.map_err(WatchError::from))
    }

    /// `None` if the bytes are those of before. A configuration that went away is still meant.
    fn changed(&mut self, stamp: Stamp, files: &Files) -> Option<Digests> {
        let config = files.config.as_ref().map(|config| Digest::of(config.as_bytes()));
        let digests = Digests { component: Digest::of(&files.component), config };
        let settled = self.settled.as_ref().and_then(|settled| settled.digests);
        let same = |before: &Digests| {
            before.component == digests.component && (config.is_none() || before.config == digests.config)
        };
        if settled.as_ref().is_some_and(same) {
            self.settled = Some(Settled { stamp, digests: settled });
            return None;
        }
        Some(digests)
    }

    fn deploy(&self, control: &Control, files: &Files) -> Result<Deployment, DeployError> {
        control.deploy(&DeployRequest {
            component: &files.component,
            config: files.config.as_deref(),
            class: DeploymentClass::Standard,
            slot: Some(self.slot),
            by: "directory",
        })
    }

    /// What never came as far as a deployment is in the history too.
    fn note(&self, control: &Control, error: &WatchError) {
        let (by, subject, evidence) = ("directory".to_owned(), self.slot.to_string(), error.to_string());
        // A failure was logged, and is made good for at the next flush.
        let _unwritten =
            control.record(Event { by, action: "deploy", subject, outcome: "refused", evidence, revision: None });
    }

    fn stamp(&self) -> Option<Stamp> {
        Some(Stamp { component: FileStamp::of(&self.component)?, config: FileStamp::of(&self.config) })
    }

    fn read(&self, limits: &WatchLimits) -> Result<Files, WatchError> {
        let component = read(&self.component, limits.component_bytes)?;
        let config = match FileStamp::of(&self.config) {
            None => None,
            Some(_) => Some(read(&self.config, limits.configuration_bytes)?),
        };
        let text = |bytes| String::from_utf8(bytes).map_err(|_| WatchError::NotText { file: shown(&self.config) });
        Ok(Files { component, config: config.map(text).transpose()? })
    }
}

impl FileStamp {
    /// `None` where nothing can be seen.
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            identity: (metadata.dev(), metadata.ino()),
        })
    }
}

impl Retry {
    fn is_early(&mut self) -> bool {
        let early = self.left > 0;
        self.left = self.left.saturating_sub(1);
        early
    }

    fn later(&mut self) {
        self.last = (2 * self.last).clamp(1, LONGEST_RETRY);
        self.left = self.last;
    }
}

/// Another time the same component may be taken.
fn is_passing(error: &DeployError) -> bool {
    matches!(
        error,
        DeployError::InProgress | DeployError::NoAnswer { .. } | DeployError::Stopped(_) | DeployError::Audit(_)
    )
}

fn read(path: &Path, limit: usize) -> Result<Vec<u8>, WatchError> {
    let failed = |reason: String| WatchError::Read { file: shown(path), reason };
    // A pipe would keep whoever opens it waiting.
    let metadata = fs::metadata(path).map_err(|error| failed(error.to_string()))?;
    if !metadata.is_file() {
        return Err(failed("it is not a file".to_owned()));
    }
    let file = File::open(path).map_err(|error| failed(error.to_string()))?;
    let mut bytes = Vec::new();
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut bytes).map_err(|error| failed(error.to_string()))?;
    if bytes.len() > limit {
        return Err(WatchError::TooLarge { file: shown(path), limit });
    }
    Ok(bytes)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[path = "watch_tests.rs"]
mod tests;
