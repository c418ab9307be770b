//! Where log lines go: to the standard error, as text on a terminal and as JSON elsewhere.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, LogFormat};

/// Once per process; a second call changes nothing.
pub fn start(format: LogFormat, filter: &str) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(filter).map_err(|error| ConfigError::new("log.filter", error.to_string()))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    let text = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Text => true,
        LogFormat::Json => false,
    };
    let started =
        if text { builder.with_target(false).try_init() } else { builder.json().flatten_event(true).try_init() };
    // Tests start several servers in one process.
    if started.is_err() {
        tracing::debug!("logging had been started before");
    }
    Ok(())
}
