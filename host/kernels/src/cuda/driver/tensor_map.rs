//! How the kernels of prefill attention have a cache described to the units that copy pages of it.

use std::ptr;

use cudarc::driver::sys::{
    self, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave, CUtensorMapL2promotion,
    CUtensorMapSwizzle,
};

use super::check;
use crate::DeviceError;
use crate::cuda::args::{MAP_TOKENS, TensorMap};
use crate::op::{BLOCK_TOKENS, HEAD_DIM};

/// Numbers that a line of shared memory has room for; a head has two halves of them.
const HALF: u64 = 64;

/// Of `groups` times [`MAP_TOKENS`] tokens of a head at `at`, as `PrefillWgmma` in `prefill_wgmma.cuh` wants it: half a
/// head, the tokens of a group, the halves, the groups; a copy brings a page of them.
pub(in crate::cuda) fn tensor_map(at: u64, groups: u64) -> Result<TensorMap, DeviceError> {
    let (head, halves) = (u64::from(HEAD_DIM), u64::from(HEAD_DIM) / HALF);
    let tokens = u64::from(MAP_TOKENS);
    let sizes = [HALF, tokens, halves, groups];
    // In bytes; the innermost has none.
    let strides = [head * 2, HALF * 2, tokens * head * 2];
    let copied = [HALF as u32, MAP_TOKENS, halves as u32, BLOCK_TOKENS / MAP_TOKENS];
    let steps = [1; 4];
    let mut map = CUtensorMap { opaque: [0; 16] };
    // SAFETY: sizes, copied and steps have four numbers as the rank says, strides one fewer; all is read before the call
    // returns, and `map` is as large and as aligned as CUDA's type.
    let result = unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            sizes.len() as u32,
            ptr::with_exposed_provenance_mut(at as usize),
            sizes.as_ptr(),
            strides.as_ptr(),
            copied.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    check("cuTensorMapEncodeTiled", result)?;
    Ok(TensorMap(map.opaque))
}
