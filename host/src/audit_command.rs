//! `sluice audit`: looks at the record of what was done to the policies.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use sluice_control::{AuditSummary, verify};

use crate::cli::AuditCommand;
use crate::output::say;

pub(crate) fn run(command: AuditCommand) -> Result<ExitCode> {
    let AuditCommand::Verify { file } = command;
    say(&summary(&file, &verify(&file)?))?;
    Ok(ExitCode::SUCCESS)
}

fn summary(file: &Path, found: &AuditSummary) -> String {
    let mut text = format!("{}: {} lines, each follows from the one before", file.display(), found.lines);
    if found.lines > 0 {
        text += &format!("\nnewest: {} {}", found.head.sequence, found.head.hash);
    }
    if found.torn_bytes > 0 {
        text += &format!(
            "\n{} bytes after the last whole line: of a write that is under way or was cut short",
            found.torn_bytes
        );
    }
    text
}
