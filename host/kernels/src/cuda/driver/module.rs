//! Compiled kernels, as a card has loaded them.

use std::ffi::{CString, c_int};
use std::ptr;

use cudarc::driver::sys::{self, CUfunction, CUfunction_attribute as Attribute, CUmodule, CUresult};

use super::{check, failed};
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

    /// None where it has no kernel of this name.
    pub(in crate::cuda) fn kernel(&self, name: &str) -> Result<Option<Kernel>, DeviceError> {
        let text = text(name)?;
        let mut handle: CUfunction = ptr::null_mut();
        // SAFETY: it writes one handle; the module is valid, the name ends with a zero.
        match unsafe { sys::cuModuleGetFunction(&mut handle, self.handle, text.as_ptr()) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NOT_FOUND => return Ok(None),
            result => return Err(failed(&format!("cuModuleGetFunction of {name}"), result)),
        }
        // Nothing may be loaded any more while a stream is captured.
        // SAFETY: the handle is valid.
        check(&format!("cuFuncLoad of {name}"), unsafe { sys::cuFuncLoad(handle) })?;
        Ok(Some(Kernel { handle }))
    }

    /// The constant of this name; None where there is none.
    pub(in crate::cuda) fn constant(&self, name: &str) -> Result<Option<i32>, DeviceError> {
        let text = text(name)?;
        let (mut at, mut bytes) = (0, 0);
        // SAFETY: it writes two numbers; the module is valid, the name ends with a zero.
        match unsafe { sys::cuModuleGetGlobal_v2(&mut at, &mut bytes, self.handle, text.as_ptr()) } {
            CUresult::CUDA_SUCCESS => {}
            CUresult::CUDA_ERROR_NOT_FOUND => return Ok(None),
            result => return Err(failed(&format!("cuModuleGetGlobal of {name}"), result)),
        }
        let mut value = 0i32;
        if bytes != size_of_val(&value) {
            return Err(DeviceError(format!("{name}: {bytes} bytes where a number is meant to be")));
        }
        // SAFETY: so many bytes are at `at`, and so many fit into `value`.
        let result = unsafe { sys::cuMemcpyDtoH_v2(ptr::from_mut(&mut value).cast(), at, bytes) };
        check(&format!("cuMemcpyDtoH of {name}"), result)?;
        Ok(Some(value))
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

    /// Of a block, at most.
    pub(in crate::cuda) fn most_threads(&self) -> Result<u32, DeviceError> {
        let mut value: c_int = 0;
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
        // SAFETY: it writes one number; the handle is valid.
        check("cuFuncGetAttribute", unsafe { sys::cuFuncGetAttribute(&mut value, attribute, self.handle) })?;
        Ok(value.max(0) as u32)
    }

    /// Lets launches have so many bytes of shared memory beside what is fixed.
    pub(in crate::cuda) fn allow_shared(&self, bytes: u32) -> Result<(), DeviceError> {
        let attribute = Attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        // SAFETY: the handle is valid.
        check("cuFuncSetAttribute", unsafe { sys::cuFuncSetAttribute(self.handle, attribute, bytes as c_int) })
    }

    /// Whether its one argument is of so many bytes.
    pub(in crate::cuda) fn takes(&self, bytes: usize) -> Result<(), DeviceError> {
        let (mut at, mut size) = (0, 0);
        // SAFETY: it writes two numbers; the handle is valid.
        check("cuFuncGetParamInfo", unsafe { sys::cuFuncGetParamInfo(self.handle, 0, &mut at, &mut size) })?;
        if (at, size) == (0, bytes) {
            return Ok(());
        }
        Err(DeviceError(format!("its argument is of {size} bytes, and {bytes} are handed to it")))
    }
}

fn text(name: &str) -> Result<CString, DeviceError> {
    CString::new(name).map_err(|_| DeviceError(format!("{name:?}: no name")))
}
