//! A load generator for any server with OpenAI's API. It knows no other crate here: what it measures is what any client
//! would see.
//!
//! The way of one run: [`BenchArguments`] become a `plan`; `drive` sends the plan's requests when they are due;
//! `exchange` measures each; `report` says what came of it, and this crate's README what that means. All times are tokio's,
//! so that a test can hold them.

mod alarm;
mod answer;
mod arguments;
mod arrivals;
mod bench;
mod body;
mod calibration;
mod caller;
mod chunk;
mod drive;
mod error;
mod events;
mod exchange;
mod failure;
mod goodput;
mod lengths;
mod open_files;
mod plan;
mod progress;
mod prompt;
mod prompt_file;
mod pulse;
mod quantiles;
mod record;
mod report;
mod schedule;
mod seed;
mod server;
mod table;
mod tls;
mod totals;
mod trace;
mod usage;
mod warnings;
mod window;
mod workload;

#[cfg(test)]
mod tests;

pub use arguments::BenchArguments;
pub use bench::{Finished, run};
pub use error::BenchError;
