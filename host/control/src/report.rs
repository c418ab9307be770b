//! What control tells people and programs: plain data that both edges print.

use serde::{Deserialize, Serialize};
use sluice_core::{Descriptor, Handover, Installed, Nanos, RevisionId, Seat};

use crate::history::UnixMillis;

/// The stages of a revision's life, by the names they have in every layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    Verified,
    Compiled,
    Probed,
    Active,
    Retired,
    Quarantined,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StageReport {
    pub stage: Stage,
    pub unix_ms: UnixMillis,
    pub evidence: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevisionReport {
    pub name: String,
    pub version: String,
    pub digest: String,
    pub config: String,
    pub class: String,
    /// In the order in which it went through them.
    pub stages: Vec<StageReport>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DescriptorReport {
    pub description: String,
    pub configuration_schema: String,
    pub state_schema: String,
}

/// What became of an order at one seat.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    Committed {
        /// `stateless`, `imported` or `cold`.
        handover: String,
        evidence: String,
        pause_ns: Nanos,
    },
    /// The seat commits at its next boundary, which has not come yet.
    Pending,
    /// The seat's thread has ended; it takes the committed revision when it is started again.
    Stopped,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SeatReport {
    pub seat: String,
    /// `name@version digest`; `None` is the native rule.
    pub active: Option<String>,
    pub previous: Option<String>,
    /// How the active revision came here.
    pub installed: Option<Outcome>,
    /// `None` while the seat does not answer.
    pub decisions: Option<u64>,
    pub fallbacks: Option<u64>,
    pub strikes: Option<u32>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SlotReport {
    pub slot: String,
    /// What a restarted replica takes; `None` is the native rule.
    pub committed: Option<RevisionReport>,
    pub descriptor: Option<DescriptorReport>,
    /// What was committed before. Its last stage says whether it can come back: not if it is quarantined.
    pub previous: Option<RevisionReport>,
    /// The seats do not all hold the committed revision.
    pub mixed: bool,
    /// How many seats hold it.
    pub committed_seats: usize,
    pub seats: Vec<SeatReport>,
    /// Digests that may not come back.
    pub quarantined: Vec<String>,
}

/// What came of a deployment or a rollback.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Deployment {
    pub slot: String,
    pub revision: RevisionReport,
    /// Some seats have not committed yet.
    pub mixed: bool,
    pub seats: Vec<(String, Outcome)>,
}

impl From<&Descriptor> for DescriptorReport {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            description: descriptor.description.clone(),
            configuration_schema: descriptor.configuration_schema.clone(),
            state_schema: descriptor.state_schema.clone(),
        }
    }
}

impl From<&Installed> for Outcome {
    fn from(installed: &Installed) -> Self {
        let (handover, evidence) = match &installed.handover {
            Handover::Stateless => ("stateless", String::new()),
            Handover::Imported { bytes } => ("imported", format!("{bytes} bytes")),
            Handover::Cold { reason } => ("cold", reason.clone()),
        };
        Self::Committed { handover: handover.to_owned(), evidence, pause_ns: installed.pause }
    }
}

/// How a revision is called in one line.
pub(crate) fn line(id: &RevisionId) -> String {
    format!("{}@{} {}", id.name, id.version, id.digest.short())
}

pub(crate) fn seat_name(seat: Seat) -> String {
    match seat.replica {
        Some(replica) => format!("{}/{}", seat.slot, replica.0),
        None => seat.slot.to_string(),
    }
}
