//! What was done to the policies, by whom and with what outcome: numbered, only ever appended to, bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sluice_core::Digest;

/// Milliseconds since 1970.
pub type UnixMillis = u64;

/// Tells the time of day, for people who read the history.
pub type WallClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// From 1 on, and on from the audit log's last one if there is a log. A gap at the start shows that older entries
    /// were dropped.
    pub sequence: u64,
    pub unix_ms: UnixMillis,
    /// Who caused it: `startup`, `directory`, `engine`, or whoever asked for it on the admin listener.
    pub by: String,
    /// `deploy`, `rollback`, `fault`, `quarantine`, `recall`, `replica-lost` or `audit`.
    pub action: String,
    /// The slot or the seat.
    pub subject: String,
    /// `done`, `refused`, `mixed`, `failed` or, for what merely happened, `seen`. With an audit log also `begun`,
    /// written before the first seat is touched.
    pub outcome: String,
    pub evidence: String,
    /// SHA-256 of the component, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// SHA-256 of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_digest: Option<String>,
}

/// What an entry says, before it has its number and time.
pub(crate) struct Event {
    pub(crate) by: String,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
    pub(crate) outcome: &'static str,
    pub(crate) evidence: String,
    pub(crate) revision: Option<EventRevision>,
}

/// What was deployed, or was to be.
pub(crate) struct EventRevision {
    pub(crate) digest: String,
    pub(crate) config: String,
}

pub(crate) struct History {
    entries: VecDeque<Entry>,
    next: u64,
    limit: usize,
}

impl Event {
    /// What decides which code is in force is kept for ever. Faults and losses are not: a policy could fill the disk.
    pub(crate) fn is_audited(&self) -> bool {
        matches!(self.action, "deploy" | "rollback" | "quarantine" | "recall" | "audit")
    }
}

/// A message may quote a guest; more of it than this is noise.
const EVIDENCE_BYTES: usize = 1024;

impl History {
    /// `before` are the newest entries of the audit log.
    pub(crate) fn new(limit: usize, before: Vec<Entry>) -> Self {
        let next = before.last().map_or(1, |entry| entry.sequence + 1);
        let mut history = Self { entries: VecDeque::new(), next, limit: limit.max(1) };
        for entry in before {
            history.push(entry);
        }
        history
    }

    pub(crate) fn append(&mut self, unix_ms: UnixMillis, event: Event) -> &Entry {
        let Event { by, action, subject, outcome, evidence, revision } = event;
        let (digest, config) = revision.map(|revision| (revision.digest, revision.config)).unzip();
        let entry = Entry {
            sequence: self.next,
            unix_ms,
            by: shorten(by),
            action: action.to_owned(),
            subject,
            outcome: outcome.to_owned(),
            evidence: shorten(evidence),
            digest,
            config_digest: config.map(|config| Digest::of(config.as_bytes()).to_string()),
        };
        self.next += 1;
        self.push(entry)
    }

    fn push(&mut self, entry: Entry) -> &Entry {
        if self.entries.len() == self.limit {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        &self.entries[self.entries.len() - 1]
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.entries.iter().cloned().collect()
    }
}

/// At most `EVIDENCE_BYTES`, cut between two characters.
pub(crate) fn shorten(mut text: String) -> String {
    if text.len() > EVIDENCE_BYTES {
        text.truncate(text.floor_char_boundary(EVIDENCE_BYTES));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(evidence: String) -> Event {
        Event {
            by: "admin".into(),
            action: "deploy",
            subject: "routing".into(),
            outcome: "done",
            evidence,
            revision: None,
        }
    }

    #[test]
    fn the_oldest_entries_go_and_numbers_run_on() {
        let mut history = History::new(3, Vec::new());
        for time in 0..5 {
            history.append(time, event(time.to_string()));
        }
        let numbers: Vec<u64> = history.entries().iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [3, 4, 5]);
    }

    #[test]
    fn evidence_is_cut_between_characters() {
        let mut history = History::new(3, Vec::new());
        history.append(0, event("ä".repeat(600) + "x"));
        history.append(0, event(format!("x{}", "ä".repeat(600))));
        assert!(history.entries().iter().all(|entry| entry.evidence.len() <= EVIDENCE_BYTES + '…'.len_utf8()));
    }
}
