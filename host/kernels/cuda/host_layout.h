// What a host does at load time: quantise (for tests) and put weights into the kernels' order.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

static const float kNf4[16] = {-1.0f, -0.6961928009986877f, -0.5250730514526367f, -0.39491748809814453f, -0.28444138169288635f,
    -0.18477343022823334f, -0.09105003625154495f, 0.0f, 0.07958029955625534f, 0.16093020141124725f,
    0.24611230194568634f, 0.33791524171829224f, 0.44070982933044434f, 0.5626170039176941f, 0.7229568362236023f, 1.0f};

// bitsandbytes' order: codes[n][k/2], high nibble = even k. Kernel order: see weights.cuh, Nf4.
inline void repack_nf4(const uint8_t* codes, uint8_t* out, int n, int k) {
  const int k_blocks = k / 64;
  for (int tile = 0; tile < n / 16; tile++)
    for (int kb = 0; kb < k_blocks; kb++)
      for (int lane = 0; lane < 32; lane++)
        for (int word = 0; word < 4; word++) {
          const int row = tile * 16 + lane / 4 + 8 * (word & 1), first = kb * 64 + 32 * (word >> 1) + 8 * (lane & 3);
          memcpy(out + (((size_t)tile * k_blocks + kb) * 32 + lane) * 16 + word * 4, codes + ((size_t)row * k + first) / 2, 4);
        }
}
// Something of each 64-block, from [n][k/64] to kernel order: 16 per tile, of the rows 0, 8, 1, 9, ...
template <class From, class To, class Convert>
inline void repack_blocks(const From* from, To* out, int n, int k, Convert convert) {
  const int k_blocks = k / 64;
  for (int tile = 0; tile < n / 16; tile++)
    for (int kb = 0; kb < k_blocks; kb++)
      for (int r = 0; r < 16; r++)  // r = 2*g + (0: row g, 1: row g+8)
        out[((size_t)tile * k_blocks + kb) * 16 + r] = convert(from[(size_t)(tile * 16 + r / 2 + 8 * (r & 1)) * k_blocks + kb]);
}
// absmax[n][k/64] to fp16 in kernel order; multiplied by `factor` (a power of two that centres fp16's range).
template <class ToHalf>
inline void repack_absmax(const float* absmax, uint16_t* out, int n, int k, float factor, ToHalf half_bits) {
  repack_blocks(absmax, out, n, k, [&](float a) { return half_bits(a * factor); });
}
// w[n][k] int8 to kernel order: see weights.cuh, Int8.
inline void repack_int8(const int8_t* w, int8_t* out, int n, int k) {
  const int k_blocks = k / 64;
  for (int tile = 0; tile < n / 16; tile++)
    for (int kb = 0; kb < k_blocks; kb++)
      for (int half = 0; half < 2; half++)
        for (int lane = 0; lane < 32; lane++)
          for (int word = 0; word < 4; word++) {
            const int row = tile * 16 + lane / 4 + 8 * (word >> 1), first = kb * 64 + 32 * half + 8 * (lane & 3) + 4 * (word & 1);
            memcpy(out + (((size_t)tile * k_blocks + kb) * 64 + half * 32 + lane) * 16 + word * 4, w + (size_t)row * k + first, 4);
          }
}
// Row order for the fused silu(gate)*up product: 8 gate rows, their 8 up rows, the next 8 gate rows, ...
inline int silu_row(int n_ff, int stored) { return (stored & 8 ? n_ff : 0) + stored / 16 * 8 + stored % 8; }
// Where input k stands in the activations of wide products (the device's wide_k).
inline int wide_index(int k) { return (k & ~63) | (k & 32) | ((k & 4) << 2) | ((k & 2) << 2) | ((k >> 2) & 6) | (k & 1); }

// The tiles of one prefill launch: 128 new tokens each, those with the longest context first, so that what is handed out
// last is short. sequences[i] = {first row, start, count, unused}; a tile is {sequence, first of its new tokens}.
struct PrefillSequence { int first_row, start, count, unused; };
struct PrefillTile { int sequence, first; };
inline std::vector<PrefillTile> prefill_tiles(const std::vector<PrefillSequence>& sequences) {
  std::vector<PrefillTile> tiles;
  for (int i = 0; i < (int)sequences.size(); i++)
    for (int first = 0; first < sequences[i].count; first += 128) tiles.push_back({i, first});
  auto context = [&](const PrefillTile& t) { return sequences[t.sequence].start + std::min(t.first + 128, sequences[t.sequence].count); };
  std::stable_sort(tiles.begin(), tiles.end(), [&](const PrefillTile& a, const PrefillTile& b) { return context(a) > context(b); });
  return tiles;
}
