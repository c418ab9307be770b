// y = x * W^T for 9..128 rows of x on Hopper: weights are turned into fragments in registers as for few
// rows, and multiplied by warpgroup instructions (wgmma) that read the activations from shared memory
// themselves, at the full rate of the tensor cores (mma.sync does not reach it).
//
// A block is WGS warpgroups of 64 rows of W each. One thread brings the activations of two k blocks at a
// time by bulk copies: the wide layout (element (m, k) at (p/8)*8*M + m*8 + p%8 with p = wide_k(k)) is
// already what wgmma calls the K-major layout without swizzle, and a k block is one contiguous piece.
// Work is divided as in split.cuh, a unit being two k blocks; or, with splits > 1, block b does part b % splits of k for row
// group b / splits, and the kernel that consumes y adds the parts (ProductArgs::y_f32). Needs M == 8*NT: the caller pads.
#pragma once
#include "product_rows.cuh"
#include "split.cuh"
#include "wgmma.cuh"

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define WIDE_BODY 1
#endif

template <class W, int NT, int WGS, int AHEAD, int STAGES, int EPI>
struct WideProduct {
  static constexpr int kTokens = NT * 8, kThreads = 128 * WGS, kTilesPerGroup = 4 * WGS;
  static constexpr int kBlockBytes = kTokens * 128, kStageBytes = 2 * kBlockBytes;  // activations of a unit
  static constexpr int kItems = kTilesPerGroup * NT * 32;  // float4 of a row group's sums
  static constexpr int kSlot = W::kSlotBytes + (W::kScaleBytes ? 128 : 0), kWarpBytes = 2 * AHEAD * kSlot;  // AHEAD units of weights
  static constexpr int kSharedBytes = 1024 + W::kTableBytes + STAGES * kStageBytes + 4 * WGS * kWarpBytes + 2 * STAGES * 8;

#ifdef WIDE_BODY
  DEV static uint64_t descriptor(uint32_t smem) {
    return (uint64_t)((smem & 0x3ffff) >> 4) | ((uint64_t)((kTokens * 16) >> 4) << 16) | ((uint64_t)(128 >> 4) << 32);
  }

  DEV static void run(const ProductArgs& a, unsigned char* smem) {
    pdl_launch_next();
    smem += 2048 - (uint32_t)__cvta_generic_to_shared(smem);
    const uint32_t base = 2048, stages = base + W::kTableBytes, rings = stages + STAGES * kStageBytes;
    const uint32_t full = rings + 4 * WGS * kWarpBytes, empty = full + STAGES * 8;
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;
    const int k_blocks = a.k / 64, k_units = k_blocks / 2, tiles = a.n / 16;
    const unsigned units = (tiles + kTilesPerGroup - 1) / kTilesPerGroup * k_units;
    const Split split{units, min(gridDim.x, units), (unsigned)k_units};
    const bool parted = a.splits > 1;
    const unsigned part = parted ? blockIdx.x % a.splits : 0, first_unit = parted ? blockIdx.x / a.splits * k_units : 0;
    const unsigned begin = parted ? first_unit + k_units * part / a.splits : min(split.begin(blockIdx.x), units);
    const unsigned end = parted ? first_unit + k_units * (part + 1) / a.splits : min(split.begin(blockIdx.x + 1), units);

    // Weights: each warp has its own ring, filled AHEAD units before their use, across row groups. (Bulk
    // copies, good for the row products' larger pieces, were 8 % slower here.) Scales go 4 bytes a lane:
    // 16 bytes from a few lanes cost the load/store unit 20 cycles, whatever the reason.
    const uint32_t ring = rings + warp * kWarpBytes, lane4 = lane * 4;
    int copy_group = begin / k_units, copy_k = begin - copy_group * k_units, copy_slot = 0;
    unsigned copy_left = end - begin;
    const char *source, *scales;
    auto enter = [&] {
      const int tile = min(copy_group * kTilesPerGroup + warp, tiles - 1);
      source = W::source(a, tile, 2 * copy_k, k_blocks, lane);
      scales = W::scale_source(a, tile, 2 * copy_k, k_blocks, 0) + (lane & 15) * 4;
    };
    enter();
    auto copy_next = [&] {
      if (copy_left > 0) {
        const uint32_t slot = ring + copy_slot * 2 * kSlot;
        W::copy(slot, source, a.k, lane, true);
        W::copy(slot + W::kSlotBytes, source + W::kBlockStep, a.k, lane, true);
        if (W::kScaleBytes && lane < 16) copy_async<4>(slot + 2 * W::kSlotBytes + lane * 4, scales);
        copy_left--;
        source += 2 * W::kBlockStep; scales += 2 * W::kScaleBytes;
        if (++copy_k == k_units) { copy_k = 0; copy_group++; enter(); }
        if (++copy_slot == AHEAD) copy_slot = 0;
      }
      copy_commit();
    };
#pragma unroll 1
    for (int i = 0; i < AHEAD; i++) copy_next();
    if (threadIdx.x == 0)
      for (int s = 0; s < STAGES; s++) { barrier_init(full + s * 8, 1); barrier_init(empty + s * 8, 4 * WGS); }
    W::fill_table(smem);
    barrier_publish();
    pdl_wait_previous();
    __syncthreads();

    // One thread brings the activations, STAGES - 1 units ahead.
    unsigned bring_unit = begin; int bring_stage = 0, bring_parity = 1, bring_k = begin % k_units;
    auto bring_next = [&] {
      if (bring_unit < end) {
        barrier_wait(empty + bring_stage * 8, bring_parity);  // parity 1 of a fresh barrier: free at once
        barrier_expect(full + bring_stage * 8, kStageBytes);
        bulk_copy(stages + bring_stage * kStageBytes, reinterpret_cast<const char*>(a.x) + (size_t)bring_k * kStageBytes, kStageBytes, full + bring_stage * 8);
        bring_unit++;
        if (++bring_k == k_units) bring_k = 0;
        if (++bring_stage == STAGES) { bring_stage = 0; bring_parity ^= 1; }
      }
    };
    if (threadIdx.x == 0)
      for (int i = 0; i < STAGES - 1; i++) bring_next();

    int slot = 0, stage = 0, parity = 0;
    for (unsigned u = begin; u < end;) {
      const int group = u / k_units, k0 = u - group * k_units, k1 = min(k_units, (int)(k0 + end - u)), len = k1 - k0;
      float acc[NT][4];
#pragma unroll
      for (int j = 0; j < NT; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
#pragma unroll 1
      for (int i = 0; i < len; i++) {
        copy_wait<AHEAD - 1>();
        __syncwarp();
        const uint32_t from = ring + slot * 2 * kSlot;
        if (++slot == AHEAD) slot = 0;
        uint32_t frag[2][4][4];
#pragma unroll
        for (int b = 0; b < 2; b++) {
          typename W::Stage st;
          W::read(st, from + b * W::kSlotBytes, lane);
          W::read_scale(st, from + 2 * W::kSlotBytes + b * W::kScaleBytes, lane);
          uint32_t s0 = 0, s1 = 0;
          if (W::kBlockScaled) {
            const float2 sc = W::block_scale(st);
            s0 = pack_bf16(sc.x, sc.x); s1 = pack_bf16(sc.y, sc.y);
          }
#pragma unroll
          for (int s = 0; s < 4; s++) {
            uint32_t* f = frag[b][s];
            W::fragment(f, st, s, lane4);
            if (W::kBlockScaled) {
              f[0] = mul_bf16x2(f[0], s0); f[2] = mul_bf16x2(f[2], s0);
              f[1] = mul_bf16x2(f[1], s1); f[3] = mul_bf16x2(f[3], s1);
            }
          }
        }
        __syncwarp();
        copy_next();
        barrier_wait(full + stage * 8, parity);
        wgmma_fence();
        const uint64_t d = descriptor(stages + stage * kStageBytes);
#pragma unroll
        for (int s = 0; s < 8; s++) Wgmma<NT>::run(acc, frag[s >> 2][s & 3], d + (uint64_t)((s * 2 * kTokens * 16) >> 4));
        wgmma_commit();
        if (threadIdx.x == 0) bring_next();
        // The other warpgroups look up their weights while this one waits.
        wgmma_wait<0>();
        if (lane == 0) barrier_arrive(empty + stage * 8);
        if (++stage == STAGES) { stage = 0; parity ^= 1; }
      }

      const bool whole = parted || len == k_units;
      const int tile = group * kTilesPerGroup + warp;
      if (whole) {
#pragma unroll
        for (int j = 0; j < NT; j++)
          if (tile < tiles) emit<W, EPI>(a, tile, j, lane, make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]), part);
      } else {
        float4* mine = a.partial + ((size_t)blockIdx.x * 2 + (u == begin ? 0 : 1)) * kItems + warp * NT * 32 + lane;
#pragma unroll
        for (int j = 0; j < NT; j++) __stcg(mine + j * 32, make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]));
        const unsigned first = split.owner(group * k_units), last = split.owner(group * k_units + k_units - 1);
        // A warp's tile is finished by the same warp of whichever block arrives last: no block-wide barrier.
        __threadfence();
        __syncwarp();
        unsigned before = 0;
        unsigned* counter = a.arrivals + group * kTilesPerGroup + warp;
        if (lane == 0) before = atomicAdd(counter, 1u);
        before = __shfl_sync(~0u, before, 0);
        if (before == last - first) {
          if (lane == 0) *counter = 0;
          __threadfence();
          // All column tiles of one block's part at once: enough loads in flight to hide their latency.
#pragma unroll
          for (int j = 0; j < NT; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
#pragma unroll 1
          for (unsigned c = first; c <= last; c++) {
            const int s = split.begin(c) >= (unsigned)(group * k_units) ? 0 : 1;
            const float4* part = a.partial + ((size_t)c * 2 + s) * kItems + warp * NT * 32 + lane;
#pragma unroll
            for (int j = 0; j < NT; j++) {
              const float4 v = __ldcg(part + j * 32);
              acc[j][0] += v.x; acc[j][1] += v.y; acc[j][2] += v.z; acc[j][3] += v.w;
            }
          }
          if (tile < tiles)
#pragma unroll
            for (int j = 0; j < NT; j++) emit<W, EPI>(a, tile, j, lane, make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]));
        }
      }
      u += len;
    }
  }
#else
  DEV static void run(const ProductArgs&, unsigned char*) { __trap(); }
#endif
};
