//! The program: parse, build, run.

use std::process::ExitCode;

use clap::Parser as _;
use sluice::cli::Arguments;
use sluice::output;

fn main() -> ExitCode {
    match sluice::run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sluice: {}", output::with_causes(&error));
            ExitCode::FAILURE
        }
    }
}
