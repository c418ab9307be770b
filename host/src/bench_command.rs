//! `sluice bench`: shows what a load came to, and answers for it with an exit code.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory as _;
use clap::error::ErrorKind;
use sluice_load::BenchArguments;

use crate::cli::Arguments;
use crate::output::say;

pub(crate) async fn run(arguments: BenchArguments) -> Result<ExitCode> {
    match sluice_load::run(arguments).await {
        Ok(finished) => {
            say(finished.text.trim_end())?;
            Ok(if finished.any_succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Err(error) if error.is_usage() => Arguments::command().error(ErrorKind::ValueValidation, error).exit(),
        Err(error) => Err(error.into()),
    }
}
