//! The routers over real sockets, with an engine that the test plays itself.

mod admin;
mod answers;
pub(crate) mod characters;
mod client;
mod drain;
pub(crate) mod engine;
mod errors;
mod keys;
mod load;
mod slow;
mod tls;
