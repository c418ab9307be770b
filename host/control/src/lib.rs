//! Revisions per slot and replica, deployment, rollback and their history: what both edges call.
//!
//! Architecture invariant: no HTTP, no wasmtime and no tokio. Components come through `sluice_core::PolicyLoader`.

mod ask;
mod audit;
mod control;
mod error;
mod history;
mod kind;
mod ledger;
mod report;
mod seating;
mod watch;

#[cfg(test)]
mod fake;

pub use audit::{Audit, AuditError, AuditHead, AuditSummary, verify};
pub use control::{Control, ControlLimits, ControlParts, DeployRequest};
pub use error::{DeployError, RecordError, RollbackError};
pub use history::{Entry, UnixMillis, WallClock};
pub use report::{Deployment, DescriptorReport, Outcome, RevisionReport, SeatReport, SlotReport, Stage, StageReport};
pub use watch::{DirectoryWatch, Found, WatchError, WatchLimits};
