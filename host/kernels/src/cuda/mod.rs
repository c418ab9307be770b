//! A [`Device`](crate::Device) that is a real card. Only here is anything known of CUDA.
//!
//! Its libraries are looked for when the program runs: [`count`] says whether there is a GPU, and if not, why. What is
//! launched is planned as plain data (`calls`), checked (`bounds`), and only then handed to the driver; code that the
//! compiler cannot vouch for is in `driver` and `library`.
//!
//! With `SLUICE_CUDA_SYNC=1` in the environment every operation is waited for, so that an error names its kernel.

mod args;
mod bounds;
mod calls;
mod compiled;
mod device;
mod driver;
mod kernels;
mod launcher;
mod library;
mod overlap;
mod slots;
mod workspace;

pub use device::CudaDevice;
pub use driver::{NoGpu, count};
