// The kernels of product_wide.cuh and product_fed.cuh, by name. Launch: one block per SM.
#include "product_wide.cuh"
#include "product_fed.cuh"
#define WIDE(name, W, NT, WGS, AHEAD, STAGES, EPI)                                                     \
  extern "C" __global__ void __launch_bounds__(128 * WGS, 1) name(const __grid_constant__ ProductArgs a) { \
    DYNAMIC_SHARED(unsigned char, smem);                                                                 \
    WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>::run(a, smem);                                           \
  }                                                                                                     \
  SHARED_BYTES(name, (WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>::kSharedBytes))
#define FED(name, W, NT, WGS, AHEAD, STAGES, EPI)                                                      \
  extern "C" __global__ void __launch_bounds__(128 * WGS + 128, 1) name(const __grid_constant__ ProductArgs a) { \
    DYNAMIC_SHARED(unsigned char, smem);                                                                 \
    FedProduct<W, NT, WGS, AHEAD, STAGES, EPI>::run(a, smem);                                            \
  }                                                                                                     \
  SHARED_BYTES(name, (FedProduct<W, NT, WGS, AHEAD, STAGES, EPI>::kSharedBytes))
#include "product_wide_variants.h"
#undef WIDE
#undef FED
