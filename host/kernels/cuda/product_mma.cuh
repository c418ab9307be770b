// y = x * W^T for 9..64 rows of x with mma.sync: for cards without wgmma (on Hopper product_wide.cuh is
// 1.3, 2 and 4 times as fast at 16, 32 and 64 rows). Fragments as in product_rows.cuh, work divided as in split.cuh, activations
// straight from L1. A block is WR x WK warps: WR of them stack R row tiles each, WK split the k range.
#pragma once
#include "product_rows.cuh"
#include "split.cuh"

template <class W, int NT, int R, int WR, int WK, int DEPTH, int EPI>
struct MmaProduct {
  static constexpr int kThreads = 32 * WR * WK;
  static constexpr int kTilesPerGroup = WR * R;
  static constexpr int kReduceItems = WR * R * NT * 32;  // float4 per k-warp
  static constexpr int kSharedBytes = (W::kTableBytes ? 2048 + W::kTableBytes : 0) + (WK > 1 ? WK : 1) * kReduceItems * 16;

  struct Rows { uint4 half[NT][2]; };

  // The lane's activations of one k block: for each column tile the 8 + 8 inputs it owns.
  DEV static void load_x(Rows& x, const ProductArgs& a, int kb, int lane) {
    const int g = lane >> 2, t = lane & 3;
#pragma unroll
    for (int j = 0; j < NT; j++) {
      const int m = min(j * 8 + g, a.m - 1);  // rows past the end repeat the last one and are not stored
      const bf16* p = a.x + (size_t)m * a.x_row + (size_t)(kb * 8 + t) * a.x_oct;
      x.half[j][0] = load_shared_data16(p);
      x.half[j][1] = load_shared_data16(p + 4 * a.x_oct);
    }
  }

  DEV static void multiply(float (&acc)[R][NT][4], int r, const typename W::Stage& st, const Rows& x, uint32_t lane4) {
    float block[NT][4];
    if (W::kBlockScaled) {
#pragma unroll
      for (int j = 0; j < NT; j++) block[j][0] = block[j][1] = block[j][2] = block[j][3] = 0.f;
    }
#pragma unroll
    for (int s = 0; s < 4; s++) {
      uint32_t frag[4];
      W::fragment(frag, st, s, lane4);
#pragma unroll
      for (int j = 0; j < NT; j++) {
        const uint4 h = x.half[j][s >> 1];
        mma_bf16(W::kBlockScaled ? block[j] : acc[r][j], frag, (s & 1) ? h.z : h.x, (s & 1) ? h.w : h.y);
      }
    }
    if (W::kBlockScaled) {  // the scale of a block multiplies its sum, not its 64 weights
      const float2 f = W::block_scale(st);
#pragma unroll
      for (int j = 0; j < NT; j++) {
        acc[r][j][0] += f.x * block[j][0]; acc[r][j][1] += f.x * block[j][1];
        acc[r][j][2] += f.y * block[j][2]; acc[r][j][3] += f.y * block[j][3];
      }
    }
  }

  // One warp: k blocks [k0, k1) of R row tiles.
  DEV static void accumulate(float (&acc)[R][NT][4], const ProductArgs& a, int first_tile, int tiles, int k0, int k1,
                             int k_blocks, bool& waited) {
    const int lane = threadIdx.x & 31;
    const uint32_t lane4 = lane * 4;
    typename W::Stage st[DEPTH][R];
#pragma unroll
    for (int d = 0; d < DEPTH; d++)
      if (k0 + d < k1)
#pragma unroll
        for (int r = 0; r < R; r++) W::load(st[d][r], a, min(first_tile + r, tiles - 1), k0 + d, k_blocks, lane);
    if (!waited) {  // the weights above were on their way before the previous kernel ended
      pdl_wait_previous();
      waited = true;
      if (W::kTableBytes) __syncthreads();  // the table is filled
    }
    Rows x[2];
    if (NT == 1 && k0 < k1) load_x(x[0], a, k0, lane);
    for (int k = k0; k < k1; k += DEPTH) {
#pragma unroll
      for (int d = 0; d < DEPTH; d++) {
        const int kk = k + d;
        if (kk < k1) {
          // One row tile of x is cheap to hold twice, so fetch it a block ahead; more are not.
          Rows& now = NT == 1 ? x[d & 1] : x[0];
          if (NT == 1) { if (kk + 1 < k1) load_x(x[(d + 1) & 1], a, kk + 1, lane); }
          else load_x(now, a, kk, lane);
#pragma unroll
          for (int r = 0; r < R; r++) {
            multiply(acc, r, st[d][r], now, lane4);
            if (kk + DEPTH < k1) W::load(st[d][r], a, min(first_tile + r, tiles - 1), kk + DEPTH, k_blocks, lane);
          }
        }
      }
    }
  }

  DEV static void run(const ProductArgs& a, unsigned char* smem) {
    pdl_launch_next();
    if (W::kTableBytes) smem += W::kTableAddress - (uint32_t)__cvta_generic_to_shared(smem);
    float4* reduce = reinterpret_cast<float4*>(smem + W::kTableBytes);
    W::fill_table(smem);
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0);  // tells the compiler that it is uniform
    const int lane = threadIdx.x & 31, wr = warp % WR, wk = warp / WR;
    const int k_blocks = a.k / 64, tiles = a.n / 16;
    const unsigned units = (tiles + kTilesPerGroup - 1) / kTilesPerGroup * k_blocks;
    // No block is left without a unit between two that share a row group: see `contributors`.
    const Split split{units, min(gridDim.x, units), (unsigned)k_blocks};
    const unsigned begin = min(split.begin(blockIdx.x), units), end = min(split.begin(blockIdx.x + 1), units);
    bool waited = false;

    for (unsigned u = begin; u < end;) {
      const int group = u / k_blocks, k0 = u - group * k_blocks, k1 = min(k_blocks, (int)(k0 + end - u)), len = k1 - k0;
      float acc[R][NT][4] = {};
      accumulate(acc, a, group * kTilesPerGroup + wr * R, tiles, k0 + len * wk / WK, k0 + len * (wk + 1) / WK, k_blocks, waited);
      // Sum over the k-warps, in shared memory.
      __syncthreads();
#pragma unroll
      for (int r = 0; r < R; r++)
#pragma unroll
        for (int j = 0; j < NT; j++)
          reduce[wk * kReduceItems + ((wr * R + r) * NT + j) * 32 + lane] =
              make_float4(acc[r][j][0], acc[r][j][1], acc[r][j][2], acc[r][j][3]);
      __syncthreads();
      const bool whole = len == k_blocks;
      const unsigned first = split.owner(group * k_blocks), last = split.owner(group * k_blocks + k_blocks - 1);
      if (!whole) {
        float4* slot = a.partial + ((size_t)blockIdx.x * 2 + (u == begin ? 0 : 1)) * kReduceItems;
        for (int i = threadIdx.x; i < kReduceItems; i += kThreads)
          if ((i / 32 % NT) * 8 + 2 * (i & 3) < a.m) __stcg(slot + i, sum_shared(reduce, i));
      }
      if (whole || arrive_last(a.arrivals + group, last - first + 1)) {
        for (int i = threadIdx.x; i < kReduceItems; i += kThreads) {
          const int l = i & 31, j = i / 32 % NT, tile = group * kTilesPerGroup + i / 32 / NT;
          if (tile >= tiles || j * 8 + 2 * (l & 3) >= a.m) continue;
          emit<W, EPI>(a, tile, j, l, whole ? sum_shared(reduce, i) : sum_partial(a, split, group, first, last, i));
        }
      }
      u += len;
    }
    if (!waited) pdl_wait_previous();  // a block without work still must not let the next kernel overtake
  }

  DEV static float4 sum_shared(const float4* reduce, int item) {
    float4 s = reduce[item];
#pragma unroll
    for (int w = 1; w < WK; w++) {
      const float4 v = reduce[w * kReduceItems + item];
      s.x += v.x; s.y += v.y; s.z += v.z; s.w += v.w;
    }
    return s;
  }
  DEV static float4 sum_partial(const ProductArgs& a, const Split& split, int group, unsigned first, unsigned last, int item) {
    float4 s = make_float4(0.f, 0.f, 0.f, 0.f);
#pragma unroll 4
    for (unsigned c = first; c <= last; c++) {
      // Slot 0 holds a block's first piece, slot 1 its last.
      const int slot = split.begin(c) >= (unsigned)group * split.k_blocks ? 0 : 1;
      const float4 v = __ldcg(a.partial + ((size_t)c * 2 + slot) * kReduceItems + item);
      s.x += v.x; s.y += v.y; s.z += v.z; s.w += v.w;
    }
    return s;
  }
};
