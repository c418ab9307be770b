//! The built program, over real HTTP: what a client, an operator and a hostile policy author would do.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bad_input;
mod chat;
mod clients_leave;
mod command_line;
mod connections;
mod drain;
mod gguf;
mod hostile;
mod layers;
mod models;
mod operators;
mod overload;
mod policies;
mod recording;
mod replicas;
mod server;
mod slow_clients;
mod swaps;
