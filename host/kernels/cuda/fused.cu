// The small kernels between the products. Element (row m, column i) of an activation lies at
// m*row + (i/8)*oct + i%8: row-major has (row, oct) = (k, 8), the wide products' layout (8, 8*rows) with
// i replaced by wide_k(i), which `wide` says.
#pragma once
#include "weights.cuh"

struct NormArgs {
  bf16* hidden;           // [rows][n] residual stream, updated in place
  const bf16* delta;      // [rows][n] row-major to add, or null
  const float* parts;     // or: `splits` f32 parts of it, [split][rows][n]
  const bf16* weight;     // [n]
  bf16* out;              // normalised
  int n, splits, split_stride, out_row, out_oct, wide;
  float eps;
};
// Stores columns 8*oct..8*oct+7 of a row.
DEV void store_oct(bf16* row, int oct, int out_oct, int wide, uint4 v) {
  if (!wide) { *reinterpret_cast<uint4*>(row + (size_t)oct * out_oct) = v; return; }
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int p = wide_k(oct * 8 + 2 * j);
    *reinterpret_cast<uint32_t*>(row + (size_t)(p >> 3) * out_oct + (p & 7)) = w[j];
  }
}
DEV float block_sum(float v, float* shared) {
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
  if ((threadIdx.x & 31) == 0) shared[threadIdx.x >> 5] = v;
  __syncthreads();
  v = threadIdx.x < blockDim.x / 32 ? shared[threadIdx.x & 31] : 0.f;
  if (threadIdx.x < 32) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) v += __shfl_xor_sync(~0u, v, d);
    if (threadIdx.x == 0) shared[0] = v;
  }
  __syncthreads();
  return shared[0];
}
// hidden += delta; out = hidden * rsqrt(mean(hidden^2) + eps) * weight. One block per row, n/8 threads (n <= 8192).
extern "C" __global__ void __launch_bounds__(1024) add_rms_norm(const __grid_constant__ NormArgs a) {
  __shared__ float shared[32];
  pdl_launch_next();
  const int row = blockIdx.x, i = threadIdx.x * 8;
  const uint4 w = *reinterpret_cast<const uint4*>(a.weight + i);
  pdl_wait_previous();
  bf16* hidden = a.hidden + (size_t)row * a.n + i;
  float h[8], d[8];
  unpack8(load_shared_data16(hidden), h);
  if (a.delta) {
    unpack8(load_shared_data16(a.delta + (size_t)row * a.n + i), d);
#pragma unroll
    for (int j = 0; j < 8; j++) h[j] += d[j];
  } else if (a.parts) {
    float s[8] = {};
#pragma unroll 4
    for (int p = 0; p < a.splits; p++) {
      const float4* q = reinterpret_cast<const float4*>(a.parts + (size_t)p * a.split_stride + (size_t)row * a.n + i);
      const float4 u = __ldcg(q), v = __ldcg(q + 1);
      s[0] += u.x; s[1] += u.y; s[2] += u.z; s[3] += u.w; s[4] += v.x; s[5] += v.y; s[6] += v.z; s[7] += v.w;
    }
#pragma unroll
    for (int j = 0; j < 8; j++) h[j] += __bfloat162float(__float2bfloat16(s[j]));  // as if the product had written bf16
  }
  const uint4 packed = pack8(h);
  *reinterpret_cast<uint4*>(hidden) = packed;
  unpack8(packed, h);
  float sum = 0.f;
#pragma unroll
  for (int j = 0; j < 8; j++) sum += h[j] * h[j];
  const float r = rsqrtf(block_sum(sum, shared) / a.n + a.eps);
  float f[8];
  unpack8(w, f);
#pragma unroll
  for (int j = 0; j < 8; j++) f[j] *= h[j] * r;
  store_oct(a.out + (size_t)row * a.out_row, threadIdx.x, a.out_oct, a.wide, pack8(f));
}

struct RopeArgs {
  const bf16* qkv;        // [rows][(heads + 2 kv_heads) * 128] row-major
  const float* parts;     // or f32 parts, [split][rows][...]
  const bf16* bias;       // or null
  const bf16* q_norm;     // [128] or null (Qwen3)
  const bf16* k_norm;
  const float2* cos_sin;  // [position][64]
  const int* positions;   // [rows]
  const int* slots;       // [rows] block*16 + offset; negative = padded row, writes nothing to the cache
  bf16* q;                // [rows][heads][128]
  bf16* k_cache;          // [block][kv head][16][128]
  bf16* v_cache;
  int heads, kv_heads, splits, split_stride;
  float eps;
};
// Bias, Q/K norm, rotary embedding (halves 0..63 and 64..127), paged write. A warp per (row, head):
// lane holds dims 2*lane, 2*lane+1 of each half. grid (ceil((heads + 2 kv_heads)/4), rows), 128 threads.
extern "C" __global__ void __launch_bounds__(128) rope_kv(const __grid_constant__ RopeArgs a) {
  pdl_launch_next();
  const int head = blockIdx.x * 4 + (threadIdx.x >> 5), row = blockIdx.y, lane = threadIdx.x & 31;
  const int all = a.heads + 2 * a.kv_heads;
  pdl_wait_previous();
  if (head >= all) return;
  float lo[2], hi[2];
  const size_t at = ((size_t)row * all + head) * 128 + 2 * lane;
  if (a.parts) {
    lo[0] = lo[1] = hi[0] = hi[1] = 0.f;
#pragma unroll 4
    for (int p = 0; p < a.splits; p++) {
      const float* f = a.parts + (size_t)p * a.split_stride + at;
      const float2 u = __ldcg(reinterpret_cast<const float2*>(f)), v = __ldcg(reinterpret_cast<const float2*>(f + 64));
      lo[0] += u.x; lo[1] += u.y; hi[0] += v.x; hi[1] += v.y;
    }
  } else {
    const uint32_t u = __ldcg(reinterpret_cast<const uint32_t*>(a.qkv + at)), v = __ldcg(reinterpret_cast<const uint32_t*>(a.qkv + at + 64));
    lo[0] = bf16_lo(u); lo[1] = bf16_hi(u); hi[0] = bf16_lo(v); hi[1] = bf16_hi(v);
  }
  if (a.bias) {
    const uint32_t u = *reinterpret_cast<const uint32_t*>(a.bias + head * 128 + 2 * lane), v = *reinterpret_cast<const uint32_t*>(a.bias + head * 128 + 64 + 2 * lane);
    lo[0] += bf16_lo(u); lo[1] += bf16_hi(u); hi[0] += bf16_lo(v); hi[1] += bf16_hi(v);
  }
  const bool is_q = head < a.heads, is_v = head >= a.heads + a.kv_heads;
  const bf16* norm = is_q ? a.q_norm : is_v ? nullptr : a.k_norm;
  if (norm) {
    float s = lo[0] * lo[0] + lo[1] * lo[1] + hi[0] * hi[0] + hi[1] * hi[1];
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) s += __shfl_xor_sync(~0u, s, d);
    const float r = rsqrtf(s / 128.f + a.eps);
    const uint32_t u = *reinterpret_cast<const uint32_t*>(norm + 2 * lane), v = *reinterpret_cast<const uint32_t*>(norm + 64 + 2 * lane);
    lo[0] *= r * bf16_lo(u); lo[1] *= r * bf16_hi(u); hi[0] *= r * bf16_lo(v); hi[1] *= r * bf16_hi(v);
  }
  if (!is_v) {
    const float4 cs = *reinterpret_cast<const float4*>(a.cos_sin + (size_t)a.positions[row] * 64 + 2 * lane);
    const float l0 = lo[0] * cs.x - hi[0] * cs.y, h0 = hi[0] * cs.x + lo[0] * cs.y;
    const float l1 = lo[1] * cs.z - hi[1] * cs.w, h1 = hi[1] * cs.z + lo[1] * cs.w;
    lo[0] = l0; hi[0] = h0; lo[1] = l1; hi[1] = h1;
  }
  bf16* to;
  if (is_q) to = a.q + ((size_t)row * a.heads + head) * 128;
  else {
    const int slot = a.slots[row], kv = is_v ? head - a.heads - a.kv_heads : head - a.heads;
    if (slot < 0) return;
    to = (is_v ? a.v_cache : a.k_cache) + (((size_t)(slot >> 4) * a.kv_heads + kv) * 16 + (slot & 15)) * 128;
  }
  *reinterpret_cast<uint32_t*>(to + 2 * lane) = pack_bf16(lo[0], lo[1]);
  *reinterpret_cast<uint32_t*>(to + 64 + 2 * lane) = pack_bf16(hi[0], hi[1]);
}

// gate_up [rows][2n] row-major, its columns 8 of gate, 8 of up in turn (see kSilu).
struct SiluArgs { const bf16* gate_up; bf16* out; int rows, n, out_row, out_oct, wide; };
// out = silu(gate) * up, for the path where a library computed gate_up. A thread does 8 columns.
extern "C" __global__ void __launch_bounds__(256) silu_mul(const __grid_constant__ SiluArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const long long i = (long long)blockIdx.x * 256 + threadIdx.x, per_row = a.n / 8;
  if (i >= per_row * a.rows) return;
  const int row = (int)(i / per_row), oct = (int)(i % per_row);
  float g[8], u[8];
  unpack8(load_shared_data16(a.gate_up + (size_t)row * 2 * a.n + oct * 16), g);
  unpack8(load_shared_data16(a.gate_up + (size_t)row * 2 * a.n + oct * 16 + 8), u);
#pragma unroll
  for (int j = 0; j < 8; j++) g[j] = silu(g[j]) * u[j];
  store_oct(a.out + (size_t)row * a.out_row, oct, a.out_oct, a.wide, pack8(g));
}

struct ArgmaxArgs { const bf16* logits; unsigned long long* best; int rows, n; };  // best[row]: key<<32 | ~index, zeroed before
extern "C" __global__ void __launch_bounds__(256) argmax_rows(const __grid_constant__ ArgmaxArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int row = blockIdx.y;
  unsigned long long best = 0;
  for (int i = (blockIdx.x * 256 + threadIdx.x) * 8; i < a.n; i += gridDim.x * 256 * 8) {
    float f[8];
    unpack8(load_shared_data16(a.logits + (size_t)row * a.n + i), f);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const uint32_t b = __float_as_uint(f[j]), key = b & 0x80000000u ? ~b : b | 0x80000000u;
      const unsigned long long c = ((unsigned long long)key << 32) | (uint32_t)~(i + j);
      best = c > best ? c : best;
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) { const unsigned long long o = __shfl_xor_sync(~0u, best, d); best = o > best ? o : best; }
  if ((threadIdx.x & 31) == 0) atomicMax(a.best + row, best);
}

struct DequantArgs { const uint4* codes; const uint32_t* scales; bf16* out; int n, k; float factor; };
// nf4 in kernel order to bf16 row-major [n][k], for large batches through cuBLASLt. A warp per tile;
// exact values times the scale in f32, one rounding.
extern "C" __global__ void __launch_bounds__(256) dequant_nf4(const __grid_constant__ DequantArgs a) {
  __shared__ float2 pairs[256];
  pairs[threadIdx.x] = make_float2(kNf4Exact[threadIdx.x >> 4], kNf4Exact[threadIdx.x & 15]);
  __syncthreads();
  const int lane = threadIdx.x & 31, k_blocks = a.k / 64, tiles = a.n / 16 * k_blocks;
  for (int i = blockIdx.x * 8 + (threadIdx.x >> 5); i < tiles; i += gridDim.x * 8) {
    const uint4 code = load_stream16(a.codes + (size_t)i * 32 + lane);
    const uint32_t sc = load_stream4(a.scales + (size_t)i * 8 + (lane >> 2));
    const float2 f = __half22float2(*reinterpret_cast<const __half2*>(&sc));
    const int row = i / k_blocks * 16 + (lane >> 2), col = i % k_blocks * 64 + (lane & 3) * 8;
    const uint32_t w[4] = {code.x, code.y, code.z, code.w};
#pragma unroll
    for (int j = 0; j < 4; j++) {
      const float s = (j & 1 ? f.y : f.x) * a.factor;
      uint32_t o[4];
#pragma unroll
      for (int b = 0; b < 4; b++) { const float2 v = pairs[(w[j] >> (8 * b)) & 255]; o[b] = pack_bf16(v.x * s, v.y * s); }
      *reinterpret_cast<uint4*>(a.out + (size_t)(row + 8 * (j & 1)) * a.k + col + 32 * (j >> 1)) = make_uint4(o[0], o[1], o[2], o[3]);
    }
  }
}
