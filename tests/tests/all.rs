//! The one binary of integration tests: a list of modules.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod hostile;
