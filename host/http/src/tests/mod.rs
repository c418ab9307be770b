//! The routers over real sockets, with an engine that the test plays itself.

mod admin;
mod answers;
pub(crate) mod characters;
mod choices;
mod client;
mod drain;
pub(crate) mod engine;
mod errors;
mod keys;
mod lateness;
mod load;
mod names;
mod scores;
mod slow;
mod tls;
