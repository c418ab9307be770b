//! Reads the cards under the replicas once a second, on a thread of its own, and keeps what each said last.
//!
//! Only what costs microseconds is asked: no fans, no lists of processes, no PCIe counters, which hold the driver up.

#[cfg(test)]
mod fake;
mod library;
mod nvml;
mod reader;
mod sampler;

pub use sampler::CardSampler;
