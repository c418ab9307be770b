//! Batching: first come, first served.
