//! A card's primary context, and whether there is a card at all.

use std::ffi::{c_char, c_int};
use std::ptr;

use cudarc::driver::sys::{self, CUcontext, CUdevice, CUdevice_attribute as Attribute, CUresult, CUuuid};

use super::{check, failed};
use crate::{Card, DeviceError};

/// Why nothing can run on a GPU here.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoGpu {
    #[error("no GPU: NVIDIA's driver is not installed (there is no libcuda)")]
    Library,
    #[error("no GPU: NVIDIA's driver finds none")]
    Card,
    #[error("no GPU: NVIDIA's driver is of CUDA {}.{}, the kernels need {}.{}", .0 / 1000, .0 % 1000 / 10, DRIVER / 1000, DRIVER % 1000 / 10)]
    OldDriver(u32),
    #[error("no GPU: {0}")]
    Driver(DeviceError),
}

/// What compiled the kernels: drivers of an earlier CUDA do not load them.
const DRIVER: u32 = 13_000;

/// The oldest compute capability with the instructions that the kernels use.
const CAPABILITY: (u32, u32) = (8, 0);

pub(in crate::cuda) struct Context {
    device: CUdevice,
    uuid: String,
    handle: CUcontext,
}

// SAFETY: a context may be current on any thread, and on several.
unsafe impl Send for Context {}

/// Cards, of which there is at least one.
pub fn count() -> Result<usize, NoGpu> {
    // SAFETY: the library's constructors, run here, are those of NVIDIA's driver.
    if !unsafe { sys::is_culib_present() } {
        return Err(NoGpu::Library);
    }
    // SAFETY: the library is there; the flags have to be 0.
    match unsafe { sys::cuInit(0) } {
        CUresult::CUDA_SUCCESS => {}
        CUresult::CUDA_ERROR_NO_DEVICE => return Err(NoGpu::Card),
        result => return Err(NoGpu::Driver(failed("cuInit", result))),
    }
    let version = driver_version().map_err(NoGpu::Driver)?;
    if version < DRIVER {
        return Err(NoGpu::OldDriver(version));
    }
    let mut count: c_int = 0;
    // SAFETY: it writes one number.
    check("cuDeviceGetCount", unsafe { sys::cuDeviceGetCount(&mut count) }).map_err(NoGpu::Driver)?;
    if count > 0 { Ok(count as usize) } else { Err(NoGpu::Card) }
}

fn driver_version() -> Result<u32, DeviceError> {
    let mut version: c_int = 0;
    // SAFETY: it writes one number.
    check("cuDriverGetVersion", unsafe { sys::cuDriverGetVersion(&mut version) })?;
    Ok(version.max(0) as u32)
}

impl Context {
    /// Of one of the cards that [`count`] counts; current on the calling thread from here on.
    pub(in crate::cuda) fn open(ordinal: usize) -> Result<(Self, Card), DeviceError> {
        let count = count().map_err(|none| DeviceError(none.to_string()))?;
        if ordinal >= count {
            return Err(DeviceError(format!("there is no GPU {ordinal}: they are numbered 0 to {}", count - 1)));
        }
        let mut device: CUdevice = 0;
        // SAFETY: it writes one number; the driver is initialised.
        check("cuDeviceGet", unsafe { sys::cuDeviceGet(&mut device, ordinal as c_int) })?;
        let card = card(device)?;
        if card.capability < CAPABILITY {
            let (major, minor) = card.capability;
            let (least, _) = CAPABILITY;
            let why = format!("{}: compute capability {major}.{minor}, the kernels need {least}.0", card.name);
            return Err(DeviceError(why));
        }
        let uuid = uuid(device, &card.name)?;
        let mut handle: CUcontext = ptr::null_mut();
        // SAFETY: `device` is one of the driver's; the handle is given back in `drop`.
        check("cuDevicePrimaryCtxRetain", unsafe { sys::cuDevicePrimaryCtxRetain(&mut handle, device) })?;
        let context = Self { device, uuid, handle };
        context.enter()?;
        Ok((context, card))
    }

    /// Of its card, as NVML and `nvidia-smi -L` write it.
    pub(in crate::cuda) fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Makes it the calling thread's.
    pub(in crate::cuda) fn enter(&self) -> Result<(), DeviceError> {
        // SAFETY: the handle is valid until `drop`.
        check("cuCtxSetCurrent", unsafe { sys::cuCtxSetCurrent(self.handle) })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and whatever was made in it is gone by now. An error has nobody left to go to.
        let _ = unsafe { sys::cuDevicePrimaryCtxRelease_v2(self.device) };
    }
}

fn card(device: CUdevice) -> Result<Card, DeviceError> {
    let mut bytes = 0;
    // SAFETY: it writes one number; `device` is one of the driver's.
    check("cuDeviceTotalMem", unsafe { sys::cuDeviceTotalMem_v2(&mut bytes, device) })?;
    let capability = (
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(Card {
        name: name(device)?,
        capability,
        multiprocessors: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        memory_bytes: bytes as u64,
    })
}

fn name(device: CUdevice) -> Result<String, DeviceError> {
    let mut name = [0u8; 128];
    let size = name.len() as c_int;
    // SAFETY: it writes at most `size` characters, the last one a zero.
    check("cuDeviceGetName", unsafe { sys::cuDeviceGetName(name.as_mut_ptr().cast::<c_char>(), size, device) })?;
    let end = name.iter().position(|&character| character == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

fn uuid(device: CUdevice, name: &str) -> Result<String, DeviceError> {
    let mut uuid = CUuuid { bytes: [0; 16] };
    // SAFETY: it writes 16 bytes; `device` is one of the driver's.
    check("cuDeviceGetUuid", unsafe { sys::cuDeviceGetUuid_v2(&mut uuid, device) })?;
    Ok(uuid_text(name, uuid.bytes.map(|byte| byte as u8)))
}

/// A part of a card has a name that says so.
fn uuid_text(name: &str, bytes: [u8; 16]) -> String {
    let kind = if name.contains(" MIG ") { "MIG" } else { "GPU" };
    let groups = [&bytes[..4], &bytes[4..6], &bytes[6..8], &bytes[8..10], &bytes[10..]];
    let mut text = kind.to_string();
    for group in groups {
        text.push('-');
        text.extend(group.iter().map(|byte| format!("{byte:02x}")));
    }
    text
}

fn attribute(device: CUdevice, attribute: Attribute) -> Result<u32, DeviceError> {
    let mut value: c_int = 0;
    // SAFETY: it writes one number; `device` is one of the driver's.
    check("cuDeviceGetAttribute", unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) })?;
    Ok(value.max(0) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_and_their_parts_are_told_apart() {
        let bytes = std::array::from_fn(|index| 0xf0 + index as u8);
        let check = |name, expected| assert_eq!(uuid_text(name, bytes), expected);
        check("NVIDIA H200", "GPU-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
        check("NVIDIA H200 MIG 1g.18gb", "MIG-f0f1f2f3-f4f5-f6f7-f8f9-fafbfcfdfeff");
    }

    #[test]
    fn why_there_is_no_gpu_is_one_line() {
        let check = |none: NoGpu, expected| assert_eq!(none.to_string(), format!("no GPU: {expected}"));
        check(NoGpu::Library, "NVIDIA's driver is not installed (there is no libcuda)");
        check(NoGpu::Card, "NVIDIA's driver finds none");
        check(NoGpu::OldDriver(12_020), "NVIDIA's driver is of CUDA 12.2, the kernels need 13.0");
        check(NoGpu::Driver(DeviceError("cuInit: it is broken".into())), "cuInit: it is broken");
    }
}
