//! Builds every shipped policy: each folder in `policies/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice_componentize::embed_policies("../..", "policies")
}
