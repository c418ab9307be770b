// y = x * W^T for 128 or 256 rows of x on Hopper: as WideProduct computes it, and faster where matrices are not large.
//
// There, what does not grow with the matrix decided: sums of 128 rows of W take 64 or 128 KB, and each block left those of
// up to two row groups to others. So
//  - a row group that is cut between blocks is finished by the block that has its first inputs, which keeps its own sums in
//    registers and adds the others' in the order of their inputs. All others leave one group's sums each;
//  - sums become outputs through shared memory, 16 bytes at a time instead of 2;
//  - a warpgroup of its own feeds the others: it brings activations by bulk copies, a k block at a time, and is the only one
//    that waits for their places. It gives its registers to those that multiply.
// Blocks take the units of split.cuh from behind: who finishes a group waits for blocks of lower numbers, which have begun
// before it did, so that all of a launch need not be on the card at once. Needs M == 8*NT: the caller pads.
#pragma once
#include "product_rows.cuh"
#include "split.cuh"
#include "wgmma.cuh"

template <class W, int NT, int WGS, int AHEAD, int STAGES, int EPI>
struct FedProduct {
  static constexpr int kTokens = NT * 8, kThreads = 128 * WGS + 128, kTilesPerGroup = 4 * WGS;
  static constexpr int kStageBytes = kTokens * 128;      // activations of a k block
  static constexpr int kItems = kTilesPerGroup * NT * 32;  // float4 of a row group's sums
  static constexpr int kUnitBytes = 2 * (W::kSlotBytes + W::kScaleBytes), kWarpBytes = AHEAD * kUnitBytes;  // AHEAD units of weights
  static constexpr int kChunk = 4, kStoreBytes = kChunk * 8 * 128;  // 32 tokens of a warpgroup's 64 outputs
  static constexpr int kSharedBytes = 1024 + W::kTableBytes + STAGES * kStageBytes + WGS * kStoreBytes + 4 * WGS * kWarpBytes + 2 * STAGES * 8;
  // Of a thread: as it begins, and of those that feed and multiply from then on.
  static constexpr int kRegisters = 512 / (WGS + 1) / 8 * 8, kFeeding = 24, kMultiplying = (kRegisters * (WGS + 1) - kFeeding) / WGS / 8 * 8;

#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  DEV static uint64_t descriptor(uint32_t smem) {
    return (uint64_t)((smem & 0x3ffff) >> 4) | ((uint64_t)((kTokens * 16) >> 4) << 16) | ((uint64_t)(128 >> 4) << 32);
  }

  // A warpgroup's sums become outputs, kChunk column tiles at a time. In `store` the 8 outputs of an octet stand together,
  // for one token after the other; which octet it is flips bits of a token's place, so that few lanes meet in a bank.
  DEV static void finish(const ProductArgs& a, int group, int warp, int lane, const float (&acc)[NT][4], uint32_t store) {
    constexpr int kOutputs = EPI == kSilu ? 8 : 16, kOctets = kOutputs / 2;  // of a tile, of a warpgroup
    const int tiles = a.n / 16, row = min(group * kTilesPerGroup + warp, tiles - 1) * 16 + (lane >> 2);
    const int warpgroup = warp >> 2, in = warp & 3, thread = in * 32 + lane, t = lane & 3;
    const float s0 = a.alpha * W::row_scale(a, row), s1 = a.alpha * W::row_scale(a, row + 8);
    const int first_octet = (group * WGS + warpgroup) * kOctets, octets = tiles * kOutputs / 8;
    int p0 = in * kOutputs + (lane >> 2), p1 = p0 + 8;
    if (a.y_wide) { p0 = wide_k(p0); p1 = wide_k(p1); }
    auto put = [&](int p, int token, float v) {
      const int at = ((p >> 3) * (kChunk * 8) + (token ^ ((p >> 3) & 7))) * 16 + (p & 7) * 2;
      write_shared2(store + at, __float2bfloat16(v));
    };
#pragma unroll
    for (int c = 0; c < NT; c += kChunk) {
      warpgroup_meet(1 + warpgroup);
#pragma unroll
      for (int i = 0; i < kChunk; i++) {
        const float* v = acc[c + i];
        const int token = i * 8 + 2 * t;
        if (EPI == kSilu) {
          put(p0, token, silu(v[0] * s0) * (v[2] * s1));
          put(p0, token + 1, silu(v[1] * s0) * (v[3] * s1));
        } else {
          put(p0, token, v[0] * s0); put(p0, token + 1, v[1] * s0);
          put(p1, token, v[2] * s1); put(p1, token + 1, v[3] * s1);
        }
      }
      warpgroup_meet(1 + warpgroup);
#pragma unroll
      for (int i = 0; i < kOctets * kChunk * 8; i += 128) {
        const int e = i + thread, octet = a.y_row == 8 ? e / (kChunk * 8) : e % kOctets, token = a.y_row == 8 ? e % (kChunk * 8) : e / kOctets;
        const int m = c * 8 + token;
        if (first_octet + octet < octets && m < a.m) {
          const uint4 v = read_shared16(store + (octet * (kChunk * 8) + (token ^ (octet & 7))) * 16);
          *reinterpret_cast<uint4*>(a.y + (size_t)m * a.y_row + (size_t)(first_octet + octet) * a.y_oct) = v;
        }
      }
    }
  }

  DEV static void run(const ProductArgs& a, unsigned char* smem) {
    pdl_launch_next();
    smem += 2048 - (uint32_t)__cvta_generic_to_shared(smem);
    const uint32_t base = 2048, stages = base + W::kTableBytes, stores = stages + STAGES * kStageBytes, rings = stores + WGS * kStoreBytes;
    const uint32_t full = rings + 4 * WGS * kWarpBytes, empty = full + STAGES * 8;
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;
    const int k_blocks = a.k / 64, k_units = k_blocks / 2, tiles = a.n / 16;
    const unsigned units = (tiles + kTilesPerGroup - 1) / kTilesPerGroup * k_units;
    const Split split{units, min(gridDim.x, units), (unsigned)k_units};
    const unsigned place = gridDim.x - 1 - blockIdx.x;
    const unsigned begin = min(split.begin(place), units), end = min(split.begin(place + 1), units);
    const bool multiplies = warp < 4 * WGS;

    // Weights: as in WideProduct.
    const uint32_t ring = rings + warp * kWarpBytes, lane4 = lane * 4;
    int copy_group = begin / k_units, copy_k = begin - copy_group * k_units, copy_slot = 0;
    unsigned copy_left = multiplies ? end - begin : 0;
    const char *source, *scales;
    auto enter = [&] {
      const int tile = min(copy_group * kTilesPerGroup + warp, tiles - 1);
      source = W::source(a, tile, 2 * copy_k, k_blocks, lane);
      scales = W::scale_source(a, tile, 2 * copy_k, k_blocks, 0) + (lane & 15) * 4;
    };
    enter();
    auto copy_next = [&] {
      if (copy_left > 0) {
        const uint32_t slot = ring + copy_slot * kUnitBytes;
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

    if (!multiplies) {
      leave_registers<kFeeding>();
      if (warp == 4 * WGS && lane == 0) {
        int stage = 0, parity = 1, k = begin % k_units * 2;
        for (unsigned i = (end - begin) * 2; i > 0; i--) {
          barrier_wait(empty + stage * 8, parity);  // parity 1 of a fresh barrier: free at once
          barrier_expect(full + stage * 8, kStageBytes);
          bulk_copy(stages + stage * kStageBytes, reinterpret_cast<const char*>(a.x) + (size_t)k * kStageBytes, kStageBytes, full + stage * 8);
          if (++k == k_blocks) k = 0;
          if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
      }
      return;
    }
    take_registers<kMultiplying>();
    const uint32_t store = stores + (warp >> 2) * kStoreBytes;
    int slot = 0, stage = 0, parity = 0;
    float acc[NT][4];
    for (unsigned u = begin; u < end;) {
      const int group = u / k_units, k0 = u - group * k_units, k1 = min(k_units, (int)(k0 + end - u)), len = k1 - k0;
#pragma unroll
      for (int j = 0; j < NT; j++) acc[j][0] = acc[j][1] = acc[j][2] = acc[j][3] = 0.f;
#pragma unroll 1
      for (int i = 0; i < len; i++) {
        copy_wait<AHEAD - 1>();
        __syncwarp();
        const uint32_t from = ring + slot * kUnitBytes;
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
        const int first = stage;
#pragma unroll
        for (int b = 0; b < 2; b++) {
          barrier_wait(full + stage * 8, parity);
          wgmma_fence();
          const uint64_t d = descriptor(stages + stage * kStageBytes);
#pragma unroll
          for (int s = 0; s < 4; s++) Wgmma<NT>::run(acc, frag[b][s], d + (uint64_t)((s * 2 * kTokens * 16) >> 4));
          wgmma_commit();
          if (++stage == STAGES) { stage = 0; parity ^= 1; }
        }
        wgmma_wait<1>();
        if (lane == 0) barrier_arrive(empty + first * 8);
        wgmma_wait<0>();
        if (lane == 0) barrier_arrive(empty + (first + 1 == STAGES ? 0 : first + 1) * 8);
      }
      u += len;
      if (k0 > 0) {  // who has the first inputs adds this
        float4* mine = a.partial + (size_t)blockIdx.x * kItems + warp * NT * 32 + lane;
#pragma unroll
        for (int j = 0; j < NT; j++) __stcg(mine + j * 32, make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]));
        __syncwarp();
        if (lane == 0) { __threadfence(); write_flag(a.arrivals + blockIdx.x * kTilesPerGroup + warp, 1); }
        continue;
      }
      if (len < k_units) {
        const unsigned last = split.owner(group * k_units + k_units - 1);
#pragma unroll 1
        for (unsigned c = place + 1; c <= last; c++) {
          const unsigned block = gridDim.x - 1 - c;
          unsigned* flag = a.arrivals + block * kTilesPerGroup + warp;
          if (lane == 0) { while (!read_flag(flag)) {} *flag = 0; }  // ready for the next launch
          __syncwarp();
          const float4* theirs = a.partial + (size_t)block * kItems + warp * NT * 32 + lane;
#pragma unroll
          for (int j = 0; j < NT; j++) {
            const float4 v = __ldcg(theirs + j * 32);
            acc[j][0] += v.x; acc[j][1] += v.y; acc[j][2] += v.z; acc[j][3] += v.w;
          }
        }
      }
      finish(a, group, warp, lane, acc, store);
    }
  }
#else
  DEV static void run(const ProductArgs&, unsigned char*) { __trap(); }
#endif
};
