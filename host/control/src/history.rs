//! What was done to the policies, by whom and with what outcome: numbered, only ever appended to, bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
pub type UnixMillis = u64;

/// Tells the time of day, for people who read the history.
pub type WallClock = Arc<dyn Fn() -> UnixMillis + Send + Sync>;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Entry {
    /// From 1 on; a gap at the start shows that older entries were dropped.
    pub sequence: u64,
    pub unix_ms: UnixMillis,
    /// Who caused it: `startup`, `admin` or `engine`.
    pub by: String,
    /// `deploy`, `rollback`, `fault`, `quarantine`, `recall` or `replica-lost`.
    pub action: String,
    /// The slot or the seat.
    pub subject: String,
    /// `done`, `refused`, `mixed`, `failed` or, for what merely happened, `seen`.
    pub outcome: String,
    pub evidence: String,
}

/// What an entry says, before it has its number and time.
pub(crate) struct Event {
    pub(crate) by: String,
    pub(crate) action: &'static str,
    pub(crate) subject: String,
    pub(crate) outcome: &'static str,
    pub(crate) evidence: String,
}

pub(crate) struct History {
    entries: VecDeque<Entry>,
    next: u64,
    limit: usize,
}

/// A message may quote a guest; more of it than this is noise.
const EVIDENCE_BYTES: usize = 1024;

impl History {
    pub(crate) fn new(limit: usize) -> Self {
        Self { entries: VecDeque::new(), next: 1, limit: limit.max(1) }
    }

    pub(crate) fn append(&mut self, unix_ms: UnixMillis, event: Event) {
        if self.entries.len() == self.limit {
            self.entries.pop_front();
        }
        let Event { by, action, subject, outcome, evidence } = event;
        self.entries.push_back(Entry {
            sequence: self.next,
            unix_ms,
            by,
            action: action.to_owned(),
            subject,
            outcome: outcome.to_owned(),
            evidence: shorten(evidence),
        });
        self.next += 1;
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
        Event { by: "admin".into(), action: "deploy", subject: "routing".into(), outcome: "done", evidence }
    }

    #[test]
    fn the_oldest_entries_go_and_numbers_run_on() {
        let mut history = History::new(3);
        for time in 0..5 {
            history.append(time, event(time.to_string()));
        }
        let numbers: Vec<u64> = history.entries().iter().map(|entry| entry.sequence).collect();
        assert_eq!(numbers, [3, 4, 5]);
    }

    #[test]
    fn evidence_is_cut_between_characters() {
        let mut history = History::new(3);
        history.append(0, event("ä".repeat(600) + "x"));
        history.append(0, event(format!("x{}", "ä".repeat(600))));
        assert!(history.entries().iter().all(|entry| entry.evidence.len() <= EVIDENCE_BYTES + '…'.len_utf8()));
    }
}
