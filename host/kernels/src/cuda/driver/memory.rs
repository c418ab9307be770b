//! Memory of the card, and memory of the host that the card can copy from and to by itself.

use std::ptr::{self, NonNull};
use std::slice;

use cudarc::driver::sys::{self, CUdeviceptr};

use super::{Stream, check};
use crate::DeviceError;

pub(in crate::cuda) struct DeviceMemory {
    at: CUdeviceptr,
    bytes: u64,
}

pub(in crate::cuda) struct PinnedMemory {
    at: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it belongs to its owner alone, whichever thread that is.
unsafe impl Send for PinnedMemory {}

/// Bytes of the card that nobody has, of the current context.
pub(in crate::cuda) fn free_bytes() -> Result<u64, DeviceError> {
    let (mut free, mut total) = (0, 0);
    // SAFETY: it writes two numbers.
    check("cuMemGetInfo", unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) })?;
    Ok(free as u64)
}

impl DeviceMemory {
    pub(in crate::cuda) fn zeros(bytes: u64, stream: &Stream) -> Result<Self, DeviceError> {
        let memory = Self::reserve(bytes)?;
        stream.clear(memory.at, bytes)?;
        stream.synchronize()?;
        Ok(memory)
    }

    /// What is in it is not said.
    fn reserve(bytes: u64) -> Result<Self, DeviceError> {
        let mut at: CUdeviceptr = 0;
        let size = usize::try_from(bytes.max(1)).unwrap_or(usize::MAX);
        // SAFETY: it writes one address, which is given back in `drop`.
        let result = check("cuMemAlloc", unsafe { sys::cuMemAlloc_v2(&mut at, size) });
        result.map_err(|error| DeviceError(format!("reserving {bytes} bytes of the GPU: {error}")))?;
        Ok(Self { at, bytes })
    }

    pub(in crate::cuda) fn at(&self) -> u64 {
        self.at
    }

    pub(in crate::cuda) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // SAFETY: it was reserved once. The call waits for what still uses it.
        let _ = unsafe { sys::cuMemFree_v2(self.at) };
    }
}

impl PinnedMemory {
    /// Zeros.
    pub(in crate::cuda) fn reserve(bytes: usize) -> Result<Self, DeviceError> {
        let mut at = ptr::null_mut();
        // SAFETY: it writes one address, which is given back in `drop`.
        let result = check("cuMemAllocHost", unsafe { sys::cuMemAllocHost_v2(&mut at, bytes.max(1)) });
        result.map_err(|error| DeviceError(format!("pinning {bytes} bytes of the host: {error}")))?;
        let at = NonNull::new(at.cast::<u8>());
        let at = at.ok_or_else(|| DeviceError("cuMemAllocHost: gave no memory".into()))?;
        // SAFETY: so many bytes are there, and nobody else knows of them.
        unsafe { at.as_ptr().write_bytes(0, bytes) };
        Ok(Self { at, bytes })
    }

    pub(in crate::cuda) fn len(&self) -> usize {
        self.bytes
    }

    /// Where so many bytes are that a copy may go to.
    pub(super) fn reach(&mut self, at: usize, bytes: usize) -> Result<*mut u8, DeviceError> {
        if at.checked_add(bytes).is_none_or(|end| end > self.bytes) {
            return Err(DeviceError(format!("{bytes} bytes from {at} on, of {} that are pinned", self.bytes)));
        }
        // SAFETY: it is within the memory.
        Ok(unsafe { self.at.as_ptr().add(at) })
    }

    pub(in crate::cuda) fn bytes(&self) -> &[u8] {
        // SAFETY: all are written from the beginning on. Copies to it have ended: `slots` waits for them.
        unsafe { slice::from_raw_parts(self.at.as_ptr(), self.bytes) }
    }

    pub(in crate::cuda) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and copies from it have ended as well.
        unsafe { slice::from_raw_parts_mut(self.at.as_ptr(), self.bytes) }
    }
}

impl Drop for PinnedMemory {
    fn drop(&mut self) {
        // SAFETY: it was reserved once, and the device waits for its copies before it goes.
        let _ = unsafe { sys::cuMemFreeHost(self.at.as_ptr().cast()) };
    }
}
