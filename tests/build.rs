//! Builds the hostile guests into components. They are tested against and never shipped.

use std::process::ExitCode;

const GUESTS: [&str; 4] = ["hostile-admission", "hostile-batching", "hostile-describe", "hostile-routing"];

fn main() -> ExitCode {
    sluice_componentize::embed("..", "tests/guests", &GUESTS)
}
