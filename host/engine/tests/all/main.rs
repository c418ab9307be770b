//! The engine against a fake executor and policies written for the test, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod determinism;
mod devices;
mod dispatch;
mod fake;
mod guard;
mod properties;
mod queue_timeout;
mod recording;
mod scheduling;
mod scores;
mod swap;
mod world;
