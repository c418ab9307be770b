// The kernels of product_mma.cuh, by name. Launch: grid = SMs x blocks per SM (persistent).
#include "product_mma.cuh"
#define MMA(name, W, NT, R, WR, WK, DEPTH, EPI, BLOCKS)                                                   \
  extern "C" __global__ void __launch_bounds__(32 * WR * WK, BLOCKS) name(const __grid_constant__ ProductArgs a) { \
    DYNAMIC_SHARED(unsigned char, smem);                                                                   \
    MmaProduct<W, NT, R, WR, WK, DEPTH, EPI>::run(a, smem);                                                \
  }                                                                                                       \
  SHARED_BYTES(name, (MmaProduct<W, NT, R, WR, WK, DEPTH, EPI>::kSharedBytes))
#include "product_mma_variants.h"
#undef MMA
