//! The OpenAI edge and the admin edge: JSON and HTTP stop here.
//!
//! A request: `openai` routes it, `body` takes it in, `prepare` makes tokens of what `chat` and `completion` read in it,
//! `offer` hands it to the engine, `answers` follows its choices, `stream` and `whole` write them.

mod admin;
mod answer;
mod answers;
mod body;
mod caller;
mod channel;
mod chat;
mod chunks;
mod completion;
mod config;
mod connection;
mod edge;
mod episode;
mod error;
mod fields;
mod gate;
mod json;
mod key;
mod keys;
mod live;
mod logprobs;
mod muted;
mod object;
mod offer;
mod open_files;
mod openai;
mod pace;
mod parameters;
mod prepare;
mod reload;
mod request_id;
mod routes;
mod serve;
mod stream;
mod text;
mod tls;
mod tokenize;
mod unsupported;
mod wakes;
mod watch;
mod whole;

#[cfg(test)]
mod tests;

pub use admin::{AdminParts, admin_router};
pub use config::{AnswerLimits, EdgeConfig, EdgeLimits, ModelCard, SamplingDefaults};
pub use edge::{Edge, EdgeParts};
pub use gate::{Gate, NotPublic};
pub use key::{Key, KeyError, Scope, hash_secret};
pub use keys::{Keys, KeysError};
pub use openai::openai_router;
pub use serve::{Connections, Phase, serve};
pub use text::{Decoder, ModelText, TextError};
pub use tls::{Tls, TlsError, TlsFiles};
