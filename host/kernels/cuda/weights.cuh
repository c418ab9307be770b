// How each weight format is stored and turned into tensor-core fragments.
//
// A *tile* is 16 output rows x 64 inputs, the part of the weights that one warp handles at once.
// Lane 4*g+t of the warp owns, for rows g and g+8, the inputs 8t..8t+7 (half 0) and 32+8t..32+8t+7
// (half 1). The order of inputs inside a product does not matter as long as weights and activations
// agree, so we choose the one in which a lane's activations are two 16-byte loads.
// The 64 inputs are four k16 steps: step s uses half s/2, inputs 4*(s%2)..4*(s%2)+3 of that half.
#pragma once
#include "common.cuh"

struct ProductArgs {
  const void* weights;
  const void* scales;      // nf4: see Nf4; int8: float per row; bf16: unused
  const bf16* x;           // element (m, k) at m*x_row + (k/8)*x_oct + k%8
  bf16* y;                 // element (m, n) at m*y_row + (n/8)*y_oct + n%8
  float4* partial;         // split-K scratch, private to each block
  unsigned* arrivals;      // one counter per row group, zero between launches
  int m, n, k;
  int x_row, x_oct, y_row, y_oct;
  float alpha;             // factor on every output
  // Row and wide products. With splits > 1, split s computes a part of k for all rows and writes it as f32 to
  // y_f32 + s*split_stride, same element order as y; the kernel that consumes y adds the parts.
  float* y_f32;
  int splits, split_stride;
  int y_wide;              // 1: columns of y go to wide_k(n), as a wide product wants its x
};

// ---- nf4 --------------------------------------------------------------------------------------
// The 16 values of bitsandbytes' nf4 times 1.4367: the factor for which rounding them to bf16 loses
// least (rms 0.08 % of a typical weight instead of 0.14 %). The caller divides alpha by it.
#define NF4_TABLE_FACTOR 1.4367f
// In bf16: bfb8 bf80 bf41 bf11 bed1 be88 be06 0000 3dea 3e6d 3eb5 3ef9 3f22 3f4f 3f85 3fb8 (see Nf4::value).

// weights: per tile (row tile major, then k block) 512 bytes: lane's uint4 =
//   { row g half 0, row g+8 half 0, row g half 1, row g+8 half 1 }, each the 4 bytes of bitsandbytes'
//   packing (high nibble = even input) for those 8 inputs.
// scales: per tile 8 x { fp16 absmax of row g, fp16 absmax of row g+8 }, one block of 64 = one tile row.
struct Nf4 {
  static constexpr bool kBlockScaled = true;
  // Pair table: 256 rows of 256 bytes; the first 128 bytes hold the row's bf16 pair once per bank, so
  // that 32 lanes looking up 32 different bytes never conflict. The stride of 256 makes the address
  // one byte permute: byte 1 of the offset is the code byte, byte 0 is 4*lane.
  // The table lies at a fixed shared address, so that the look-up is "permute, load [offset + constant]".
  static constexpr uint32_t kTableAddress = 2048;
  static constexpr int kTableBytes = 65536;
  struct Stage { uint4 code; uint32_t scale; };

  // bf16 bits of code c, from immediates: divergent constant memory took 1 to 2 us here.
  DEV static uint32_t value(uint32_t c) {
    const uint32_t low = c & 8 ? __byte_perm(0xf9b56deau, 0xb8854f22u, c & 7) : __byte_perm(0x114180b8u, 0x000688d1u, c & 7);
    const uint32_t high = c & 8 ? __byte_perm(0x3e3e3e3du, 0x3f3f3f3fu, c & 7) : __byte_perm(0xbfbfbfbfu, 0x00bebebeu, c & 7);
    return (low & 0xff) | ((high & 0xff) << 8);
  }
  DEV static void fill_table(unsigned char* table) {
    if ((uint32_t)__cvta_generic_to_shared(table) != kTableAddress) __trap();
    const int lane = threadIdx.x & 31;
    for (int first = threadIdx.x & ~31; first < 256; first += blockDim.x) {  // 32 rows per warp and turn
      const int e = first + lane;
      const uint32_t mine = value(e >> 4) | (value(e & 15) << 16);
#pragma unroll
      for (int j = 0; j < 32; j += 4) {
        const uint32_t v = __shfl_sync(~0u, mine, j + (lane >> 3));
        *reinterpret_cast<uint4*>(table + (first + j + (lane >> 3)) * 256 + (lane & 7) * 16) = make_uint4(v, v, v, v);
      }
    }
  }
  DEV static void load(Stage& st, const ProductArgs& a, int tile, int kb, int k_blocks, int lane) {
    const size_t i = (size_t)tile * k_blocks + kb;
    st.code = load_stream16(reinterpret_cast<const uint4*>(a.weights) + i * 32 + lane);
    st.scale = load_stream4(reinterpret_cast<const uint32_t*>(a.scales) + i * 8 + (lane >> 2));
  }
  // Through shared memory: codes a lane copies and reads back itself, scales by the row tile.
  static constexpr bool kUseBulk = true;  // on Hopper: the k blocks of a row tile follow each other
  static constexpr int kSlotBytes = 512;
  static constexpr int kScaleBytes = 32;  // per k block
  static constexpr bool kLanePrivate = false;
  static constexpr int kBlockStep = 512;  // from one k block to the next
  static constexpr __device__ int tile_step() { return 512; }  // from one row tile to the next, per k block
  DEV static void read_scale(Stage& st, uint32_t at, int lane) { st.scale = read_shared4(at + (lane >> 2) * 4); }
  DEV static const char* source(const ProductArgs& a, int tile, int kb, int k_blocks, int lane) {
    return reinterpret_cast<const char*>(a.weights) + ((size_t)tile * k_blocks + kb) * 512 + lane * 16;
  }
  DEV static const char* scale_source(const ProductArgs& a, int tile, int kb, int k_blocks, int lane) {
    return reinterpret_cast<const char*>(a.scales) + ((size_t)tile * k_blocks + kb) * 32 + lane * 16;
  }
  DEV static void copy(uint32_t slot, const char* src, int, int lane, bool live) { copy_async16_if(slot + lane * 16, src, live); }
  DEV static void read(Stage& st, uint32_t slot, int lane) { st.code = read_shared16(slot + lane * 16); }
  DEV static uint32_t look_up(uint32_t word, int byte, uint32_t lane4) {
    return look_up_shared<kTableAddress>(__byte_perm(word, lane4, 0x5504 | (byte << 4)));
  }
  DEV static void fragment(uint32_t* frag, const Stage& st, int step, uint32_t lane4) {
    const uint32_t w0 = step < 2 ? st.code.x : st.code.z, w1 = step < 2 ? st.code.y : st.code.w;
    const int b = 2 * (step & 1);
    frag[0] = look_up(w0, b, lane4);
    frag[1] = look_up(w1, b, lane4);
    frag[2] = look_up(w0, b + 1, lane4);
    frag[3] = look_up(w1, b + 1, lane4);
  }
  DEV static float2 block_scale(const Stage& st) {
    return __half22float2(*reinterpret_cast<const __half2*>(&st.scale));
  }
  DEV static float row_scale(const ProductArgs&, int) { return 1.0f; }
};

// ---- int8 -------------------------------------------------------------------------------------
// weights: per tile 1024 bytes: half 0 then half 1, each 32 lanes x uint4 =
//   { row g inputs 0-3, row g inputs 4-7, row g+8 inputs 0-3, row g+8 inputs 4-7 } of the lane's 8.
// scales: one float per row.
struct Int8 {
  static constexpr bool kBlockScaled = false;
  static constexpr uint32_t kTableAddress = 0;
  static constexpr int kTableBytes = 0;
  struct Stage { uint4 half[2]; };

  DEV static void fill_table(unsigned char*) {}
  DEV static void load(Stage& st, const ProductArgs& a, int tile, int kb, int k_blocks, int lane) {
    const uint4* p = reinterpret_cast<const uint4*>(a.weights) + ((size_t)tile * k_blocks + kb) * 64 + lane;
    st.half[0] = load_stream16(p);
    st.half[1] = load_stream16(p + 32);
  }
  static constexpr bool kUseBulk = false;  // would work, measured 8 % slower than cp.async
  static constexpr int kSlotBytes = 1024;
  static constexpr int kScaleBytes = 0;
  static constexpr bool kLanePrivate = true;
  static constexpr int kBlockStep = 1024;
  static constexpr __device__ int tile_step() { return 1024; }
  DEV static void read_scale(Stage&, uint32_t, int) {}
  DEV static const char* source(const ProductArgs& a, int tile, int kb, int k_blocks, int lane) {
    return reinterpret_cast<const char*>(a.weights) + ((size_t)tile * k_blocks + kb) * 1024 + lane * 16;
  }
  DEV static const char* scale_source(const ProductArgs&, int, int, int, int) { return nullptr; }
  DEV static void copy(uint32_t slot, const char* src, int, int lane, bool live) {
    copy_async16_if(slot + lane * 16, src, live);
    copy_async16_if(slot + 512 + lane * 16, src + 512, live);
  }
  DEV static void read(Stage& st, uint32_t slot, int lane) {
    st.half[0] = read_shared16(slot + lane * 16);
    st.half[1] = read_shared16(slot + 512 + lane * 16);
  }
  // Two int8 (bytes 0 and 2 of u) to bf16, exactly: the low 7 bits become the mantissa of 128 + low,
  // and the sign bit selects -128 or -256 as what is added back.
  DEV static uint32_t to_bf16x2(uint32_t u) {
    return add_bf16x2((u & 0x007f007fu) | 0x43004300u, (u & 0x00800080u) | 0xC300C300u);
  }
  DEV static void fragment(uint32_t* frag, const Stage& st, int step, uint32_t) {
    const uint4 h = st.half[step >> 1];
    const uint32_t w0 = (step & 1) ? h.y : h.x, w1 = (step & 1) ? h.w : h.z;
    frag[0] = to_bf16x2(__byte_perm(w0, 0, 0x4140));
    frag[1] = to_bf16x2(__byte_perm(w1, 0, 0x4140));
    frag[2] = to_bf16x2(__byte_perm(w0, 0, 0x4342));
    frag[3] = to_bf16x2(__byte_perm(w1, 0, 0x4342));
  }
  DEV static float2 block_scale(const Stage&) { return make_float2(1.f, 1.f); }
  DEV static float row_scale(const ProductArgs& a, int row) { return reinterpret_cast<const float*>(a.scales)[row]; }
};

// ---- bf16 -------------------------------------------------------------------------------------
// weights: plain row-major [n][k], as cuBLASLt wants them for large batches. No repacking.
struct Bf16 {
  static constexpr bool kBlockScaled = false;
  static constexpr uint32_t kTableAddress = 0;
  static constexpr int kTableBytes = 0;
  struct Stage { uint4 row[2][2]; };  // [g or g+8][half]

  DEV static void fill_table(unsigned char*) {}
  DEV static void load(Stage& st, const ProductArgs& a, int tile, int kb, int, int lane) {
    const bf16* p = reinterpret_cast<const bf16*>(a.weights) + (size_t)(tile * 16 + (lane >> 2)) * a.k + kb * 64 + (lane & 3) * 8;
    st.row[0][0] = load_stream16(p);
    st.row[0][1] = load_stream16(p + 32);
    st.row[1][0] = load_stream16(p + (size_t)8 * a.k);
    st.row[1][1] = load_stream16(p + (size_t)8 * a.k + 32);
  }
  static constexpr bool kUseBulk = false;
  static constexpr int kSlotBytes = 2048;
  static constexpr int kScaleBytes = 0;
  static constexpr bool kLanePrivate = false;
  // A copy covers 4 rows x 128 bytes: whole lines, which the L2 serves at twice the rate of halves.
  // Chunk c (16 bytes) of row r lies at c ^ 4*(r&1), so that reading fragments is free of conflicts.
  static constexpr int kBlockStep = 128;
  static constexpr __device__ int tile_step() { return 2048; }
  DEV static void read_scale(Stage&, uint32_t, int) {}
  DEV static const char* source(const ProductArgs& a, int tile, int kb, int, int lane) {
    return reinterpret_cast<const char*>(reinterpret_cast<const bf16*>(a.weights) + (size_t)(tile * 16 + (lane >> 3)) * a.k + kb * 64 + (lane & 7) * 8);
  }
  DEV static const char* scale_source(const ProductArgs&, int, int, int, int) { return nullptr; }
  DEV static void copy(uint32_t slot, const char* src, int k, int lane, bool live) {
    const int r = lane >> 3, c = lane & 7;
#pragma unroll
    for (int i = 0; i < 4; i++) copy_async16_if(slot + (i * 4 + r) * 128 + ((c ^ (4 * (r & 1))) * 16), src + (size_t)i * 8 * k, live);
  }
  DEV static void read(Stage& st, uint32_t slot, int lane) {
    const int g = lane >> 2, t = lane & 3, flip = 4 * (g & 1);
#pragma unroll
    for (int i = 0; i < 4; i++)
      st.row[i >> 1][i & 1] = read_shared16(slot + (g + 8 * (i >> 1)) * 128 + (((t + 4 * (i & 1)) ^ flip) * 16));
  }
  DEV static void fragment(uint32_t* frag, const Stage& st, int step, uint32_t) {
    const uint4 r0 = st.row[0][step >> 1], r1 = st.row[1][step >> 1];
    frag[0] = (step & 1) ? r0.z : r0.x;
    frag[1] = (step & 1) ? r1.z : r1.x;
    frag[2] = (step & 1) ? r0.w : r0.y;
    frag[3] = (step & 1) ? r1.w : r1.y;
  }
  DEV static float2 block_scale(const Stage&) { return make_float2(1.f, 1.f); }
  DEV static float row_scale(const ProductArgs&, int) { return 1.0f; }
};
