// Launch: prefill_wgmma* one block per SM (or per item, if they are fewer), prefill_mma* one block per item (tiles x heads).
#include "prefill_mma.cuh"
#include "prefill_wgmma.cuh"
extern "C" __global__ void __launch_bounds__(384, 1) prefill_wgmma(const __grid_constant__ PrefillArgs a) { PrefillWgmma<128>::run(a); }
extern "C" __global__ void __launch_bounds__(256, 1) prefill_mma(const __grid_constant__ PrefillArgs a) { PrefillMma<128>::run(a); }
SHARED_BYTES(prefill_wgmma, PrefillWgmma<128>::kSharedBytes)
SHARED_BYTES(prefill_mma, PrefillMma<128>::kSharedBytes)
#ifndef PROGRAM  // Only the benches launch them.
extern "C" __global__ void __launch_bounds__(384, 1) prefill_wgmma_64(const __grid_constant__ PrefillArgs a) { PrefillWgmma<64>::run(a); }
extern "C" __global__ void __launch_bounds__(256, 1) prefill_mma_64(const __grid_constant__ PrefillArgs a) { PrefillMma<64>::run(a); }
SHARED_BYTES(prefill_wgmma_64, PrefillWgmma<64>::kSharedBytes)
SHARED_BYTES(prefill_mma_64, PrefillMma<64>::kSharedBytes)
#endif
