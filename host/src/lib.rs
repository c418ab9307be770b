//! The program as a library: configuration, and a server that tests and benchmarks can start.
//!
//! From `main` to the loop: `server` starts the `engine`'s threads, whose loops are the ones that step.

mod banner;
pub mod cli;
pub mod config;
pub mod engine;
pub mod logging;
mod mailbox;
mod model;
mod observers;
mod patient;
mod policy_command;
mod recording_command;
mod run;
mod server;
mod text;

pub use model::{ServedModel, load};
pub use run::run;
pub use server::{Listeners, Server, ServerError};
