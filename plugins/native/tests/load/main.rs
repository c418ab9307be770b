//! The shipped policies under load: the real engine in virtual time, on cards that are formulas.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod arrivals;
mod batching;
mod card;
mod outcome;
mod overload;
mod server;
