//! Tokenising, incremental detokenising, stop strings and chat templates.
//!
//! Architecture invariant: the only crate that knows tokenizers and minijinja. Nothing here waits, and everything that
//! a client can make large has a limit.

mod alphabet;
mod answer;
mod byte_level;
mod chat;
mod chatml;
mod date;
mod detokenizer;
mod error;
mod files;
mod gguf;
mod guarded;
mod json;
mod merges;
mod pieces;
mod python_float;
mod ranks;
mod special;
mod stop;
mod template;
mod text;
mod tojson;
mod tokenizer;

pub use answer::Answer;
pub use chat::{ChatMessage, ChatRequest, MAX_KWARGS, NoMessage};
pub use date::UnixSeconds;
pub use detokenizer::Detokenizer;
pub use error::{FilesError, GgufError, RanksError, StopError, TemplateError, TextError, TokenizerError};
pub use files::{TextFiles, TokenizerFile};
pub use gguf::GgufVocabulary;
pub use json::Json;
pub use ranks::MAX_RANKS_BYTES;
pub use stop::{MAX_STOP_BYTES, MAX_STOPS, StopMatcher};
pub use template::{ChatTemplate, MAX_RENDERED_BYTES, MAX_TEMPLATE_BYTES};
pub use text::Text;
pub use tokenizer::{MAX_TEXT_BYTES, MAX_TOKENIZER_BYTES, Tokenizer};
