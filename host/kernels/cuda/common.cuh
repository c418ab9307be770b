// Small device functions shared by all kernels. No kernel lives here.
#pragma once
#ifdef ON_CPU
#include "on_cpu.h"
#else
#include "ptx.cuh"
#endif

typedef __nv_bfloat16 bf16;

// How much dynamic shared memory a kernel wants, for the host to read from the module by this name.
#define SHARED_BYTES(kernel, bytes) extern "C" __device__ const int shared_bytes_##kernel = (bytes);

// ---- bf16 pairs -------------------------------------------------------------------------------
DEV uint32_t pack_bf16(float lo, float hi) {
  __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&v);
}
DEV float bf16_lo(uint32_t v) { return __uint_as_float(v << 16); }
DEV float bf16_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }
DEV uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  __nv_bfloat162 r = __hmul2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
  return *reinterpret_cast<uint32_t*>(&r);
}
DEV uint32_t add_bf16x2(uint32_t a, uint32_t b) {
  __nv_bfloat162 r = __hadd2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
  return *reinterpret_cast<uint32_t*>(&r);
}
DEV void unpack8(uint4 v, float* f) {
  f[0] = bf16_lo(v.x); f[1] = bf16_hi(v.x); f[2] = bf16_lo(v.y); f[3] = bf16_hi(v.y);
  f[4] = bf16_lo(v.z); f[5] = bf16_hi(v.z); f[6] = bf16_lo(v.w); f[7] = bf16_hi(v.w);
}
DEV uint4 pack8(const float* f) {
  return make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
}
DEV float silu(float x) { return x / (1.0f + __expf(-x)); }

// Order of inputs within a k block in the activations of wide products: the order in which wgmma walks k
// is given, and the weights are stored for the row products, so the activations are permuted instead.
DEV int wide_k(int k) {
  return (k & ~63) | ((k & 32) | ((k & 4) << 2)) | ((k & 2) << 2) | ((k >> 2) & 6) | (k & 1);
}
// Stores columns 8*oct..8*oct+7 of a row of activations: element (row m, column i) lies at m*row + (i/8)*oct + i%8, with
// i replaced by wide_k(i) where `wide` says so. Row-major has (row, oct) = (k, 8), the wide products' layout (8, 8*rows).
DEV void store_oct(bf16* row, int oct, int out_oct, int wide, uint4 v) {
  if (!wide) { *reinterpret_cast<uint4*>(row + (size_t)oct * out_oct) = v; return; }
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int p = wide_k(oct * 8 + 2 * j);
    *reinterpret_cast<uint32_t*>(row + (size_t)(p >> 3) * out_oct + (p & 7)) = w[j];
  }
}
