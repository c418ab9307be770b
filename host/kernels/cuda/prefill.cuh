// Prefill attention: what both of its kernels are given, and how the work is divided.
//
// Any number of sequences in one launch, each with `count` new tokens at positions start, start + 1, ... whose keys and
// values already stand in the paged cache, behind those of `start` earlier tokens (a cached prefix, or earlier chunks).
// A work item is 128 new tokens of one sequence and one query head. The host lists the tiles of 128 tokens, those with
// the longest context first (prefill_tiles in host_layout.h).
#pragma once
#include "common.cuh"

struct PrefillArgs {
  // Tensor maps of the caches (see PrefillWgmma), unused without wgmma.
  alignas(64) unsigned char k_map[128];
  alignas(64) unsigned char v_map[128];
  const bf16* q;             // [rows][heads][DIM], already rotated
  const bf16* k_cache;       // [block][kv head][16 tokens][DIM]
  const bf16* v_cache;
  bf16* out;                 // [rows][heads * DIM] row-major
  const int* tables;         // [sequence][table_stride] block ids
  const int4* sequences;     // {row of its first new token, start, count, unused}
  const int2* tiles;         // {sequence, first of the tile's new tokens}
  const float* query_scale;  // by position: a factor on its query (Qwen v1's logn), or null
  int heads, kv_heads, table_stride, tile_count;
  int first_group;           // where k_cache begins within the tensor maps, in groups of 8 tokens of one head
  float scale;               // log2(e) / sqrt(DIM)
};

struct PrefillItem {
  static constexpr int kRows = 128;
  int head, kv_head, row, rows, position, context;  // rows: how many of the 128 are there; context: tokens up to the last
  const int* table;

  DEV PrefillItem(const PrefillArgs& a, int item) {
    const int2 tile = a.tiles[item / a.heads];
    const int4 sequence = a.sequences[tile.x];
    head = item % a.heads;
    kv_head = head / (a.heads / a.kv_heads);
    row = sequence.x + tile.y;
    rows = min(kRows, sequence.z - tile.y);
    position = sequence.y + tile.y;
    context = position + rows;
    table = a.tables + (size_t)tile.x * a.table_stride;
  }
  // What a score of the given row is multiplied with before exp2. Rows that are not there get the last one's.
  DEV float factor(const PrefillArgs& a, int r) const {
    return a.query_scale ? a.scale * a.query_scale[position + min(r, rows - 1)] : a.scale;
  }
};

DEV float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Running softmax of two rows (g and g+8 of a fragment): the four lanes of a row share its maximum, each has a part of
// its sum.
struct Softmax {
  float max[2], sum[2], factor[2];

  DEV void start(const PrefillArgs& a, const PrefillItem& item, int r) {
#pragma unroll
    for (int i = 0; i < 2; i++) { max[i] = -INFINITY; sum[i] = 0.f; factor[i] = item.factor(a, r + 8 * i); }
  }
  // Scores (row g: columns 0, 1; row g+8: columns 2, 3 of each tile) become weights; `shrink` is for earlier sums.
  template <int TILES> DEV void update(float (&s)[TILES][4], float (&shrink)[2]) {
#pragma unroll
    for (int i = 0; i < 2; i++) {
      float m = max[i];
#pragma unroll
      for (int j = 0; j < TILES; j++) m = fmaxf(m, fmaxf(s[j][2 * i], s[j][2 * i + 1]));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
      m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
      // A row may have seen nothing but what it must not see: then its maximum is minus infinity, and weights are 0.
      const float base = m == -INFINITY ? 0.f : m * factor[i];
      shrink[i] = exp2_fast(max[i] * factor[i] - base);
      max[i] = m;
      float part = 0.f;
#pragma unroll
      for (int j = 0; j < TILES; j++)
#pragma unroll
        for (int k = 2 * i; k < 2 * i + 2; k++) { s[j][k] = exp2_fast(fmaf(s[j][k], factor[i], -base)); part += s[j][k]; }
      sum[i] = sum[i] * shrink[i] + part;
    }
  }
  DEV float inverse(int i) const {
    float s = sum[i];
    s += __shfl_xor_sync(~0u, s, 1);
    s += __shfl_xor_sync(~0u, s, 2);
    return 1.f / s;
  }
};

// Hides from row g what comes after it: `first` is the token of the lane's first column, `position` row g's.
template <int TILES> DEV void mask_causal(float (&s)[TILES][4], int first, int position) {
#pragma unroll
  for (int j = 0; j < TILES; j++)
#pragma unroll
    for (int k = 0; k < 4; k++)
      if (first + 8 * j + (k & 1) > position + 8 * (k >> 1)) s[j][k] = -INFINITY;
}
// Weights become the left side of the second product: its k step i is the tiles 2i and 2i+1.
template <int TILES> DEV void pack_weights(uint32_t (&p)[TILES / 2][4], const float (&s)[TILES][4]) {
#pragma unroll
  for (int i = 0; i < TILES / 2; i++) {
    p[i][0] = pack_bf16(s[2 * i][0], s[2 * i][1]); p[i][1] = pack_bf16(s[2 * i][2], s[2 * i][3]);
    p[i][2] = pack_bf16(s[2 * i + 1][0], s[2 * i + 1][1]); p[i][3] = pack_bf16(s[2 * i + 1][2], s[2 * i + 1][3]);
  }
}
template <int TILES> DEV void shrink_rows(float (&o)[TILES][4], const float (&shrink)[2]) {
#pragma unroll
  for (int j = 0; j < TILES; j++) { o[j][0] *= shrink[0]; o[j][1] *= shrink[0]; o[j][2] *= shrink[1]; o[j][3] *= shrink[1]; }
}
