// Philox 4x32-10, counter-based: the draws of host/core/src/philox.rs.
#pragma once
#include "common.cuh"

// The first two words of the block at `counter` (its upper 64 bits are 0).
DEV uint2 philox(unsigned long long key, unsigned long long counter) {
  uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
  uint32_t x0 = (uint32_t)counter, x1 = (uint32_t)(counter >> 32), x2 = 0, x3 = 0;
  for (int round = 0; round < 10; round++) {
    const uint32_t low0 = 0xD2511F53u * x0, high0 = __umulhi(0xD2511F53u, x0);
    const uint32_t low1 = 0xCD9E8D57u * x2, high1 = __umulhi(0xCD9E8D57u, x2);
    x0 = high1 ^ x1 ^ k0; x1 = low1; x2 = high0 ^ x3 ^ k1; x3 = low0;
    k0 += 0x9E3779B9u; k1 += 0xBB67AE85u;
  }
  return make_uint2(x0, x1);
}
// In [0, 1), with 53 bits.
DEV double uniform(unsigned long long key, unsigned long long counter) {
  const uint2 w = philox(key, counter);
  return (double)(((unsigned long long)w.x << 32 | w.y) >> 11) * 0x1p-53;
}
