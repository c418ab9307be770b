// Prefill attention on Hopper: one warp brings pages by tensor copies, two warpgroups of 64 rows multiply with wgmma.
//
// A tensor copy brings one page (16 tokens of one head) in the 128-byte swizzle, as [8 tokens][64 dims] pieces ordered
// (group of 8 tokens, half of the dims): pieces of one half lie at one distance through all pages of a tile, as wgmma
// wants them for K; V is read transposed. The maps have the dimensions (64 dims, 8 tokens, halves, groups), strides
// (2, 2*DIM, 128, 16*DIM) bytes, box (64, 8, halves, 2), over the whole pool.
//
// Tiles of 128 tokens of the context are walked from the last to the first, so that what must be hidden comes first. The
// scores of the next tile are computed while the weights of this one are multiplied with V; and while one warpgroup
// computes a softmax, the other one has the tensor cores (they take turns).
#pragma once
#include "prefill.cuh"
#include "wgmma.cuh"

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PREFILL_WGMMA_BODY 1
#endif

template <int DIM>
struct PrefillWgmma {
  static constexpr int kThreads = 384, kTokens = 128, kPages = kTokens / 16, kStages = 2, kHalves = DIM / 64;
  static constexpr int kGroupBytes = kHalves * 1024, kPageBytes = 2 * kGroupBytes, kTileBytes = kPages * kPageBytes;
  static constexpr int kQueryBytes = 64 * DIM * 2;  // of one warpgroup
  static constexpr int kSharedBytes = 1024 + 2 * kQueryBytes + 2 * kStages * kTileBytes + 4 * kStages * 8;
  static constexpr int kConsumers = 256;

#ifdef PREFILL_WGMMA_BODY
  // Shared memory by address, and how far a warp is in its round of stages.
  struct Ring {
    uint32_t tiles, full, empty;
    unsigned done;
    DEV uint32_t tile() const { return tiles + (done % kStages) * kTileBytes; }
    DEV uint32_t full_barrier() const { return full + (done % kStages) * 8; }
    DEV uint32_t empty_barrier() const { return empty + (done % kStages) * 8; }
    DEV int parity() const { return done / kStages & 1; }
    DEV void wait_full() const { barrier_wait(full_barrier(), parity()); }
    DEV void release(int lane) { if (lane == 0) barrier_arrive(empty_barrier()); done++; }
  };

  DEV static uint64_t descriptor(uint32_t smem, int leading, int stride) {
    return (uint64_t)((smem & 0x3ffff) >> 4) | ((uint64_t)(leading >> 4) << 16) | ((uint64_t)(stride >> 4) << 32) | (1ull << 62);
  }
  DEV static void meet(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
  DEV static void pass(int id, int threads) { asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory"); }
  DEV static void publish_to_async() { asm volatile("fence.proxy.async;" ::: "memory"); }
  // Keeps the compiler from moving reads of sums before the wait for them.
  template <int N> DEV static void settle(float (&d)[N][4]) {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
      for (int k = 0; k < 4; k++) asm volatile("" : "+f"(d[j][k])::"memory");
  }

  // Items go to the blocks in turns, there and back, so that each gets as many long ones as the others.
  DEV static int item_of(int round) {
    return round * gridDim.x + (round & 1 ? gridDim.x - 1 - blockIdx.x : blockIdx.x);
  }

  DEV static void copy_page(uint32_t smem, const unsigned char* map, int group, uint32_t bar) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%2, %2, %2, %3}], [%4];"
                 ::"r"(smem), "l"(map), "r"(0), "r"(group), "r"(bar) : "memory");
  }
  DEV static void bring(Ring& ring, const unsigned char* map, int group, int pages, int lane) {
    barrier_wait(ring.empty_barrier(), ring.parity() ^ 1);
    if (lane == 0) barrier_expect(ring.full_barrier(), pages * kPageBytes);
    __syncwarp();
    if (lane < pages) copy_page(ring.tile() + lane * kPageBytes, map, group, ring.full_barrier());
    __syncwarp();
    ring.done++;
  }
  DEV static void produce(const PrefillArgs& a, Ring k, Ring v, int lane) {
    const int items = a.tile_count * a.heads;
    for (int round = 0; round * (int)gridDim.x < items; round++) {
      const int index = item_of(round);
      if (index >= items) continue;
      const PrefillItem item(a, index);
      const int pages = (item.context + 15) / 16, tiles = (pages + kPages - 1) / kPages;
      int page = (tiles - 1) * kPages + (lane & (kPages - 1));
      int id = page < pages ? item.table[page] : 0;
      for (int n = tiles - 1; n >= 0; n--) {
        const int group = a.first_group + (id * a.kv_heads + item.kv_head) * 2, here = min(kPages, pages - n * kPages);
        page -= kPages;
        if (n > 0) id = item.table[page];
        bring(k, a.k_map, group, here, lane);
        bring(v, a.v_map, group, here, lane);
      }
    }
  }

  // A warp's own 16 rows of queries, in the swizzled order; zeros for rows that are not there.
  DEV static void load_queries(const PrefillArgs& a, const PrefillItem& item, uint32_t smem, int first, int warp, int lane) {
    constexpr int kChunks = DIM / 8;
#pragma unroll
    for (int i = 0; i < 16 * kChunks / 32; i++) {
      const int at = i * 32 + lane, r = warp * 16 + at / kChunks, c = at % kChunks;
      uint4 v = make_uint4(0, 0, 0, 0);
      if (first + r < item.rows) v = load_shared_data16(a.q + ((size_t)(item.row + first + r) * a.heads + item.head) * DIM + c * 8);
      const uint32_t to = smem + (c >> 3) * 8192 + r * 128 + (((c & 7) ^ (r & 7)) << 4);
      asm volatile("st.shared.v4.u32 [%0], {%1,%2,%3,%4};" ::"r"(to), "r"(v.x), "r"(v.y), "r"(v.z), "r"(v.w) : "memory");
    }
  }
  // The same way back, over the place of the queries, which are no longer wanted.
  DEV static void store_rows(const PrefillArgs& a, const PrefillItem& item, uint32_t smem, const float (&o)[DIM / 8][4], const float (&inverse)[2],
                             int first, int warp, int lane) {
    const int r = warp * 16 + (lane >> 2);
#pragma unroll
    for (int j = 0; j < DIM / 8; j++)
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const uint32_t to = smem + (j >> 3) * 8192 + (r + 8 * i) * 128 + (((j & 7) ^ (r & 7)) << 4) + (lane & 3) * 4;
        asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(pack_bf16(o[j][2 * i] * inverse[i], o[j][2 * i + 1] * inverse[i])) : "memory");
      }
    __syncwarp();
    constexpr int kChunks = DIM / 8;
#pragma unroll
    for (int i = 0; i < 16 * kChunks / 32; i++) {
      const int at = i * 32 + lane, row = warp * 16 + at / kChunks, c = at % kChunks;
      const uint4 v = read_shared16(smem + (c >> 3) * 8192 + row * 128 + (((c & 7) ^ (row & 7)) << 4));
      if (first + row < item.rows) *reinterpret_cast<uint4*>(a.out + ((size_t)(item.row + first + row) * a.heads + item.head) * DIM + c * 8) = v;
    }
    __syncwarp();
  }
  // Tokens behind the context may be anything: no weight of theirs but 0, and 0 times NaN must not be NaN.
  DEV static void clear_values(uint32_t tile, int first) {
    for (int i = threadIdx.x; i < (kTokens - first) * DIM / 8; i += kConsumers) {
      const int token = first + i / (DIM / 8), c = i % (DIM / 8);
      const uint32_t to = tile + (token >> 3) * kGroupBytes + (c >> 3) * 1024 + (token & 7) * 128 + ((c & 7) << 4);
      asm volatile("st.shared.v4.u32 [%0], {%1,%1,%1,%1};" ::"r"(to), "r"(0) : "memory");
    }
    publish_to_async();
  }

  DEV static void issue_scores(float (&s)[16][4], uint32_t queries, uint32_t tile) {
    const uint64_t q = descriptor(queries, 16, 1024), k = descriptor(tile, 16, kGroupBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < DIM / 16; i++)
      WgmmaBoth<16>::run(s, q + (((i >> 2) * 8192 + (i & 3) * 32) >> 4), k + (((i >> 2) * 1024 + (i & 3) * 32) >> 4), i > 0);
    wgmma_commit();
  }
  DEV static void issue_values(float (&o)[DIM / 8][4], const uint32_t (&p)[8][4], uint32_t tile) {
    const uint64_t v = descriptor(tile, 1024, kGroupBytes);
    wgmma_fence();
#pragma unroll
    for (int i = 0; i < kPages; i++) WgmmaTransposed<DIM / 8>::run(o, p[i], v + ((i * kPageBytes) >> 4));
    wgmma_commit();
  }

  DEV static void consume(const PrefillArgs& a, uint32_t queries, Ring k, Ring v) {
    const int group = threadIdx.x >> 7, warp = threadIdx.x >> 5 & 3, lane = threadIdx.x & 31, first = group * 64;
    const int own = 2 + group, other = 3 - group, items = a.tile_count * a.heads;
    queries += group * kQueryBytes;
    if (group == 1) pass(other, kConsumers);  // the first warpgroup begins
    for (int round = 0; round * (int)gridDim.x < items; round++) {
      const int index = item_of(round);
      if (index >= items) continue;
      const PrefillItem item(a, index);
      load_queries(a, item, queries, first, warp, lane);
      publish_to_async();
      meet(4 + group, 128);
      int n = (item.context + kTokens - 1) / kTokens - 1;
      const int row = warp * 16 + (lane >> 2), position = item.position + first + row, column = 2 * (lane & 3);
      Softmax softmax;
      softmax.start(a, item, first + row);
      float s[16][4], o[DIM / 8][4], shrink[2];
      uint32_t p[8][4];
#pragma unroll
      for (int j = 0; j < DIM / 8; j++) o[j][0] = o[j][1] = o[j][2] = o[j][3] = 0.f;

      k.wait_full();
      issue_scores(s, queries, k.tile());
      wgmma_wait<0>();
      settle(s);
      k.release(lane);
      if (item.context % kTokens) {
        v.wait_full();
        clear_values(v.tile(), item.context % kTokens);
        meet(1, kConsumers);
      }
      mask_causal(s, n * kTokens + column, position);
      softmax.update(s, shrink);
      pack_weights(p, s);
#pragma unroll 1
      for (n--; n >= 0; n--) {
        k.wait_full();
        meet(own, kConsumers);
        issue_scores(s, queries, k.tile());
        v.wait_full();
        issue_values(o, p, v.tile());
        pass(other, kConsumers);
        wgmma_wait<1>();
        settle(s);
        k.release(lane);
        if (n * kTokens + kTokens - 1 > item.position + first) mask_causal(s, n * kTokens + column, position);
        softmax.update(s, shrink);
        wgmma_wait<0>();
        settle(o);
        v.release(lane);
        pack_weights(p, s);
        shrink_rows(o, shrink);
      }
      v.wait_full();
      issue_values(o, p, v.tile());
      wgmma_wait<0>();
      settle(o);
      v.release(lane);
      const float inverse[2] = {softmax.inverse(0), softmax.inverse(1)};
      store_rows(a, item, queries, o, inverse, first, warp, lane);
    }
  }

  DEV static void run(const PrefillArgs& a) {
    extern __shared__ unsigned char prefill_shared[];
    const uint32_t queries = ((uint32_t)__cvta_generic_to_shared(prefill_shared) + 1023) & ~1023u;
    const uint32_t tiles = queries + 2 * kQueryBytes, barriers = tiles + 2 * kStages * kTileBytes;
    const Ring k{tiles, barriers, barriers + kStages * 8, 0};
    const Ring v{tiles + kStages * kTileBytes, barriers + 2 * kStages * 8, barriers + 3 * kStages * 8, 0};
    if (threadIdx.x == 0) {
      for (int s = 0; s < kStages; s++) {
        barrier_init(k.full + s * 8, 1); barrier_init(v.full + s * 8, 1);
        barrier_init(k.empty + s * 8, kConsumers / 32); barrier_init(v.empty + s * 8, kConsumers / 32);
      }
      barrier_publish();
    }
    pdl_wait_previous();
    publish_to_async();  // an earlier kernel wrote the cache by ordinary stores
    __syncthreads();
    if (threadIdx.x >= kConsumers) {
      asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
      if (threadIdx.x < kConsumers + 32) produce(a, k, v, threadIdx.x & 31);
    } else {
      asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
      consume(a, queries, k, v);
    }
  }
#else
  DEV static void run(const PrefillArgs&) { __trap(); }
#endif
};
