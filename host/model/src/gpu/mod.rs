//! Models on a GPU: loaded into its memory once, then a step is a list of operations that a [`Device`] computes.
//!
//! Architecture invariant: no CUDA here. What a step is made of is decided by plain code, which tests run on a device of
//! the host's own memory.
//!
//! [`Device`]: sluice_kernels::Device

pub mod agreement;
mod arrangement;
mod ceilings;
mod counts;
mod executor;
mod forward;
mod host_device;
mod loader;
mod memory;
mod model;
mod outcome;
mod planned;
mod roof;
mod shape;
mod staging;
mod weights;

pub use ceilings::Ceilings;
pub use executor::GpuExecutor;
pub use host_device::HostDevice;
pub use loader::GpuLoadError;
pub use memory::BadLimits;
pub use model::GpuModel;
pub use shape::Unsupported;
pub use weights::Dequantized;

#[cfg(test)]
mod tests;
