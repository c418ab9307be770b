// PRODUCT(name, format, column tiles of 8, k blocks per warp and pass, warps, row tiles ahead, epilogue, blocks per SM)
// For Hopper. Launch 1 block per SM, except k5w8a1: 2.
PRODUCT(nf4_m8_k5w16a2, Nf4, 1, 5, 16, 2, kPlain, 1)
PRODUCT(nf4_m8_k5w8a1, Nf4, 1, 5, 8, 1, kPlain, 2)
PRODUCT(nf4_m8_k9w12a2, Nf4, 1, 9, 12, 2, kPlain, 1)
PRODUCT(nf4_m8_silu_k5w8a1, Nf4, 1, 5, 8, 1, kSilu, 2)
PRODUCT(int8_m8_k5w16a1, Int8, 1, 5, 16, 1, kPlain, 1)
PRODUCT(int8_m8_k5w8a1, Int8, 1, 5, 8, 1, kPlain, 2)
PRODUCT(int8_m8_k9w12a1, Int8, 1, 9, 12, 1, kPlain, 1)
PRODUCT(int8_m8_silu, Int8, 1, 5, 16, 1, kSilu, 1)
PRODUCT(bf16_m8_k5w16a1, Bf16, 1, 5, 16, 1, kPlain, 1)
PRODUCT(bf16_m8_silu, Bf16, 1, 5, 16, 1, kSilu, 1)
// For cards with 99 KB of shared memory per block (sm_86, sm_89). Not timed on one.
PRODUCT(nf4_m8_small, Nf4, 1, 3, 8, 1, kPlain, 1)
PRODUCT(nf4_m8_small_silu, Nf4, 1, 3, 8, 1, kSilu, 1)
PRODUCT(int8_m8_small, Int8, 1, 3, 16, 1, kPlain, 1)
PRODUCT(int8_m8_small_silu, Int8, 1, 3, 16, 1, kSilu, 1)
PRODUCT(bf16_m8_small, Bf16, 1, 2, 16, 1, kPlain, 1)
PRODUCT(bf16_m8_small_silu, Bf16, 1, 2, 16, 1, kSilu, 1)
#ifndef PROGRAM  // Only the benches launch it.
PRODUCT(nf4_m8_silu, Nf4, 1, 5, 16, 2, kSilu, 1)
#endif
