// Rows moved as they are: tokens' embeddings, chosen rows, and rows into the layout of wide products.
//
// Launch: grid rows, 128 threads. width % 8 == 0 (widen: % 64), so that every row begins at a multiple of 16 bytes.
#pragma once
#include "common.cuh"

// Calls store(oct, numbers) for each 8 numbers of a row. All that a thread asks for is under way before it waits for any.
template <class Store> DEV void each_oct(const bf16* from, int width, Store store) {
  constexpr int kThreads = 128, kAhead = 8;
  const int octs = width / 8;
  for (int first = threadIdx.x; first < octs; first += kThreads * kAhead) {
    uint4 v[kAhead];
#pragma unroll
    for (int j = 0; j < kAhead; j++)
      if (first + j * kThreads < octs) v[j] = load_shared_data16(from + (size_t)(first + j * kThreads) * 8);
#pragma unroll
    for (int j = 0; j < kAhead; j++)
      if (first + j * kThreads < octs) store(first + j * kThreads, v[j]);
  }
}
DEV void copy_row(bf16* to, const bf16* from, int width) {
  each_oct(from, width, [&](int oct, uint4 v) { store_oct(to, oct, 8, 0, v); });
}

struct EmbedArgs {
  const int* tokens;   // [rows]; -1 - i stands for drawn[i]
  const int* drawn;
  const bf16* table;   // [vocabulary][width]
  bf16* hidden;        // [rows][width]
  int rows, width;
};
extern "C" __global__ void __launch_bounds__(128) embed(const __grid_constant__ EmbedArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int row = blockIdx.x, told = a.tokens[row], token = told >= 0 ? told : a.drawn[-1 - told];
  copy_row(a.hidden + (size_t)row * a.width, a.table + (size_t)token * a.width, a.width);
}

struct GatherArgs {
  const bf16* from;
  const int* indices;  // [rows] of `from`
  bf16* out;           // [rows][width]
  int rows, width;
};
extern "C" __global__ void __launch_bounds__(128) gather_rows(const __grid_constant__ GatherArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int row = blockIdx.x;
  copy_row(a.out + (size_t)row * a.width, a.from + (size_t)a.indices[row] * a.width, a.width);
}

struct WidenArgs {
  const bf16* from;    // [rows][width]
  bf16* out;           // in the wide layout of `rows` rows
  int rows, width;
};
extern "C" __global__ void __launch_bounds__(128) widen(const __grid_constant__ WidenArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int row = blockIdx.x;
  bf16* out = a.out + (size_t)row * 8;
  each_oct(a.from + (size_t)row * a.width, a.width, [&](int oct, uint4 v) { store_oct(out, oct, 8 * a.rows, 1, v); });
}
