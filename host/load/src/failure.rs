//! How a request can fail, each by its own name.

use std::time::Duration;

/// Of a message that a server sent, what is kept.
const MAX_MESSAGE_CHARS: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("no connection: {0}")]
    Connect(String),
    #[error("the connection was lost before the answer began: {0}")]
    NoAnswer(String),
    #[error("no complete answer within {0:?}")]
    Timeout(Duration),
    #[error("status {status}: {message}")]
    Status { status: u16, code: Option<String>, message: String },
    #[error("the answer broke off: {0}")]
    BrokenStream(String),
    #[error("the answer ended without a finish_reason")]
    Truncated,
    #[error("an error in the stream: {message}")]
    StreamError { code: Option<String>, message: String },
    #[error("the answer cannot be read: {0}")]
    Malformed(String),
    #[error("the usage cannot be right: {0}")]
    WrongUsage(String),
    #[error("a task of the generator's own panicked")]
    Generator,
    /// Counted by itself, and not among what failed.
    #[error("the load was ended before the answer was")]
    CutShort,
}

impl Failure {
    /// The name under which such failures are counted; a status and an API's error code belong to it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Connect(_) => "connect".to_owned(),
            Self::NoAnswer(_) => "no_answer".to_owned(),
            Self::Timeout(_) => "timeout".to_owned(),
            Self::Status { status, code, .. } => with_code(format!("http_{status}"), code.as_deref()),
            Self::BrokenStream(_) => "broken_stream".to_owned(),
            Self::Truncated => "truncated".to_owned(),
            Self::StreamError { code, .. } => with_code("stream_error".to_owned(), code.as_deref()),
            Self::Malformed(_) => "malformed".to_owned(),
            Self::WrongUsage(_) => "wrong_usage".to_owned(),
            Self::Generator => "generator".to_owned(),
            Self::CutShort => "cut_short".to_owned(),
        }
    }
}

fn with_code(kind: String, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("{kind}:{code}"),
        None => kind,
    }
}

/// A server's message, cut to a length that a report can hold.
pub(crate) fn shortened(message: &str) -> String {
    match message.char_indices().nth(MAX_MESSAGE_CHARS) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// An error with its causes: those of HTTP clients say the least first.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !said.contains(&text) {
            said += ": ";
            said += &text;
        }
        cause = error.source();
    }
    shortened(&said)
}
