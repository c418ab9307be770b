// What is computed between the products: norms, rotary embedding, silu. Activations lie as store_oct says.
#pragma once
#include "common.cuh"

struct NormArgs {
  bf16* hidden;           // [rows][n] residual stream, updated in place
  const bf16* delta;      // [rows][n] row-major to add, or null
  const float* parts;     // or: `splits` f32 parts of it, [split][rows][n]
  const bf16* weight;     // [n]
  bf16* out;              // normalised
  int n, splits, split_stride, out_row, out_oct, wide;
  float eps;
};
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
// hidden += delta; out = hidden * rsqrt(mean(hidden^2) + eps) * weight. One block per row, n/8 threads rounded up to whole
// warps; n % 8 == 0 (with `wide` n % 64 == 0), n <= 8192. Threads beyond n take part in the sum with zeros.
extern "C" __global__ void __launch_bounds__(1024) add_rms_norm(const __grid_constant__ NormArgs a) {
  __shared__ float shared[32];
  pdl_launch_next();
  const int row = blockIdx.x, i = threadIdx.x * 8;
  const bool live = i < a.n;
  const uint4 w = live ? *reinterpret_cast<const uint4*>(a.weight + i) : make_uint4(0, 0, 0, 0);
  pdl_wait_previous();
  bf16* hidden = a.hidden + (size_t)row * a.n + i;
  float h[8] = {}, sum = 0.f;
  if (live) {
    unpack8(load_shared_data16(hidden), h);
    if (a.delta) {
      float d[8];
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
#pragma unroll
    for (int j = 0; j < 8; j++) sum += h[j] * h[j];
  }
  const float r = rsqrtf(block_sum(sum, shared) / a.n + a.eps);
  if (!live) return;
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
  const bf16* q_norm;     // [128] or null (Qwen3); so is k_norm
  const bf16* k_norm;
  const float2* cos_sin;  // [..][64]
  const int* angle_rows;  // [rows] into cos_sin
  const int* slots;       // [rows] block*16 + offset; negative = padded row, writes nothing to the cache
  bf16* q;                // [rows][heads][128]
  bf16* k_cache;          // [block][kv head][16][128]
  bf16* v_cache;
  int heads, kv_heads, splits, split_stride;
  float eps;
  int head_dim;           // numbers of a head that are not padding, the same half of them in each of its halves
  const float* query_scale;  // [rows] a factor on the queries, or null
};
// Bias, Q/K norm, rotary embedding (halves 0..63 and 64..127), factor on the queries, paged write. A warp per (row, head):
// lane holds dims 2*lane, 2*lane+1 of each half. grid (ceil((heads + 2 kv_heads)/4), rows), 128 threads; rows <= 65,535.
// Padding is zeros that stay zeros: the norm's mean is of head_dim numbers.
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
    const float r = rsqrtf(s / a.head_dim + a.eps);
    const uint32_t u = *reinterpret_cast<const uint32_t*>(norm + 2 * lane), v = *reinterpret_cast<const uint32_t*>(norm + 64 + 2 * lane);
    lo[0] *= r * bf16_lo(u); lo[1] *= r * bf16_hi(u); hi[0] *= r * bf16_lo(v); hi[1] *= r * bf16_hi(v);
  }
  if (!is_v) {
    const float4 cs = *reinterpret_cast<const float4*>(a.cos_sin + (size_t)a.angle_rows[row] * 64 + 2 * lane);
    const float l0 = lo[0] * cs.x - hi[0] * cs.y, h0 = hi[0] * cs.x + lo[0] * cs.y;
    const float l1 = lo[1] * cs.z - hi[1] * cs.w, h1 = hi[1] * cs.z + lo[1] * cs.w;
    lo[0] = l0; hi[0] = h0; lo[1] = l1; hi[1] = h1;
  }
  if (is_q && a.query_scale) {
    const float f = a.query_scale[row];
    lo[0] *= f; lo[1] *= f; hi[0] *= f; hi[1] *= f;
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
