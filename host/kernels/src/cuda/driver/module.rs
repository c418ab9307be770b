//! Compiled kernels, as a card has loaded them.

use std::ffi::{CString, c_int};
use std::ptr;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUmodule};

use super::check;
use crate::DeviceError;

pub(in crate::cuda) struct Module {
    handle: CUmodule,
    /// The driver may read it later: it loads kernels when they are first asked for.
    _image: Vec<u64>,
}

// SAFETY: a module may be used from any thread in whose current context it is.
unsafe impl Send for Module {}

/// Of a module that is loaded as long as the kernel is used.
#[derive(Clone, Copy)]
pub(in crate::cuda) struct Kernel {
    handle: CUfunction,
}

// SAFETY: as for `Module`.
unsafe impl Send for Kernel {}

impl Module {
    /// `image` is a fat binary.
    pub(in crate::cuda) fn load(name: &str, image: &[u8]) -> Result<Self, DeviceError> {
        // The driver reads it as words.
        let mut words = vec![0u64; image.len().div_ceil(8)];
        bytemuck::cast_slice_mut(&mut words)[..image.len()].copy_from_slice(image);
        let mut handle: CUmodule = ptr::null_mut();
        // SAFETY: the image is whole, as nvcc wrote it, and lives as long as the module, which is given back in `drop`.
        let result = unsafe { sys::cuModuleLoadData(&mut handle, words.as_ptr().cast()) };
        check(&format!("cuModuleLoadData of {name}"), result)?;
        Ok(Self { handle, _image: words })
    }

    pub(in crate::cuda) fn kernel(&self, name: &str) -> Result<Kernel, DeviceError> {
        let text = CString::new(name).map_err(|_| DeviceError(format!("{name:?} is no name")))?;
        let mut handle: CUfunction = ptr::null_mut();
        // SAFETY: it writes one handle; the module is valid, the name ends with a zero.
        let result = unsafe { sys::cuModuleGetFunction(&mut handle, self.handle, text.as_ptr()) };
        check(&format!("cuModuleGetFunction of {name}"), result)?;
        // Nothing may be loaded any more while a stream is captured.
        // SAFETY: the handle is valid.
        check(&format!("cuFuncLoad of {name}"), unsafe { sys::cuFuncLoad(handle) })?;
        Ok(Kernel { handle })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it was loaded once, and nothing of it runs any more: the device waits before it goes.
        let _ = unsafe { sys::cuModuleUnload(self.handle) };
    }
}

impl Kernel {
    pub(super) fn handle(&self) -> CUfunction {
        self.handle
    }

    /// Lets launches have so many bytes of shared memory beside what is fixed.
    pub(in crate::cuda) fn allow_shared(&self, bytes: u32) -> Result<(), DeviceError> {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the handle is valid.
        check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes as c_int) })
    }
}
