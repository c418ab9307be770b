//! A queue of copies and launches, which run one after the other; and marks in it.

use std::ffi::c_void;
use std::ptr;

use cudarc::driver::sys::{
    self, CUDA_MEMCPY2D, CUevent, CUevent_flags, CUlaunchAttribute, CUlaunchAttributeID, CUlaunchAttributeValue,
    CUlaunchConfig, CUmemorytype, CUresult, CUstream, CUstream_flags,
};

use super::{Kernel, PinnedMemory, check, failed};
use crate::DeviceError;
use crate::cuda::args::Arguments;
use crate::cuda::compiled::Block;

pub(in crate::cuda) struct Stream {
    handle: CUstream,
}

// SAFETY: a stream may be used from any thread in whose current context it is.
unsafe impl Send for Stream {}

pub(in crate::cuda) struct Event {
    handle: CUevent,
}

// SAFETY: as for `Stream`.
unsafe impl Send for Event {}

impl Stream {
    /// Apart from the one that CUDA has of itself.
    pub(in crate::cuda) fn new() -> Result<Self, DeviceError> {
        let mut handle: CUstream = ptr::null_mut();
        let flags = CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: it writes one handle, which is given back in `drop`.
        check("cuStreamCreate", unsafe { sys::cuStreamCreate(&mut handle, flags) })?;
        Ok(Self { handle })
    }

    pub(in crate::cuda) fn handle(&self) -> CUstream {
        self.handle
    }

    /// Waits for all that is in it.
    pub(in crate::cuda) fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the handle is valid until `drop`.
        check("cuStreamSynchronize", unsafe { sys::cuStreamSynchronize(self.handle) })
    }

    pub(in crate::cuda) fn clear(&self, at: u64, bytes: u64) -> Result<(), DeviceError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: whoever calls has reserved so many bytes there.
        check("cuMemsetD8Async", unsafe { sys::cuMemsetD8Async(at, 0, bytes, self.handle) })
    }

    /// Copies to the card, after this returns: `from` stays as it is until the stream has come so far.
    pub(in crate::cuda) fn copy_in(&self, to: u64, from: &[u8]) -> Result<(), DeviceError> {
        let pointer = from.as_ptr().cast::<c_void>();
        // SAFETY: whoever calls waits before `from` changes or goes, and has reserved as much at `to`.
        check("cuMemcpyHtoDAsync", unsafe { sys::cuMemcpyHtoDAsync_v2(to, pointer, from.len(), self.handle) })
    }

    /// Copies within the card.
    pub(in crate::cuda) fn copy(&self, to: u64, from: u64, bytes: u64) -> Result<(), DeviceError> {
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // SAFETY: whoever calls has reserved so many bytes at both, which do not overlap.
        check("cuMemcpyDtoDAsync", unsafe { sys::cuMemcpyDtoDAsync_v2(to, from, bytes, self.handle) })
    }

    /// As `copy_in` from pinned memory, `runs` pieces of `bytes` each that begin every `pitch` bytes on both sides. `from`
    /// reaches to the end of the last one.
    pub(in crate::cuda) fn copy_runs_in(
        &self,
        to: u64,
        from: &[u8],
        bytes: usize,
        pitch: usize,
        runs: usize,
    ) -> Result<(), DeviceError> {
        let copy = CUDA_MEMCPY2D {
            srcXInBytes: 0,
            srcY: 0,
            srcMemoryType: CUmemorytype::CU_MEMORYTYPE_HOST,
            srcHost: from.as_ptr().cast(),
            srcDevice: 0,
            srcArray: ptr::null_mut(),
            srcPitch: pitch,
            dstXInBytes: 0,
            dstY: 0,
            dstMemoryType: CUmemorytype::CU_MEMORYTYPE_DEVICE,
            dstHost: ptr::null_mut(),
            dstDevice: to,
            dstArray: ptr::null_mut(),
            dstPitch: pitch,
            WidthInBytes: bytes,
            Height: runs,
        };
        // SAFETY: as in `copy_in`; the description is read before the call returns.
        check("cuMemcpy2DAsync", unsafe { sys::cuMemcpy2DAsync_v2(&copy, self.handle) })
    }

    /// Copies to the pinned memory from byte `at` on, after this returns: it is read only behind an event.
    pub(in crate::cuda) fn copy_out(
        &self,
        to: &mut PinnedMemory,
        at: usize,
        bytes: usize,
        from: u64,
    ) -> Result<(), DeviceError> {
        let pointer = to.reach(at, bytes)?.cast::<c_void>();
        // SAFETY: so many bytes are there, and stay until the copy has ended; whoever calls has reserved as many at `from`.
        check("cuMemcpyDtoHAsync", unsafe { sys::cuMemcpyDtoHAsync_v2(pointer, from, bytes, self.handle) })
    }

    /// With `overlaps` it may begin while the launch before it ends, and waits for that by itself.
    pub(in crate::cuda) fn launch(
        &self,
        kernel: &Kernel,
        grid: [u32; 3],
        block: Block,
        arguments: &Arguments,
        overlaps: bool,
    ) -> Result<(), DeviceError> {
        let mut value = CUlaunchAttributeValue { pad: [0; 64] };
        value.programmaticStreamSerializationAllowed = 1;
        let id = CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        let mut attribute = CUlaunchAttribute { id, pad: [0; 4], value };
        let config = CUlaunchConfig {
            gridDimX: grid[0],
            gridDimY: grid[1],
            gridDimZ: grid[2],
            blockDimX: block.threads,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: block.shared_bytes,
            hStream: self.handle,
            attrs: &mut attribute,
            numAttrs: u32::from(overlaps),
        };
        // The driver copies the arguments, and does not write to them.
        let mut pointers = [arguments.bytes().as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the kernel has one argument, and of as many bytes (`Compiled::block`); configuration, attribute and
        // arguments are read before the call returns. That the kernel stays within memory is the care of `bounds`.
        let result = unsafe { sys::cuLaunchKernelEx(&config, kernel.handle(), pointers.as_mut_ptr(), ptr::null_mut()) };
        check("cuLaunchKernelEx", result)
    }

    /// Marks where the stream is now.
    pub(in crate::cuda) fn record(&self, event: &Event) -> Result<(), DeviceError> {
        // SAFETY: both handles are valid.
        check("cuEventRecord", unsafe { sys::cuEventRecord(event.handle, self.handle) })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: it was made once; CUDA lets what is in it end.
        let _ = unsafe { sys::cuStreamDestroy_v2(self.handle) };
    }
}

impl Event {
    /// One that is waited for in a loop, if it is waited for.
    pub(in crate::cuda) fn new() -> Result<Self, DeviceError> {
        Self::with_flags(CUevent_flags::CU_EVENT_DEFAULT as u32)
    }

    /// One that a thread sleeps for, and whose time is not taken.
    pub(in crate::cuda) fn blocking() -> Result<Self, DeviceError> {
        Self::with_flags(CUevent_flags::CU_EVENT_BLOCKING_SYNC as u32 | CUevent_flags::CU_EVENT_DISABLE_TIMING as u32)
    }

    fn with_flags(flags: u32) -> Result<Self, DeviceError> {
        let mut handle: CUevent = ptr::null_mut();
        // SAFETY: it writes one handle, which is given back in `drop`.
        check("cuEventCreate", unsafe { sys::cuEventCreate(&mut handle, flags) })?;
        Ok(Self { handle })
    }

    /// Whether the stream has come so far.
    pub(in crate::cuda) fn is_reached(&self) -> Result<bool, DeviceError> {
        // SAFETY: the handle is valid until `drop`.
        match unsafe { sys::cuEventQuery(self.handle) } {
            CUresult::CUDA_SUCCESS => Ok(true),
            CUresult::CUDA_ERROR_NOT_READY => Ok(false),
            result => Err(failed("cuEventQuery", result)),
        }
    }

    /// Waits until the stream has come so far.
    pub(in crate::cuda) fn synchronize(&self) -> Result<(), DeviceError> {
        // SAFETY: the handle is valid until `drop`.
        check("cuEventSynchronize", unsafe { sys::cuEventSynchronize(self.handle) })
    }

    /// From an earlier one to this one, in milliseconds; both are reached.
    pub(in crate::cuda) fn since(&self, earlier: &Event) -> Result<f32, DeviceError> {
        let mut milliseconds = 0.0;
        // SAFETY: it writes one number; both handles are valid.
        let result = unsafe { sys::cuEventElapsedTime_v2(&mut milliseconds, earlier.handle, self.handle) };
        check("cuEventElapsedTime", result)?;
        Ok(milliseconds)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: it was made once.
        let _ = unsafe { sys::cuEventDestroy_v2(self.handle) };
    }
}
