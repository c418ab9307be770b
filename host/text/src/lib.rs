//! Tokenising, incremental detokenising, stop strings and chat templates.
//!
//! Architecture invariant: the only crate that knows tokenizers and minijinja. Nothing here waits, and everything that
//! a client can make large has a limit.

mod answer;
mod date;
mod detokenizer;
mod error;
mod files;
mod guarded;
mod json;
mod pieces;
mod special;
mod stop;
mod template;
mod text;
mod tokenizer;

pub use answer::Answer;
pub use date::UnixSeconds;
pub use detokenizer::Detokenizer;
pub use error::{FilesError, StopError, TemplateError, TextError, TokenizerError};
pub use files::TextFiles;
pub use stop::{MAX_STOP_BYTES, MAX_STOPS, StopMatcher};
pub use template::{ChatMessage, ChatTemplate, MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES};
pub use text::Text;
pub use tokenizer::{MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES, Tokenizer};
