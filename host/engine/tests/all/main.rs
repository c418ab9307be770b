//! The engine against a fake executor and policies written for the test, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod determinism;
mod dispatch;
mod fake;
mod guard;
mod properties;
mod recording;
mod scheduling;
mod swap;
mod world;
