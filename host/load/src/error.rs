//! Why there is nothing to report.

use std::io;
use std::path::PathBuf;

use crate::failure::Failure;

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// What was typed cannot be meant.
    #[error("{flag}: {problem}")]
    Usage { flag: &'static str, problem: String },
    #[error("{flag} {}: {source}", path.display())]
    File { flag: &'static str, path: PathBuf, source: io::Error },
    #[error("{}, line {line}: {problem}", path.display())]
    Line { path: PathBuf, line: u64, problem: String },
    #[error("--ca-cert {}: no certificate in PEM's form is in it", .0.display())]
    NoCertificate(PathBuf),
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
    #[error("which model? /v1/models failed ({0}); name one with --model if the server has no such list")]
    Models(Failure),
    #[error("/v1/models lists no model; name one with --model")]
    NoModels,
    #[error("no warm-up request succeeded, so nothing was measured: {0}")]
    WarmUp(Failure),
    #[error("there is no request to send: {0}")]
    NoRequests(String),
}

impl BenchError {
    pub(crate) fn usage(flag: &'static str, problem: impl Into<String>) -> Self {
        Self::Usage { flag, problem: problem.into() }
    }

    /// Whether the remedy is to type something else: the exit code is 2 then.
    pub fn is_usage(&self) -> bool {
        match self {
            Self::Usage { .. }
            | Self::File { .. }
            | Self::Line { .. }
            | Self::NoCertificate(_)
            | Self::NoRequests(_) => true,
            Self::Tls(_) | Self::Models(_) | Self::NoModels | Self::WarmUp(_) => false,
        }
    }
}
