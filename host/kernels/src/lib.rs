//! A model's work on a GPU: what its operations are, how their numbers lie in memory, and which kernel does each.
//!
//! Architecture invariant: a kernel's launch is behind [`Device`], and nothing but `cuda` knows CUDA. What decides layouts
//! and kernels is plain arithmetic, so that a device of the host's own memory can stand in for a card.

mod address;
pub mod attention;
mod card;
#[cfg(feature = "cuda")]
pub mod cuda;
mod device;
mod layout;
mod matrix;
pub mod op;
pub mod pack;
pub mod product;
mod product_kernel;
pub mod sampling;

pub use address::{Address, Arena, Region};
pub use card::Card;
pub use device::{Copy, Device, DeviceError, Finished, GraphId, Submission, Work};
pub use layout::{Layout, wide_index};
pub use matrix::{Matrix, TILE, WeightForm};
pub use op::Op;
pub use product_kernel::{Misfit, ProductKernel, ProductKind};
