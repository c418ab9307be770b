//! The program as a library: configuration, and a server that tests and benchmarks can start.
//!
//! From `main` to the loop: `server` starts the `engine`'s threads, whose loops are the ones that step.

mod banner;
pub mod cli;
pub mod config;
pub mod engine;
mod loading_bar;
pub mod logging;
mod mailbox;
mod model;
mod model_command;
mod observers;
pub mod output;
mod patient;
mod perplexity_command;
mod policy_command;
mod recording_command;
mod room;
mod run;
mod server;
mod text;
mod weight_sizes;

pub use model::{ServedModel, load};
pub use run::run;
pub use server::{Listeners, Server, ServerError};
