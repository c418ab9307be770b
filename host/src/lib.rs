//! The program as a library: configuration, and a server that tests and benchmarks can start.
//!
//! From `main` to the loop: `server` starts the `engine`'s threads, whose loops are the ones that step.

mod admin_client;
mod audit_command;
mod banner;
mod bench_command;
pub mod cli;
pub mod config;
mod device;
pub mod engine;
mod first_policies;
mod key_command;
mod listeners;
mod loading_bar;
pub mod logging;
mod mailbox;
mod model;
mod model_command;
mod observers;
mod on_cpu;
#[cfg(feature = "cuda")]
mod on_gpu;
pub mod output;
mod patient;
mod perplexity_command;
mod policy_command;
mod recording_command;
mod room;
mod run;
mod server;
mod text;
mod upkeep;
mod weight_sizes;

pub use listeners::{ADMIN_KEY, API_KEY, Listeners, Secrets, ServerError};
pub use model::{Computed, ServedModel, load};
pub use run::run;
pub use server::Server;
