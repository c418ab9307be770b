// Quantised weights back to bf16, row-major [n][k]: for what a library multiplies (large batches).
//
// Where the scales are exact, so are the weights: the same operations in f32 as bitsandbytes', none fused with another, and
// one rounding to bf16. The products read f16 scales (weights.cuh), beside which these have their own.
//
// Launch: 256 threads, any grid (8 blocks per SM). A warp per tile; n % 16 == 0, k % 64 == 0.
#pragma once
#include "common.cuh"

__device__ __constant__ float kNf4Exact[16] = {
    -1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// The scales of a tile's rows g and g+8, for the four lanes 4*g ...
// codes: as the products read them (weights.cuh, Nf4).
template <class Scales> DEV void dequantise_nf4(const uint4* codes, bf16* out, int n, int k, Scales scales_of) {
  __shared__ float2 pairs[256];
  pdl_launch_next();
  pairs[threadIdx.x] = make_float2(kNf4Exact[threadIdx.x >> 4], kNf4Exact[threadIdx.x & 15]);
  pdl_wait_previous();  // an earlier product may still be reading `out`
  __syncthreads();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, k_blocks = k / 64, tiles = n / 16 * k_blocks;
  for (int tile = blockIdx.x * 8 + warp; tile < tiles; tile += gridDim.x * 8) {
    const uint4 code = load_stream16(codes + (size_t)tile * 32 + lane);
    const int row = tile / k_blocks * 16 + g, kb = tile % k_blocks;
    const float2 scales = scales_of(tile, row, kb, g);
    bf16* to = out + (size_t)row * k + kb * 64 + (lane & 3) * 8;
    const uint32_t words[4] = {code.x, code.y, code.z, code.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {  // row g or g+8 in turn, first one half of the inputs and then the other
      const float s = j & 1 ? scales.y : scales.x;
      uint32_t o[4];
#pragma unroll
      for (int b = 0; b < 4; b++) {
        const float2 v = pairs[(words[j] >> (8 * b)) & 255];
        o[b] = pack_bf16(__fmul_rn(v.x, s), __fmul_rn(v.y, s));
      }
      *reinterpret_cast<uint4*>(to + (size_t)(8 * (j & 1)) * k + 32 * (j >> 1)) = make_uint4(o[0], o[1], o[2], o[3]);
    }
  }
}

// scales: 16 per tile, of the rows 0, 8, 1, 9, ...; `factor` multiplies them.
struct DequantArgs { const uint4* codes; const void* scales; bf16* out; int n, k; float factor; };
// f16 scales, the ones of the products: each weight is off by as much as its scale was rounded.
extern "C" __global__ void __launch_bounds__(256) dequant_nf4(const __grid_constant__ DequantArgs a) {
  dequantise_nf4(a.codes, a.out, a.n, a.k, [&](int tile, int, int, int g) {
    const uint32_t pair = load_stream4(reinterpret_cast<const uint32_t*>(a.scales) + (size_t)tile * 8 + g);
    const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&pair));
    return make_float2(__fmul_rn(f.x, a.factor), __fmul_rn(f.y, a.factor));
  });
}
// f32 scales: exact, with factor 1.
extern "C" __global__ void __launch_bounds__(256) dequant_nf4_f32(const __grid_constant__ DequantArgs a) {
  dequantise_nf4(a.codes, a.out, a.n, a.k, [&](int tile, int, int, int g) {
    const float2 f = __ldg(reinterpret_cast<const float2*>(a.scales) + (size_t)tile * 8 + g);
    return make_float2(__fmul_rn(f.x, a.factor), __fmul_rn(f.y, a.factor));
  });
}

// Double quantisation, exact: scale = map[code] * largest + offset. The 64-blocks of a checkpoint's matrix are counted row
// after row, and each 256 share a `largest`, wherever its rows stand here: fused matrices are read from several, each with
// entries of `nested` of its own.
struct DequantNestedArgs {
  const uint4* codes;
  const uint8_t* scale_codes;  // 16 per tile, of the rows 0, 8, 1, 9, ...
  const float* map;            // [256]
  const float2* nested;        // {largest, offset}
  const int* first_blocks;     // [n] the row's first block, where entry i of `nested` has the blocks 256*i .. 256*i+255
  bf16* out;
  int n, k;
};
extern "C" __global__ void __launch_bounds__(256) dequant_nf4_nested(const __grid_constant__ DequantNestedArgs a) {
  __shared__ float map[256];
  map[threadIdx.x] = a.map[threadIdx.x];  // there for all at dequantise_nf4's barrier
  auto scale = [&](int row, int kb, uint32_t code) {
    const float2 nested = __ldg(a.nested + ((__ldg(a.first_blocks + row) + kb) >> 8));
    return __fadd_rn(__fmul_rn(map[code], nested.x), nested.y);
  };
  dequantise_nf4(a.codes, a.out, a.n, a.k, [&](int tile, int row, int kb, int g) {
    const uint32_t pair = __ldg(reinterpret_cast<const unsigned short*>(a.scale_codes) + (size_t)tile * 8 + g);
    return make_float2(scale(row, kb, pair & 255), scale(row + 8, kb, pair >> 8));
  });
}

// weights: as the products read them (weights.cuh, Int8). scales: f32 per row.
struct DequantInt8Args { const uint4* weights; const float* scales; bf16* out; int n, k; float factor; };
// code * scale * factor, in this order: with the rows' largest and 1/127, what bitsandbytes computes.
extern "C" __global__ void __launch_bounds__(256) dequant_int8(const __grid_constant__ DequantInt8Args a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, g = lane >> 2, k_blocks = a.k / 64, tiles = a.n / 16 * k_blocks;
  for (int tile = blockIdx.x * 8 + warp; tile < tiles; tile += gridDim.x * 8) {
    const uint4 half[2] = {load_stream16(a.weights + (size_t)tile * 64 + lane), load_stream16(a.weights + (size_t)tile * 64 + 32 + lane)};
    const int row = tile / k_blocks * 16 + g;
    const float scales[2] = {__ldg(a.scales + row), __ldg(a.scales + row + 8)};
    bf16* to = a.out + (size_t)row * a.k + tile % k_blocks * 64 + (lane & 3) * 8;
#pragma unroll
    for (int j = 0; j < 4; j++) {  // row g or g+8 in turn, first one half of the inputs and then the other
      const uint4 h = half[j >> 1];
      const uint32_t words[2] = {j & 1 ? h.z : h.x, j & 1 ? h.w : h.y};
      float f[8];
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float code = (float)(signed char)(words[i >> 2] >> (8 * (i & 3)));
        f[i] = __fmul_rn(__fmul_rn(code, scales[j & 1]), a.factor);
      }
      *reinterpret_cast<uint4*>(to + (size_t)(8 * (j & 1)) * a.k + 32 * (j >> 1)) = pack8(f);
    }
  }
}
