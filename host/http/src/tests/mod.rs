//! The routers over real sockets, with an engine that the test plays itself.

mod admin;
mod answers;
mod client;
mod drain;
mod engine;
mod errors;
mod keys;
mod load;
mod slow;
mod tls;
