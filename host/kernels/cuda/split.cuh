// How the work of one product is divided over a persistent grid ("stream-K"), and how the pieces of
// one row group come together again. Used by both families of products.
//
// The units are (row group, k block of 64), numbered k fastest. Block c of G does the units
// [U*c/G, U*(c+1)/G): every block gets the same number of bytes, whatever the shape. A row group that
// is cut between blocks is finished by the block that arrives last: each writes its partial sums to
// its own slot, and the last one adds the slots in block order (so the result does not depend on
// timing) and applies the epilogue.
#pragma once
#include "common.cuh"

struct Split {
  unsigned units, blocks, k_blocks;
  DEV unsigned begin(unsigned c) const { return (unsigned)(((unsigned long long)units * c) / blocks); }
  // The block whose range holds unit u.
  DEV unsigned owner(unsigned u) const { return (unsigned)((((unsigned long long)u + 1) * blocks - 1) / units); }
};

// Publishes this block's partial sums and says whether it is the last of `contributors`.
// Called by all threads after their partial sums are stored.
DEV bool arrive_last(unsigned* counter, unsigned contributors) {
  __shared__ unsigned is_last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    unsigned before = atomicAdd(counter, 1u);
    is_last = before + 1 == contributors;
    if (is_last) *counter = 0;  // ready for the next launch
  }
  __syncthreads();
  if (is_last) __threadfence();
  return is_last;
}
