//! The program: parse, build, run.

use std::process::ExitCode;

use clap::Parser as _;
use sluice::cli::Arguments;

fn main() -> ExitCode {
    match sluice::run(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            // `{:#}` is the whole chain of causes on one line.
            eprintln!("sluice: {error:#}");
            ExitCode::FAILURE
        }
    }
}
