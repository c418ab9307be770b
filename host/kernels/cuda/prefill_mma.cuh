// Prefill attention without wgmma (sm_80, sm_89): eight warps of 16 rows, mma.sync, tiles of 64 tokens by cp.async.
//
// Shared memory holds two tiles each of K and V as [token][DIM], 16-byte chunks swizzled by the token, so that ldmatrix
// reads them without conflicts. One block per item; the hardware hands them out, longest first.
#pragma once
#include "prefill.cuh"

template <int DIM>
struct PrefillMma {
  static constexpr int kThreads = 256, kTokens = 64, kTiles = kTokens / 8, kChunks = DIM / 8;
  static constexpr int kTileBytes = kTokens * DIM * 2, kSharedBytes = 4 * kTileBytes;

  DEV static uint32_t place(int token, int chunk) { return token * DIM * 2 + ((chunk ^ (token & 7)) << 4); }
  DEV static void load_matrices(uint32_t (&r)[4], uint32_t smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem) : "memory");
  }
  DEV static void load_transposed(uint32_t (&r)[4], uint32_t smem) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(smem) : "memory");
  }

  // Tokens behind the context are zeros: they may be anything in memory, and 0 times NaN must not be NaN.
  DEV static void copy_tile(const PrefillArgs& a, const PrefillItem& item, const bf16* cache, uint32_t smem, int n) {
#pragma unroll
    for (int i = 0; i < kTokens * kChunks / kThreads; i++) {
      const int at = i * kThreads + threadIdx.x, token = at / kChunks, c = at % kChunks, position = n * kTokens + token;
      const bool live = position < item.context;
      const size_t block = live ? item.table[position >> 4] : 0;
      copy_async16_if(smem + place(token, c), cache + ((block * a.kv_heads + item.kv_head) * 16 + (position & 15)) * DIM + c * 8, live);
    }
    copy_commit();
  }
  DEV static void load_queries(uint32_t (&q)[DIM / 16][4], const PrefillArgs& a, const PrefillItem& item, int row, int t) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int r = row + 8 * half;
      const uint32_t* from = reinterpret_cast<const uint32_t*>(a.q + ((size_t)(item.row + r) * a.heads + item.head) * DIM) + t;
#pragma unroll
      for (int i = 0; i < DIM / 16; i++) {
        q[i][half] = r < item.rows ? __ldcg(from + i * 8) : 0;
        q[i][half + 2] = r < item.rows ? __ldcg(from + i * 8 + 4) : 0;
      }
    }
  }
  DEV static void scores(float (&s)[kTiles][4], const uint32_t (&q)[DIM / 16][4], uint32_t k, int lane) {
#pragma unroll
    for (int j = 0; j < kTiles; j++) {
      s[j][0] = s[j][1] = s[j][2] = s[j][3] = 0.f;
#pragma unroll
      for (int i = 0; i < DIM / 32; i++) {
        uint32_t b[4];
        load_matrices(b, k + place(8 * j + (lane & 7), 4 * i + (lane >> 3)));
        mma_bf16(s[j], q[2 * i], b[0], b[1]);
        mma_bf16(s[j], q[2 * i + 1], b[2], b[3]);
      }
    }
  }
  DEV static void add_values(float (&o)[DIM / 8][4], const uint32_t (&p)[kTiles / 2][4], uint32_t v, int lane) {
#pragma unroll
    for (int i = 0; i < kTokens / 16; i++)
#pragma unroll
      for (int j = 0; j < DIM / 16; j++) {
        uint32_t b[4];
        load_transposed(b, v + place(16 * i + (lane & 15), 2 * j + (lane >> 4)));
        mma_bf16(o[2 * j], p[i], b[0], b[1]);
        mma_bf16(o[2 * j + 1], p[i], b[2], b[3]);
      }
  }

  DEV static void run(const PrefillArgs& a) {
    extern __shared__ __align__(128) unsigned char prefill_mma_shared[];
    const uint32_t k = (uint32_t)__cvta_generic_to_shared(prefill_mma_shared), v = k + 2 * kTileBytes;
    pdl_launch_next();
    pdl_wait_previous();
    const PrefillItem item(a, blockIdx.x);
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3, row = warp * 16 + (lane >> 2);
    const int tiles = (item.context + kTokens - 1) / kTokens;
    copy_tile(a, item, a.k_cache, k, 0);
    copy_tile(a, item, a.v_cache, v, 0);
    uint32_t q[DIM / 16][4];
    load_queries(q, a, item, row, t);
    Softmax softmax;
    softmax.start(a, item, row);
    float o[DIM / 8][4], shrink[2];
#pragma unroll
    for (int j = 0; j < DIM / 8; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.f;
#pragma unroll 1
    for (int n = 0; n < tiles; n++) {
      const uint32_t at = (n & 1) * kTileBytes, next = kTileBytes - at;
      if (n + 1 < tiles) copy_tile(a, item, a.k_cache, k + next, n + 1); else copy_commit();
      if (n + 1 < tiles) copy_tile(a, item, a.v_cache, v + next, n + 1); else copy_commit();
      copy_wait<2>();
      __syncthreads();
      // Of a warp that sees nothing of this tile, all weights are 0.
      if (n * kTokens <= item.position + warp * 16 + 15) {
        float s[kTiles][4];
        scores(s, q, k + at, lane);
        if (n * kTokens + kTokens - 1 > item.position + warp * 16) mask_causal(s, n * kTokens + 2 * t, item.position + row);
        softmax.update(s, shrink);
        shrink_rows(o, shrink);
        uint32_t p[kTiles / 2][4];
        pack_weights(p, s);
        add_values(o, p, v + at, lane);
      }
      __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float inverse = softmax.inverse(i);
      const int r = row + 8 * i;
      uint32_t* to = reinterpret_cast<uint32_t*>(a.out + ((size_t)(item.row + r) * a.heads + item.head) * DIM) + t;
#pragma unroll
      for (int j = 0; j < DIM / 8; j++)
        if (r < item.rows) to[j * 4] = pack_bf16(o[j][2 * i] * inverse, o[j][2 * i + 1] * inverse);
    }
  }
};
