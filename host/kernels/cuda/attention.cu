// Launch: grid (splits, kv_heads, batch), 128, 192 or 384 threads, 4160 bytes of dynamic shared memory per warp.
// The 12-warp kernel covers a whole context without splitting it over blocks, which is faster while
// batch x kv_heads blocks do not fill the chip and the context is short.
// The spread kernel, for many rows: grid of 2 blocks per SM (with 3 it spills, and is slower than without spreading), 128
// threads, 4160 bytes per warp; `partial` [grid][2][8][130].
#include "attention.cuh"
extern "C" __global__ void __launch_bounds__(192, 2) decode_attention_6(const __grid_constant__ AttentionArgs a) { Attention<6>::run(a); }
extern "C" __global__ void __launch_bounds__(384, 1) decode_attention_12(const __grid_constant__ AttentionArgs a) { Attention<12>::run(a); }
extern "C" __global__ void __launch_bounds__(128, 2) decode_attention_spread(const __grid_constant__ AttentionArgs a) { AttentionSpread<4>::run(a); }
SHARED_BYTES(decode_attention_6, Attention<6>::kSharedBytes)
SHARED_BYTES(decode_attention_12, Attention<12>::kSharedBytes)
SHARED_BYTES(decode_attention_spread, AttentionSpread<4>::kSharedBytes)
#ifndef PROGRAM  // Only the benches launch it.
extern "C" __global__ void __launch_bounds__(128, 3) decode_attention(const __grid_constant__ AttentionArgs a) { Attention<4>::run(a); }
SHARED_BYTES(decode_attention, Attention<4>::kSharedBytes)
#endif
