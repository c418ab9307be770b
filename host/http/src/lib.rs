//! The OpenAI edge and the admin edge: JSON and HTTP stop here.
//!
//! A request: `openai` routes it, `body` takes it in, `prepare` makes tokens of what `chat` and `completion` read in it,
//! `edge` offers it, `answer` follows its tokens, `stream` and `whole` write them.

mod admin;
mod answer;
mod body;
mod caller;
mod channel;
mod chat;
mod completion;
mod config;
mod connection;
mod edge;
mod error;
mod fields;
mod gate;
mod json;
mod key;
mod keys;
mod live;
mod object;
mod openai;
mod pace;
mod parameters;
mod prepare;
mod reload;
mod routes;
mod serve;
mod stream;
mod text;
mod tls;
mod wakes;
mod whole;

#[cfg(test)]
mod tests;

pub use admin::admin_router;
pub use config::{EdgeConfig, EdgeLimits, ModelCard, SamplingDefaults};
pub use edge::{Edge, EdgeParts};
pub use gate::{Gate, NotPublic};
pub use key::{Key, KeyError, Scope, hash_secret};
pub use keys::{Keys, KeysError};
pub use openai::openai_router;
pub use serve::{Connections, Phase, serve};
pub use text::{Decoder, Message, ModelText, TextError};
pub use tls::{Tls, TlsError, TlsFiles};
