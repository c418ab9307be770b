// The kernels of product_rows.cuh, by name. Launch: persistent grid (SMs x blocks per SM).
#include "product_rows.cuh"
#define PRODUCT(name, W, NT, KPW, WARPS, AHEAD, EPI, BLOCKS)                                               \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, BLOCKS) name(const __grid_constant__ ProductArgs a) { \
    DYNAMIC_SHARED(unsigned char, smem);                                                                 \
    RowProduct<W, NT, KPW, WARPS, AHEAD, EPI>::run(a, smem);                                               \
  }                                                                                                       \
  SHARED_BYTES(name, (RowProduct<W, NT, KPW, WARPS, AHEAD, EPI>::kSharedBytes))
#include "product_rows_variants.h"
#undef PRODUCT
