// The kernels of product_wide.cuh, by name. Launch: one block per SM.
#include "product_wide.cuh"
#define WIDE(name, W, NT, WGS, AHEAD, STAGES, EPI)                                                     \
  extern "C" __global__ void __launch_bounds__(128 * WGS, 1) name(const __grid_constant__ ProductArgs a) { \
    extern __shared__ __align__(16) unsigned char smem[];                                                \
    WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>::run(a, smem);                                           \
  }                                                                                                     \
  SHARED_BYTES(name, (WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>::kSharedBytes))
#include "product_wide_variants.h"
#undef WIDE
