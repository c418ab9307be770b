//! The audit log: what was done to the policies, a JSON object a line, each with the hash of the line before.
//!
//! A line's `hash` is the SHA-256 of the line as it would be without it, and `previous` is the hash of the line before:
//! zeros in the first. Whoever changes, removes or inserts a line breaks the chain behind it. Who rewrites it from
//! there to the end does not: against that, keep the newest hash somewhere else. The file is never rotated or shortened.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sluice_core::Digest;

use crate::history::{Entry, UnixMillis};

/// A log that is open: verified, and locked against a second server.
pub struct Audit {
    path: PathBuf,
    disk: Box<dyn Disk>,
    head: AuditHead,
    /// Bytes of whole lines.
    length: u64,
    /// A write failed, and what it left behind could not be removed yet.
    is_torn: bool,
    newest: Vec<Entry>,
}

/// The newest line of a log: what to keep elsewhere, so that nobody can rewrite the end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AuditHead {
    /// 0 before the first line.
    pub sequence: u64,
    pub hash: String,
}

/// What a whole chain says of itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct AuditSummary {
    pub lines: u64,
    pub first_unix_ms: Option<UnixMillis>,
    pub last_unix_ms: Option<UnixMillis>,
    pub head: AuditHead,
    /// Bytes after the last whole line: of a write that was cut short, or is under way.
    pub torn_bytes: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AuditError {
    #[error("the audit log {path} cannot be opened: {reason}")]
    Open { path: String, reason: String },
    #[error("another server writes the audit log {path}: stop it, or give each a file of its own")]
    Locked { path: String },
    #[error(
        "the audit log {path} is broken in line {line}: {reason}. It was changed by something else: keep it as evidence, \
         and move it away to begin a new one"
    )]
    Broken { path: String, line: u64, reason: String },
    #[error("the audit log {path} cannot be written: {reason}. Make room for it, or mend the disk")]
    Write { path: String, reason: String },
}

/// Where lines go. What `write` was given may be lost until `sync` has returned.
pub(crate) trait Disk: Send {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    fn sync(&mut self) -> io::Result<()>;
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A line but for its own hash, in the order of its fields.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    sequence: u64,
    unix_ms: UnixMillis,
    by: String,
    action: String,
    subject: String,
    outcome: String,
    evidence: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config_digest: Option<String>,
    previous: String,
}

/// A chain as far as it was read.
#[derive(Default)]
struct Chain {
    lines: u64,
    length: u64,
    head: AuditHead,
    torn: Vec<u8>,
}

/// A line that does not follow from the ones before.
struct BadLine(String);

/// Longer than every line that is written here: evidence is cut before.
const LINE_BYTES: u64 = 64 * 1024;

/// How many of the newest entries are kept for the history.
const NEWEST: usize = 1000;

const HASH: &str = ",\"hash\":\"";

impl Audit {
    /// Verifies what is there. What a crash left behind the last whole line is moved to a file beside it.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let failed = |error: io::Error| AuditError::Open { path: shown(path), reason: error.to_string() };
        let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path).map_err(failed)?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => AuditError::Locked { path: shown(path) },
            TryLockError::Error(error) => failed(error),
        })?;
        sync_directory(path).map_err(failed)?;
        let mut newest = VecDeque::new();
        let chain = read(path, &file, |entry| {
            if newest.len() == NEWEST {
                newest.pop_front();
            }
            newest.push_back(entry);
        })?;
        if !chain.torn.is_empty() {
            let aside = set_aside(path, &chain).and_then(|aside| file.set_len(chain.length).map(|()| aside));
            let aside = aside.map_err(failed)?;
            let bytes = chain.torn.len();
            tracing::warn!(log = %path.display(), aside = %aside.display(), bytes, "the last line was cut short");
        }
        let (head, length) = (chain.head, chain.length);
        Ok(Self { path: path.to_owned(), disk: Box::new(file), head, length, is_torn: false, newest: newest.into() })
    }

    #[cfg(test)]
    pub(crate) fn on(disk: Box<dyn Disk>) -> Self {
        let head = AuditHead::default();
        Self { path: "memory".into(), disk, head, length: 0, is_torn: false, newest: Vec::new() }
    }

    /// The newest entries, the oldest of them first: once.
    pub(crate) fn take_newest(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.newest)
    }

    pub(crate) fn head(&self) -> &AuditHead {
        &self.head
    }

    /// Returns when all of these are on the disk. After an error none of them is, and they may be given again.
    pub(crate) fn append(&mut self, entries: &[Entry]) -> Result<(), AuditError> {
        let (mut lines, mut head) = (String::new(), self.head.clone());
        for entry in entries {
            let line = line(entry, &head).map_err(|error| self.cannot_write(&error))?;
            head = AuditHead { sequence: entry.sequence, hash: line.hash };
            lines.push_str(&line.text);
        }
        self.write(lines.as_bytes()).map_err(|error| self.cannot_write(&error))?;
        self.head = head;
        Ok(())
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.is_torn {
            self.disk.truncate(self.length)?;
        }
        let written = self.disk.write(lines).and_then(|()| self.disk.sync());
        // What may be there of lines that count as not written must go, now or before the next ones.
        self.is_torn = written.is_err() && self.disk.truncate(self.length).is_err();
        written?;
        self.length += lines.len() as u64;
        Ok(())
    }

    fn cannot_write(&self, error: &dyn std::error::Error) -> AuditError {
        AuditError::Write { path: shown(&self.path), reason: error.to_string() }
    }
}

impl Default for AuditHead {
    fn default() -> Self {
        Self { sequence: 0, hash: Digest([0; 32]).to_string() }
    }
}

impl Disk for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

/// Reads the whole log, which may be in use, and says what it holds if its chain is whole.
pub fn verify(path: &Path) -> Result<AuditSummary, AuditError> {
    let failed = |error: io::Error| AuditError::Open { path: shown(path), reason: error.to_string() };
    let file = File::open(path).map_err(failed)?;
    let (mut first_unix_ms, mut last_unix_ms) = (None, None);
    let chain = read(path, &file, |entry| {
        first_unix_ms.get_or_insert(entry.unix_ms);
        last_unix_ms = Some(entry.unix_ms);
    })?;
    let torn_bytes = chain.torn.len() as u64;
    Ok(AuditSummary { lines: chain.lines, first_unix_ms, last_unix_ms, head: chain.head, torn_bytes })
}

/// Reads a chain from its start, line by line.
fn read(path: &Path, mut file: &File, mut each: impl FnMut(Entry)) -> Result<Chain, AuditError> {
    let failed = |error: io::Error| AuditError::Open { path: shown(path), reason: error.to_string() };
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let (mut reader, mut chain) = (BufReader::new(file), Chain::default());
    loop {
        match chain.next(&mut reader).map_err(failed)? {
            Ok(Some(entry)) => each(entry),
            Ok(None) => return Ok(chain),
            Err(BadLine(reason)) => {
                return Err(AuditError::Broken { path: shown(path), line: chain.lines + 1, reason });
            }
        }
    }
}

impl Chain {
    /// The entry of the next whole line, if there is one.
    fn next(&mut self, reader: &mut impl BufRead) -> io::Result<Result<Option<Entry>, BadLine>> {
        let mut line = Vec::new();
        reader.by_ref().take(LINE_BYTES).read_until(b'\n', &mut line)?;
        let Some(text) = line.strip_suffix(b"\n") else {
            if line.len() as u64 == LINE_BYTES {
                return Ok(Err(BadLine(format!("it is longer than {LINE_BYTES} bytes"))));
            }
            self.torn = line;
            return Ok(Ok(None));
        };
        let next = follow(text, &self.head);
        Ok(next.map(|(entry, head)| {
            self.lines += 1;
            self.length += line.len() as u64;
            self.head = head;
            Some(entry)
        }))
    }
}

/// Checks a line against the one before.
fn follow(line: &[u8], before: &AuditHead) -> Result<(Entry, AuditHead), BadLine> {
    let bad = |reason: &str| BadLine(reason.to_owned());
    let text = std::str::from_utf8(line).map_err(|_| bad("it is not text"))?;
    let (body, hash) = text.rsplit_once(HASH).ok_or_else(|| bad("it has no hash at its end"))?;
    let hash = hash.strip_suffix("\"}").ok_or_else(|| bad("it has no hash at its end"))?;
    let body = format!("{body}}}");
    if Digest::of(body.as_bytes()).to_string() != hash {
        return Err(bad("its hash is not that of its text"));
    }
    let record: Record = serde_json::from_str(&body).map_err(|error| BadLine(error.to_string()))?;
    if record.previous != before.hash {
        return Err(bad("it does not follow the line before"));
    }
    if record.sequence <= before.sequence {
        return Err(bad("its number is not above that of the line before"));
    }
    let head = AuditHead { sequence: record.sequence, hash: hash.to_owned() };
    Ok((Entry::from(record), head))
}

struct Line {
    text: String,
    hash: String,
}

fn line(entry: &Entry, before: &AuditHead) -> serde_json::Result<Line> {
    let body = serde_json::to_string(&Record::new(entry.clone(), before.hash.clone()))?;
    let hash = Digest::of(body.as_bytes()).to_string();
    let open = body.strip_suffix('}').unwrap_or(&body);
    Ok(Line { text: format!("{open}{HASH}{hash}\"}}\n"), hash })
}

impl Record {
    fn new(entry: Entry, previous: String) -> Self {
        let Entry { sequence, unix_ms, by, action, subject, outcome, evidence, digest, config_digest } = entry;
        Self { sequence, unix_ms, by, action, subject, outcome, evidence, digest, config_digest, previous }
    }
}

impl From<Record> for Entry {
    fn from(record: Record) -> Self {
        let Record { sequence, unix_ms, by, action, subject, outcome, evidence, digest, config_digest, .. } = record;
        Self { sequence, unix_ms, by, action, subject, outcome, evidence, digest, config_digest }
    }
}

/// What was cut short was never reported as done, but it may say what was about to be.
fn set_aside(path: &Path, chain: &Chain) -> io::Result<PathBuf> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".torn-at-{}", chain.length));
    let aside = PathBuf::from(aside);
    let mut file = OpenOptions::new().create(true).append(true).mode(0o600).open(&aside)?;
    file.write_all(&chain.torn)?;
    file.sync_all()?;
    Ok(aside)
}

/// A new file's name is on the disk only then.
fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
#[path = "audit_tests.rs"]
pub(crate) mod tests;
