//! Builds every shipped policy.

use std::process::ExitCode;

/// The folders in `policies/`; `src/lib.rs` embeds what is built here.
const POLICIES: [&str; 6] =
    ["bounded-queue", "fair-share", "first-come", "least-loaded", "two-choices", "utilization-band"];

fn main() -> ExitCode {
    sluice_componentize::embed("../..", "policies", &POLICIES)
}
