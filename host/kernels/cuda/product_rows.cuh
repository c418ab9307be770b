// y = x * W^T for very few rows of x (M <= 8, or 16), where nothing but reading W matters.
//
// Weights become tensor-core fragments in registers and multiply all rows of x at once: rows of W are
// the 16 rows of mma.m16n8k16, rows of x its 8 columns. With M = 1 the other 7 columns compute the same
// numbers again, which costs nothing: a multiply-add for 8 weights per lane is one instruction, an
// eighth of what scalar code issues.
//
// Each block owns whole rows of W (a contiguous range of row tiles), its warps split k, and their sums
// meet in shared memory: no second pass over memory, no semaphores, and the result is deterministic.
// A step has 200 of these products and each takes 4 to 20 us, so fixed costs decide:
//  - a warp keeps the activations of its part of k in registers for all its row tiles;
//  - the copies of a warp run ahead across row tiles, so the stream never drains inside a kernel;
//  - the first weights are requested before the previous kernel has ended (see pdl_*).
#pragma once
#include "weights.cuh"

// kSilu: a row tile is 8 rows of gate and the 8 rows of up that belong to them; y = silu(gate) * up.
// Both lie in the same lane's accumulators.
enum Epilogue { kPlain = 0, kSilu = 1 };

// The lane's activations of one k block for one column tile of 8.
DEV void load_x(uint4 (&x)[2], const ProductArgs& a, int j, int kb, int lane) {
  const int m = min(j * 8 + (lane >> 2), a.m - 1);  // rows past the end repeat the last one and are not stored
  const bf16* p = a.x + (size_t)m * a.x_row + (size_t)(kb * 8 + (lane & 3)) * a.x_oct;
  x[0] = load_shared_data16(p);
  x[1] = load_shared_data16(p + 4 * a.x_oct);
}
DEV void store_pair(const ProductArgs& a, int row, int m, float v0, float v1, int split = 0) {
  if (a.y_wide) row = wide_k(row);
  if (a.splits > 1) {
    float* p = a.y_f32 + (size_t)split * a.split_stride + (size_t)(row >> 3) * a.y_oct + (row & 7);
    if (m < a.m) p[(size_t)m * a.y_row] = v0;
    if (m + 1 < a.m) p[(size_t)(m + 1) * a.y_row] = v1;
    return;
  }
  bf16* p = a.y + (size_t)(row >> 3) * a.y_oct + (row & 7);
  if (m < a.m) p[(size_t)m * a.y_row] = __float2bfloat16(v0);
  if (m + 1 < a.m) p[(size_t)(m + 1) * a.y_row] = __float2bfloat16(v1);
}
// v: the sums of accumulator fragment (tile, column tile j, lane).
template <class W, int EPI>
DEV void emit(const ProductArgs& a, int tile, int j, int lane, float4 v, int split = 0) {
  const int g = lane >> 2, m = j * 8 + 2 * (lane & 3), row = tile * 16 + g;
  const float s0 = a.alpha * W::row_scale(a, row), s1 = a.alpha * W::row_scale(a, row + 8);
  v.x *= s0; v.y *= s0; v.z *= s1; v.w *= s1;
  if (EPI == kSilu) store_pair(a, tile * 8 + g, m, silu(v.x) * v.z, silu(v.y) * v.w);
  else {
    store_pair(a, row, m, v.x, v.y, split);
    store_pair(a, row + 8, m, v.z, v.w, split);
  }
}

template <class W, int NT, int KPW, int WARPS, int AHEAD, int EPI>
struct RowProduct {
  static constexpr int kThreads = 32 * WARPS;
  static constexpr int kRing = KPW * AHEAD;  // slots per warp: its blocks of the next AHEAD row tiles
  static constexpr int kItems = NT * 32;  // float4 of one tile's sums
  static constexpr int kCarry = 16;       // tiles per block that can carry sums from pass to pass
  static constexpr int kBuffers = 2;
  static constexpr int kSumBytes = (kBuffers * WARPS + kCarry) * kItems * 16;
  static constexpr int kScaleSlot = (KPW * W::kScaleBytes + 127) / 128 * 128;       // the scales of one row tile, AHEAD + 1 of them
  static constexpr int kWarpBytes = kRing * W::kSlotBytes + (AHEAD + 1) * kScaleSlot + 128;  // and AHEAD barriers
#if defined(HAS_BULK_COPY) && !defined(NO_BULK_ROWS)  // NO_BULK_ROWS: to test the path of older cards on Hopper
  static constexpr bool kBulk = W::kUseBulk;
#else
  static constexpr bool kBulk = false;
#endif
  static constexpr int kSharedBytes = (W::kTableBytes ? 1024 : 0) + W::kTableBytes + kSumBytes + WARPS * kWarpBytes;

  DEV static void multiply(float (&acc)[NT][4], const typename W::Stage& st, const uint4 (&x)[NT][2], uint32_t lane4) {
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
        const uint4 h = x[j][s >> 1];
        mma_bf16(W::kBlockScaled ? block[j] : acc[j], frag, (s & 1) ? h.z : h.x, (s & 1) ? h.w : h.y);
      }
    }
    if (W::kBlockScaled) {  // the scale of a block multiplies its sum, not its 64 weights
      const float2 f = W::block_scale(st);
#pragma unroll
      for (int j = 0; j < NT; j++) {
        acc[j][0] += f.x * block[j][0]; acc[j][1] += f.x * block[j][1];
        acc[j][2] += f.y * block[j][2]; acc[j][3] += f.y * block[j][3];
      }
    }
  }

  DEV static void run(const ProductArgs& a, unsigned char* smem) {
    pdl_launch_next();
    // When every warp has exactly KPW blocks in every pass, its inner code is one straight line.
    if ((a.k / 64) % (WARPS * KPW * a.splits) == 0) run_as<true>(a, smem); else run_as<false>(a, smem);
  }

  template <bool EXACT> DEV static void run_as(const ProductArgs& a, unsigned char* smem) {
    if (W::kTableBytes) smem += W::kTableAddress - (uint32_t)__cvta_generic_to_shared(smem);
    float4* sums = reinterpret_cast<float4*>(smem + W::kTableBytes);
    float4* carry = sums + kBuffers * WARPS * kItems;
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31;  // shfl: provably uniform
    const uint32_t lane4 = lane * 4;
    const uint32_t ring = (uint32_t)__cvta_generic_to_shared(smem) + W::kTableBytes + kSumBytes + warp * kWarpBytes;
    const uint32_t scale_ring = ring + kRing * W::kSlotBytes, barriers = scale_ring + (AHEAD + 1) * kScaleSlot;

    // Blocks of one split share out the rows; its k range is [split_k0, split_k0 + split_blocks).
    const int k_blocks = a.k / 64, tiles = a.n / 16;
    const int split = blockIdx.x % a.splits, member = blockIdx.x / a.splits, members = gridDim.x / a.splits;
    const int split_k0 = k_blocks * split / a.splits, split_blocks = k_blocks * (split + 1) / a.splits - split_k0;
    const int begin = member < members ? (int)((long long)tiles * member / members) : 0;
    const int end = member < members ? (int)((long long)tiles * (member + 1) / members) : 0;
    // k is walked in as many passes as the registers for x need; in each, a warp has at most KPW blocks.
    const int passes = (split_blocks + WARPS * KPW - 1) / (WARPS * KPW), parts = passes * WARPS;
    auto part = [&](int pass, int edge) { return split_k0 + split_blocks * (pass * WARPS + warp + edge) / parts; };

    // The stream of (pass, row tile) pairs. `ahead` runs AHEAD pairs before the one being computed and
    // refills the slots as they are read, so a slot's address and its block's offset are constants.
    struct Cursor { int pass, tile, blocks; const char *src, *scales; } ahead = {};
    auto enter = [&](Cursor& c) {
      c.blocks = c.pass < passes && begin < end ? part(c.pass, 1) - part(c.pass, 0) : 0;
      c.src = W::source(a, c.tile, part(c.pass, 0), k_blocks, lane);
      c.scales = W::scale_source(a, c.tile, part(c.pass, 0), k_blocks, lane);
    };
    auto advance = [&](Cursor& c) {
      if (++c.tile < end) {
        c.src += (size_t)k_blocks * W::tile_step();
        c.scales += k_blocks * W::kScaleBytes;
        return;
      }
      c.tile = begin; c.pass++; enter(c);
    };
    auto copy_scales = [&](int slot) {  // one instruction for all blocks of a row tile
      if (W::kScaleBytes && lane * 16 < ahead.blocks * W::kScaleBytes) copy_async<16>(scale_ring + slot * kScaleSlot + lane * 16, ahead.scales);
    };
    // On Hopper one lane asks for a whole row tile's part by a bulk copy: that keeps the load/store units,
    // busy with table look-ups, out of it. A slot is then refilled when its row tile is done.
    auto bulk_fill = [&](int d) {
#ifdef HAS_BULK_COPY
      if (lane == 0 && ahead.blocks > 0) {
        const uint32_t bar = barriers + d * 8;
        barrier_expect(bar, ahead.blocks * (W::kSlotBytes + W::kScaleBytes));
        bulk_copy(ring + d * KPW * W::kSlotBytes, ahead.src, ahead.blocks * W::kSlotBytes, bar);
        if (W::kScaleBytes) bulk_copy(scale_ring + d * kScaleSlot, ahead.scales, ahead.blocks * W::kScaleBytes, bar);
      }
#endif
    };
    ahead.pass = 0; ahead.tile = begin; enter(ahead);
#ifdef HAS_BULK_COPY
    if (kBulk) {
      if (lane == 0) {
        for (int d = 0; d < AHEAD; d++) barrier_init(barriers + d * 8, 1);
        barrier_publish();
      }
      __syncwarp();
    }
#endif
#pragma unroll 1
    for (int d = 0; d < AHEAD; d++) {
      if (kBulk) bulk_fill(d); else copy_scales(d);
#pragma unroll
      for (int i = 0; i < KPW && !kBulk; i++) {
        if (EXACT || i < ahead.blocks) W::copy(ring + (d * KPW + i) * W::kSlotBytes, ahead.src + i * W::kBlockStep, a.k, lane, ahead.blocks > 0);
        copy_commit();
      }
      advance(ahead);
    }
    W::fill_table(smem);
    pdl_wait_previous();  // from here on the activations are there
    __syncthreads();      // and the table

    int depth = 0, phase = 0, scale_slot = 0, fill_parity = 0;
#pragma unroll 1
    for (int pass = 0; pass < passes; pass++) {
      const int k0 = part(pass, 0), blocks = part(pass, 1) - k0;
      uint4 x[KPW][NT][2];
#pragma unroll
      for (int i = 0; i < KPW; i++)
#pragma unroll
        for (int j = 0; j < NT; j++) load_x(x[i][j], a, j, min(k0 + i, k_blocks - 1), lane);
#pragma unroll 1
      for (int tile = begin; tile < end; tile++) {
        float acc[NT][4] = {};
        const uint32_t slots = ring + depth * KPW * W::kSlotBytes, scales = scale_ring + (kBulk ? depth : scale_slot) * kScaleSlot;
        if (!kBulk) copy_scales(scale_slot == 0 ? AHEAD : scale_slot - 1);  // slot of the tile AHEAD further
#ifdef HAS_BULK_COPY
        if (kBulk && (EXACT || blocks > 0)) barrier_wait(barriers + depth * 8, fill_parity);
#endif
#pragma unroll
        for (int i = 0; i < KPW; i++) {
          if (!kBulk) copy_wait<kBulk ? 0 : kRing - 1>();
          if (!kBulk && !W::kLanePrivate) __syncwarp();
          if (EXACT || i < blocks) {
            typename W::Stage st;
            W::read(st, slots + i * W::kSlotBytes, lane);
            W::read_scale(st, scales + i * W::kScaleBytes, lane);
            multiply(acc, st, x[i], lane4);
          }
          if (kBulk) continue;
          if (!W::kLanePrivate) __syncwarp();
          if (EXACT || i < ahead.blocks) W::copy(slots + i * W::kSlotBytes, ahead.src + i * W::kBlockStep, a.k, lane, ahead.blocks > 0);
          copy_commit();
        }
        if (kBulk) { __syncwarp(); bulk_fill(depth); }
        if (++depth == AHEAD) { depth = 0; fill_parity ^= 1; }
        if (++scale_slot == AHEAD + 1) scale_slot = 0;
        advance(ahead);
        // Sum over the warps. The other buffer is safe to write until everybody has passed the next barrier.
        // (Named barriers, on which only the adding warp waits, were slower: the warps drift apart.)
        float4* buffer = sums + phase * WARPS * kItems;
#pragma unroll
        for (int j = 0; j < NT; j++) buffer[warp * kItems + j * 32 + lane] = make_float4(acc[j][0], acc[j][1], acc[j][2], acc[j][3]);
        const int t = tile - begin, adder = t % WARPS;  // the same in every pass
        phase ^= 1;
        __syncthreads();
        if (warp == adder) {
#pragma unroll
          for (int j = 0; j < NT; j++) {
            float4 v = sum(buffer, j * 32 + lane);
            float4* mine = carry + (t % kCarry) * kItems + j * 32 + lane;
            if (pass > 0) { const float4 o = *mine; v.x += o.x; v.y += o.y; v.z += o.z; v.w += o.w; }
            if (pass + 1 < passes) *mine = v;
            else if (j * 8 + 2 * (lane & 3) < a.m) emit<W, EPI>(a, tile, j, lane, v, split);
          }
        }
      }
    }
  }

  DEV static float4 sum(const float4* buffer, int item) {
    float4 s = buffer[item];
#pragma unroll
    for (int w = 1; w < WARPS; w++) {
      const float4 v = buffer[w * kItems + item];
      s.x += v.x; s.y += v.y; s.z += v.z; s.w += v.w;
    }
    return s;
  }
};
