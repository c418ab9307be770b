//! The generator against a server of known rates.

mod failures;
mod fake;
mod load;
mod network;
mod rates;
mod requests;
pub(crate) mod run;
