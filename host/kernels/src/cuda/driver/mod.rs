//! CUDA's driver, as far as it is used: each call is checked, and its error has its name.
//!
//! All of it works on the current context of the calling thread ([`Context::enter`]). Handles are given back when they are
//! dropped; the context last of all.

#![allow(unsafe_code, reason = "CUDA is a library of C functions")]

mod context;
mod graph;
mod memory;
mod module;
mod stream;
mod tensor_map;

use std::ffi::{CStr, c_char};
use std::ptr;

use cudarc::driver::sys::{self, CUresult};

pub use context::{NoGpu, count};

pub(super) use context::Context;
pub(super) use graph::Graph;
pub(super) use memory::{DeviceMemory, PinnedMemory, free_bytes};
pub(super) use module::{Kernel, Module};
pub(super) use stream::{Event, Stream};
pub(super) use tensor_map::tensor_map;

use crate::DeviceError;

fn check(call: &str, result: CUresult) -> Result<(), DeviceError> {
    if result == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(failed(call, result)) }
}

fn failed(call: &str, result: CUresult) -> DeviceError {
    // SAFETY: both write a pointer to a constant text of the library's, or null.
    let (name, text) = unsafe { (text(result, sys::cuGetErrorName), text(result, sys::cuGetErrorString)) };
    let remedy = if is_of_a_kernel(result) {
        "; a kernel launched before may have done it: with SLUICE_CUDA_SYNC=1 the error names it"
    } else {
        ""
    };
    DeviceError(format!("{call}: {name}, {text}{remedy}"))
}

/// What a kernel does wrong is told by whichever call comes next.
fn is_of_a_kernel(result: CUresult) -> bool {
    matches!(
        result,
        CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ASSERT
    )
}

/// # Safety
/// `ask` writes null or the address of a text that stays.
unsafe fn text(result: CUresult, ask: unsafe fn(CUresult, *mut *const c_char) -> CUresult) -> String {
    let mut text = ptr::null();
    // SAFETY: `text` is written before `ask` returns, or stays null.
    let known = unsafe { ask(result, &mut text) } == CUresult::CUDA_SUCCESS && !text.is_null();
    if !known {
        return format!("error {}", result as u32);
    }
    // SAFETY: the caller promises a text that ends with a zero and stays.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
