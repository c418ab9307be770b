//! Chains that are whole, tampered with, cut short, or on a disk that is full.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn entry(sequence: u64, evidence: &str) -> Entry {
    Entry {
        sequence,
        unix_ms: 1000 + sequence,
        by: "admin".to_owned(),
        action: "deploy".to_owned(),
        subject: "batching".to_owned(),
        outcome: "done".to_owned(),
        evidence: evidence.to_owned(),
        digest: Some("ab".repeat(32)),
        config_digest: None,
    }
}

fn three(audit: &mut Audit) -> AuditHead {
    audit.append(&[entry(1, "one")]).unwrap();
    audit.append(&[entry(2, "two, with \"quotes\",\"hash\":\"and\" a\nbreak"), entry(5, "fünf")]).unwrap();
    audit.head().clone()
}

/// A log of three lines.
fn log() -> (TempDir, PathBuf, AuditHead) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let head = three(&mut Audit::open(&path).unwrap());
    (folder, path, head)
}

fn broken(path: &Path) -> (u64, String) {
    match verify(path) {
        Err(AuditError::Broken { line, reason, .. }) => (line, reason),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_chain_goes_on_where_it_was_left() {
    let (_folder, path, head) = log();
    let summary = verify(&path).unwrap();
    let times = (summary.first_unix_ms, summary.last_unix_ms);
    assert_eq!((summary.lines, times, summary.torn_bytes), (3, (Some(1001), Some(1005)), 0));
    assert_eq!(summary.head, head);

    let mut audit = Audit::open(&path).unwrap();
    assert_eq!(audit.head(), &head);
    let newest = audit.take_newest();
    assert_eq!(newest.iter().map(|entry| entry.sequence).collect::<Vec<_>>(), [1, 2, 5]);
    assert_eq!(newest[2], entry(5, "fünf"));
    audit.append(&[entry(6, "six")]).unwrap();
    assert_eq!(verify(&path).unwrap().lines, 4);
}

/// Pinned, so that a log of today can be read tomorrow, and by others.
#[test]
fn a_line_is_an_object_whose_hash_is_of_the_rest() {
    let (_folder, path, _) = log();
    let text = fs::read_to_string(path).unwrap();
    let first = text.lines().next().unwrap();
    let body = format!(
        r#"{{"sequence":1,"unix_ms":1001,"by":"admin","action":"deploy","subject":"batching","outcome":"done","evidence":"one","digest":"{}","previous":"{}"}}"#,
        "ab".repeat(32),
        "0".repeat(64)
    );
    let hash = Digest::of(body.as_bytes());
    assert_eq!(first, format!(r#"{},"hash":"{hash}"}}"#, body.strip_suffix('}').unwrap()));
}

proptest! {
    #[test]
    fn any_byte_that_is_changed_is_found(at in 0usize..10_000, byte: u8) {
        let disk = FullDisk::default();
        three(&mut Audit::on(Box::new(disk.clone())));
        let mut bytes = disk.bytes.lock().unwrap().clone();
        let at = at % bytes.len();
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, bytes).unwrap();
        prop_assert!(verify(&path).map_or(true, |summary| summary.torn_bytes > 0 && summary.lines < 3));
    }
}

proptest! {
    // Each opens a log, which waits for the disk.
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn any_file_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.jsonl");
        fs::write(&path, &bytes).unwrap();
        let summary = verify(&path);
        prop_assert_eq!(summary.is_ok(), !bytes.contains(&b'\n'));
        prop_assert_eq!(Audit::open(&path).is_ok(), summary.is_ok());
    }
}

#[test]
fn lines_that_are_missing_or_moved_are_found() {
    let (_folder, path, _) = log();
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let cases = [
        (vec![lines[1], lines[2]], 1, "does not follow"),
        (vec![lines[0], lines[2]], 2, "does not follow"),
        (vec![lines[0], lines[2], lines[1]], 2, "does not follow"),
        (vec![lines[0], lines[0]], 2, "does not follow"),
        (vec![lines[0], "{}"], 2, "no hash"),
        (vec![lines[0], ""], 2, "no hash"),
    ];
    for (lines, at, reason) in cases {
        fs::write(&path, lines.join("\n") + "\n").unwrap();
        let (line, found) = broken(&path);
        assert_eq!(line, at);
        assert!(found.contains(reason), "{found}");
        let error = Audit::open(&path).err().unwrap().to_string();
        assert!(error.contains(&format!("line {at}")) && error.contains("move it away"), "{error}");
    }
    // The end can be cut off without breaking the chain: that is what the newest hash is kept elsewhere for.
    fs::write(&path, format!("{}\n", lines[0])).unwrap();
    assert_eq!(verify(&path).unwrap().head.sequence, 1);
}

#[test]
fn a_line_is_never_read_beyond_its_limit() {
    let (_folder, path, _) = log();
    fs::write(&path, "x".repeat(LINE_BYTES as usize)).unwrap();
    assert!(broken(&path).1.contains("longer than"));
}

#[test]
fn what_a_crash_cut_short_is_set_aside() {
    let (_folder, path, head) = log();
    let whole = fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn.extend_from_slice(b"{\"sequence\":6,\"unix");
    fs::write(&path, torn).unwrap();
    assert_eq!(verify(&path).unwrap().torn_bytes, 19);

    let mut audit = Audit::open(&path).unwrap();
    assert_eq!(audit.head(), &head);
    assert_eq!(fs::read(&path).unwrap(), whole);
    let aside = format!("{}.torn-at-{}", path.display(), whole.len());
    assert_eq!(fs::read(aside).unwrap(), b"{\"sequence\":6,\"unix");
    audit.append(&[entry(6, "six")]).unwrap();
    assert_eq!(verify(&path).unwrap().lines, 4);
}

#[test]
fn one_server_writes_a_log() {
    let (_folder, path, _) = log();
    let first = Audit::open(&path).unwrap();
    assert_eq!(Audit::open(&path).err(), Some(AuditError::Locked { path: path.display().to_string() }));
    assert!(verify(&path).is_ok());
    drop(first);
    assert!(Audit::open(&path).is_ok());
}

#[test]
fn a_log_that_cannot_be_there_says_why() {
    let error = Audit::open(Path::new("/proc/no/such/audit.jsonl")).err().unwrap().to_string();
    assert!(error.contains("/proc/no/such/audit.jsonl cannot be opened"), "{error}");
    assert!(verify(Path::new("/proc/no/such/audit.jsonl")).is_err());
}

/// A disk that takes so many writes, and of the next ones half.
#[derive(Clone)]
pub(crate) struct FullDisk {
    pub(crate) bytes: Arc<Mutex<Vec<u8>>>,
    writes: Arc<AtomicUsize>,
}

impl Disk for FullDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let left = self.writes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        let full = left.is_err();
        let taken = if full { bytes.len() / 2 } else { bytes.len() };
        self.bytes.lock().unwrap().extend_from_slice(&bytes[..taken]);
        if full { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.bytes.lock().unwrap().truncate(usize::try_from(length).unwrap());
        Ok(())
    }
}

impl Default for FullDisk {
    fn default() -> Self {
        Self { bytes: Arc::default(), writes: Arc::new(AtomicUsize::new(usize::MAX)) }
    }
}

impl FullDisk {
    pub(crate) fn take(&self, writes: usize) {
        self.writes.store(writes, Ordering::SeqCst);
    }

    /// The lines that are there, if they are a chain and nothing else.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        let bytes = self.bytes.lock().unwrap().clone();
        let (mut reader, mut chain, mut entries) = (bytes.as_slice(), Chain::default(), Vec::new());
        while let Some(entry) = chain.next(&mut reader).unwrap().ok().expect("a chain") {
            entries.push(entry);
        }
        assert!(chain.torn.is_empty());
        entries
    }
}

#[test]
fn after_a_full_disk_the_chain_goes_on_without_a_torn_line() {
    let disk = FullDisk::default();
    let mut audit = Audit::on(Box::new(disk.clone()));
    audit.append(&[entry(1, "one")]).unwrap();
    let before = audit.head().clone();
    disk.take(0);
    for _ in 0..3 {
        let error = audit.append(&[entry(2, "two")]).unwrap_err().to_string();
        assert!(error.contains("cannot be written") && error.contains("Make room"), "{error}");
        assert_eq!(audit.head(), &before);
    }
    disk.take(usize::MAX);
    audit.append(&[entry(2, "two"), entry(3, "three")]).unwrap();
    assert_eq!(disk.entries(), [entry(1, "one"), entry(2, "two"), entry(3, "three")]);
}
