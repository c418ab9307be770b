// Decode attention over a paged cache: one query token per sequence, split over the context.
//
// Cache layout, K and V alike: [block][kv head][16 tokens][128], bf16; a page of one head is 4 KB.
// A warp takes whole pages, straight from memory into tensor-core fragments, without shared memory:
//  - S = Q K^T: the rows of the mma are the query heads that share this KV head (up to 8 of 16 rows),
//    its columns are tokens. A lane's part of K is 16-byte pieces of one token's row; Q is held with
//    the same permutation of the 128 dims.
//  - O = P V: P comes out of the first product in exactly the layout that the second wants. V wants
//    pairs of tokens per register: a lane loads 16 bytes (8 dims) of 4 tokens and transposes pairs
//    with byte permutes. Column n of tile j stands for dim 64*half + 8*n + j.
// Each warp keeps its own running maximum and sum; the warps of a block meet in shared memory. If the
// context is split over blocks, each writes (max, sum, O) and the last one to arrive combines them.
#pragma once
#include "split.cuh"

struct AttentionArgs {
  const bf16* q;          // [batch][heads][128], already rotated
  const bf16* k_cache;
  const bf16* v_cache;
  const int* tables;      // [batch][table_stride] block ids
  const int* lengths;     // [batch] tokens in the cache, this one included; 0 = padded row
  bf16* out;              // element (batch row b, i) at b*out_row + (i/8)*out_oct + i%8, i = head*128 + dim
  float* partial;         // [batch][kv head][split][group rows 8][130]
  unsigned* arrivals;     // [batch][kv head], zero between launches
  int heads, kv_heads, table_stride, splits, out_row, out_oct, wide;
  float scale;            // 1/sqrt(128), times log2(e)
  // AttentionSpread only:
  const int* starts;      // [batch + 1] pages of the rows before, times kv_heads
  int batch;
};

template <int kWarps>
struct Attention {
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kPart = 130;  // max, sum, 128 values
  static constexpr int kSharedBytes = kWarps * 8 * kPart * 4;

  struct State { float max, sum, o[16][2]; };  // of query head g = lane/4; o[n tile][column 2t, 2t+1]

  DEV static int dim_of(int tile, int n) { return (tile >> 3) * 64 + n * 8 + (tile & 7); }

  DEV static void load_k(uint4 (&k)[2][4], const bf16* page, int lane) {
    const bf16* p = page + (lane >> 2) * 128 + (lane & 3) * 8;
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
      for (int i = 0; i < 4; i++) k[n][i] = load_shared_data16(p + n * 8 * 128 + i * 32);
  }
  DEV static void load_v(uint4 (&v)[2][4], const bf16* page, int lane) {
    const bf16* p = page + (lane & 3) * 2 * 128 + (lane >> 2) * 8;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
      for (int i = 0; i < 4; i++) v[h][i] = load_shared_data16(p + ((i >> 1) * 8 + (i & 1)) * 128 + h * 64);
  }
  // Scores of the page's tokens {2t, 2t+1, 8+2t, 8+2t+1} for head g.
  DEV static void scores(float (&s)[4], const uint4 (&q)[4], const uint4 (&k)[2][4]) {
#pragma unroll
    for (int n = 0; n < 2; n++) {
      float d[4] = {0.f, 0.f, 0.f, 0.f};
#pragma unroll
      for (int i = 0; i < 4; i++) {
        const uint32_t a0[4] = {q[i].x, 0u, q[i].y, 0u}, a1[4] = {q[i].z, 0u, q[i].w, 0u};
        mma_bf16(d, a0, k[n][i].x, k[n][i].y);
        mma_bf16(d, a1, k[n][i].z, k[n][i].w);
      }
      s[2 * n] = d[0]; s[2 * n + 1] = d[1];
    }
  }
  DEV static uint32_t word(uint4 v, int i) { return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w; }
  DEV static void accumulate(State& st, const float (&p)[4], const uint4 (&v)[2][4]) {
    const uint32_t a[4] = {pack_bf16(p[0], p[1]), 0u, pack_bf16(p[2], p[3]), 0u};
#pragma unroll
    for (int tile = 0; tile < 16; tile++) {
      const int h = tile >> 3, w = (tile & 7) >> 1;
      const uint32_t pick = tile & 1 ? 0x7632 : 0x5410;
      const uint32_t b0 = __byte_perm(word(v[h][0], w), word(v[h][1], w), pick);
      const uint32_t b1 = __byte_perm(word(v[h][2], w), word(v[h][3], w), pick);
      float d[4] = {st.o[tile][0], st.o[tile][1], 0.f, 0.f};
      mma_bf16(d, a, b0, b1);
      st.o[tile][0] = d[0]; st.o[tile][1] = d[1];
    }
  }

  DEV static void start(State& st) {
    st.max = -1e30f; st.sum = 0.f;
#pragma unroll
    for (int i = 0; i < 16; i++) st.o[i][0] = st.o[i][1] = 0.f;
  }
  DEV static void load_q(uint4 (&q)[4], const AttentionArgs& a, int row, int kv_head, int lane) {
    const int g = lane >> 2, t = lane & 3, group = a.heads / a.kv_heads;
#pragma unroll
    for (int i = 0; i < 4; i++)
      q[i] = g < group ? load_shared_data16(a.q + ((size_t)row * a.heads + kv_head * group + g) * 128 + i * 32 + t * 8) : make_uint4(0, 0, 0, 0);
  }
  // Adds a page, given its scores and values.
  DEV static void attend(State& st, float (&s)[4], uint4 (&v)[2][4], int page, int length, float scale, int t) {
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const int token = page * 16 + (i >> 1) * 8 + 2 * t + (i & 1);
      s[i] = token < length ? s[i] * scale : -1e30f;
    }
    float m = fmaxf(fmaxf(s[0], s[1]), fmaxf(s[2], s[3]));
    m = fmaxf(m, __shfl_xor_sync(~0u, m, 1));
    m = fmaxf(m, __shfl_xor_sync(~0u, m, 2));
    if (__any_sync(~0u, m > st.max)) {  // rare after the first pages
      const float bigger = fmaxf(m, st.max), shrink = exp2f(st.max - bigger);
      st.max = bigger; st.sum *= shrink;
#pragma unroll
      for (int i = 0; i < 16; i++) { st.o[i][0] *= shrink; st.o[i][1] *= shrink; }
    }
    float p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) { p[i] = exp2f(s[i] - st.max); st.sum += p[i]; }
    // Rows past the end of the sequence may hold anything: keep NaN out of the product.
    if (page * 16 + 16 > length) {
#pragma unroll
      for (int i = 0; i < 4; i++)
        if (page * 16 + (i >> 1) * 8 + 2 * t + (i & 1) >= length) v[0][i] = v[1][i] = make_uint4(0, 0, 0, 0);
    }
    accumulate(st, p, v);
  }
  // A warp's part, for the others of its block.
  DEV static void publish(State& st, float (*part)[kPart], int group, int lane) {
    const int g = lane >> 2, t = lane & 3;
    st.sum += __shfl_xor_sync(~0u, st.sum, 1);
    st.sum += __shfl_xor_sync(~0u, st.sum, 2);
    if (g < group) {
      if (t == 0) { part[g][0] = st.max; part[g][1] = st.sum; }
#pragma unroll
      for (int i = 0; i < 16; i++) {
        part[g][2 + dim_of(i, 2 * t)] = st.o[i][0];
        part[g][2 + dim_of(i, 2 * t + 1)] = st.o[i][1];
      }
    }
  }

  DEV static void run(const AttentionArgs& a) {
    DYNAMIC_SHARED(float, attention_parts);
    float(*parts)[8][kPart] = reinterpret_cast<float(*)[8][kPart]>(attention_parts);
    pdl_launch_next();
    const int split = blockIdx.x, kv_head = blockIdx.y, row = blockIdx.z;
    const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31, t = lane & 3;
    const int group = a.heads / a.kv_heads;
    // Lengths and tables are inputs of the whole step, written before its first kernel, and full pages but
    // the last hold tokens of earlier steps: all that can be read before the previous kernel has ended.
    const int length = a.lengths[row], pages = (length + 15) / 16;
    const int first = pages * split / a.splits, last = pages * (split + 1) / a.splits;
    const int* table = a.tables + (size_t)row * a.table_stride;
    // K of the next page is requested as soon as K of this one has been used, V likewise; block ids one further.
    auto page_at = [&](const bf16* cache, int id) { return cache + ((size_t)id * a.kv_heads + kv_head) * 16 * 128; };
    uint4 k[2][4], v[2][4];
    int page = first + warp, id = page < last ? table[page] : 0, next_id = page + kWarps < last ? table[page + kWarps] : 0;
    const bool early = page < last && page + 1 < pages;
    if (early) { load_k(k, page_at(a.k_cache, id), lane); load_v(v, page_at(a.v_cache, id), lane); }
    pdl_wait_previous();
    uint4 q[4];
    load_q(q, a, row, kv_head, lane);
    if (page < last && !early) { load_k(k, page_at(a.k_cache, id), lane); load_v(v, page_at(a.v_cache, id), lane); }
    State st;
    start(st);
    for (; page < last; page += kWarps) {
      float s[4];
      scores(s, q, k);
      const bool more = page + kWarps < last;
      if (more) load_k(k, page_at(a.k_cache, next_id), lane);
      attend(st, s, v, page, length, a.scale, t);
      if (more) {
        load_v(v, page_at(a.v_cache, next_id), lane);
        next_id = page + 2 * kWarps < last ? table[page + 2 * kWarps] : 0;
      }
    }
    publish(st, parts[warp], group, lane);
    __syncthreads();
    const size_t item = (size_t)row * a.kv_heads + kv_head;
    float* mine = a.partial + (item * a.splits + split) * 8 * kPart;
    // A thread combines one dim of every (kThreads/128)th head.
    const int dim = threadIdx.x & 127, h0 = threadIdx.x >> 7, step = kThreads / 128;
    for (int h = h0; h < group && h0 < step; h += step) {
      float m, sum, o;
      combine([&](int i) { return &parts[i][h][0]; }, kWarps, dim, m, sum, o);
      if (a.splits == 1) write(a, row, kv_head * group + h, dim, o / sum, length);
      else {
        __stcg(mine + h * kPart + 2 + dim, o);
        if (dim == 0) { __stcg(mine + h * kPart, m); __stcg(mine + h * kPart + 1, sum); }
      }
    }
    if (a.splits > 1 && arrive_last(a.arrivals + item, a.splits))
      for (int h = h0; h < group && h0 < step; h += step) {
        float m, sum, o;
        combine([&](int i) { return a.partial + ((item * a.splits + i) * 8 + h) * kPart; }, a.splits, dim, m, sum, o);
        write(a, row, kv_head * group + h, dim, o / sum, length);
      }
  }

  template <class Part> DEV static void combine(Part part, int n, int dim, float& m, float& sum, float& o) {
    m = -1e30f;
    for (int i = 0; i < n; i++) m = fmaxf(m, part(i)[0]);
    sum = o = 0.f;
    for (int i = 0; i < n; i++) {
      const float f = exp2f(part(i)[0] - m);
      sum += f * part(i)[1];
      o += f * part(i)[2 + dim];
    }
  }
  DEV static void write(const AttentionArgs& a, int row, int head, int dim, float v, int length) {
    int i = head * 128 + dim;
    if (a.wide) i = wide_k(i);
    a.out[(size_t)row * a.out_row + (size_t)(i >> 3) * a.out_oct + (i & 7)] = __float2bfloat16(length > 0 ? v : 0.f);
  }
};

// The same for many rows, by a fixed number of blocks: each gets the same number of pages, whatever the lengths, so that
// neither a last round of blocks nor a long row leaves the chip idle. A block walks over (row, kv head) items, parts of
// the first and the last of which may belong to its neighbours (split.cuh); a warp requests its first page of the next
// item before this one's parts meet. Rows without a context, such as a step is padded with, are no items: one takes as
// long as several pages, and since they stand together, few blocks would have all of them.
template <int kWarps>
struct AttentionSpread : Attention<kWarps> {
  using Base = Attention<kWarps>;
  static constexpr int kPart = Base::kPart;

  // The part of an item that a block does: pages first .. last - 1 of `pages`, units begin .. end - 1 of the whole.
  struct Segment { unsigned begin, end; int row, kv_head, first, last, pages, length; };
  // A warp's page: of which segment, and its block. There is none if the segment is the end of all. Nothing is computed from the block before it is
  // used, one page later: that would wait for its load.
  struct Page { unsigned segment; int page, kv_head, block; };

  // What a warp must know to find its next page, at hand: three dependent reads of memory would stall it at every item.
  static constexpr int kRows = 256;
  struct Rows { int starts[kRows + 1], lengths[kRows]; };

  DEV static Segment segment(const AttentionArgs& a, const Rows& rows, int row, unsigned unit, unsigned end) {
    const unsigned offset = unit - rows.starts[row];
    Segment s;
    s.begin = unit; s.row = row; s.pages = (rows.lengths[row] + 15) / 16; s.length = rows.lengths[row];
    s.kv_head = offset / s.pages;
    s.first = offset - s.kv_head * s.pages;
    s.last = min(s.pages, s.first + (int)(end - unit));
    s.end = unit + s.last - s.first;
    return s;
  }
  DEV static Segment following(const AttentionArgs& a, const Rows& rows, const Segment& s, unsigned end) {
    if (s.kv_head + 1 == a.kv_heads) {
      int row = s.row + 1;
      while (rows.lengths[row] == 0) row++;  // there is one with a context: this was not the last unit
      return segment(a, rows, row, s.end, end);
    }
    Segment n = s;  // a whole item of the same row, or its beginning
    n.begin = s.end; n.kv_head++; n.first = 0;
    n.last = min(s.pages, (int)(end - s.end));
    n.end = s.end + n.last;
    return n;
  }
  // The row of a unit: the last that begins at or before it. Those without a context begin where the next one does.
  DEV static int row_of(const AttentionArgs& a, const Rows& rows, unsigned unit, int lane) {
    int before = 0;
    for (int i = 1; i < a.batch; i += 32) before += __popc(__ballot_sync(~0u, i + lane < a.batch && (unsigned)rows.starts[i + lane] <= unit));
    return before;
  }
  // Moves `page`, of segment `s`, to where the warp has one, and asks for its block.
  DEV static Page seek(const AttentionArgs& a, const Rows& rows, Segment& s, int& page, unsigned end, int warp) {
    while (page >= s.last && s.end < end) { s = following(a, rows, s, end); page = s.first + warp; }
    Page p = {s.begin, page, s.kv_head, 0};
    if (page >= s.last) p.segment = end;
    else p.block = a.tables[(size_t)s.row * a.table_stride + page];
    return p;
  }
  DEV static const bf16* address(const AttentionArgs& a, const bf16* cache, const Page& p) {
    return cache + ((size_t)p.block * a.kv_heads + p.kv_head) * 16 * 128;
  }

  DEV static void run(const AttentionArgs& a) {
    DYNAMIC_SHARED(float, attention_parts);
    __shared__ Rows rows;
    float(*parts)[8][kPart] = reinterpret_cast<float(*)[8][kPart]>(attention_parts);
    pdl_launch_next();
    for (int i = threadIdx.x; i <= a.batch; i += Base::kThreads) {
      rows.starts[i] = a.starts[i] - a.starts[0];
      if (i < a.batch) rows.lengths[i] = a.lengths[i];
    }
    __syncthreads();
    const int warp = __shfl_sync(~0u, threadIdx.x >> 5, 0), lane = threadIdx.x & 31, t = lane & 3, group = a.heads / a.kv_heads;
    const unsigned units = rows.starts[a.batch];
    const Split split{units, min(gridDim.x, units), 1};
    if (blockIdx.x >= split.blocks) {
      pdl_wait_previous();
      write_zeros(a, rows);
      return;
    }
    const unsigned begin = split.begin(blockIdx.x), end = split.begin(blockIdx.x + 1);
    Segment now = segment(a, rows, row_of(a, rows, begin, lane), begin, end), ahead = now;
    int page = now.first + warp;
    Page loaded = seek(a, rows, ahead, page, end, warp), next;
    page += kWarps;
    uint4 k[2][4], v[2][4], q[4];
    // As in Attention: all but a sequence's last page can be read before the previous kernel has ended.
    const bool early = loaded.segment != end && (loaded.page + 1) * 16 < ahead.length;
    if (early) { Base::load_k(k, address(a, a.k_cache, loaded), lane); Base::load_v(v, address(a, a.v_cache, loaded), lane); }
    next = seek(a, rows, ahead, page, end, warp);
    pdl_wait_previous();
    if (loaded.segment != end && !early) { Base::load_k(k, address(a, a.k_cache, loaded), lane); Base::load_v(v, address(a, a.v_cache, loaded), lane); }
    for (;; now = following(a, rows, now, end)) {
      Base::load_q(q, a, now.row, now.kv_head, lane);
      typename Base::State st;
      Base::start(st);
      while (loaded.segment == now.begin) {
        float s[4];
        Base::scores(s, q, k);
        if (next.segment != end) Base::load_k(k, address(a, a.k_cache, next), lane);
        Base::attend(st, s, v, loaded.page, now.length, a.scale, t);
        if (next.segment != end) Base::load_v(v, address(a, a.v_cache, next), lane);
        loaded = next;
        page += kWarps;
        next = seek(a, rows, ahead, page, end, warp);
      }
      Base::publish(st, parts[warp], group, lane);
      __syncthreads();
      finish(a, now, split, parts, group);
      if (now.end >= end) break;
      __syncthreads();
    }
    write_zeros(a, rows);
  }
  // Rows without a context, a share of them for each block.
  DEV static void write_zeros(const AttentionArgs& a, const Rows& rows) {
    for (int row = blockIdx.x; row < a.batch; row += gridDim.x)
      if (rows.lengths[row] == 0)
        for (int i = threadIdx.x; i < a.heads * 16; i += Base::kThreads)
          *reinterpret_cast<uint4*>(a.out + (size_t)row * a.out_row + (size_t)i * a.out_oct) = make_uint4(0, 0, 0, 0);
  }
  // The warps' parts meet, and those of the blocks if the item was cut.
  DEV static void finish(const AttentionArgs& a, const Segment& s, const Split& split, float (*parts)[8][kPart], int group) {
    const int dim = threadIdx.x & 127, h0 = threadIdx.x >> 7, step = Base::kThreads / 128;
    const bool whole = s.last - s.first == s.pages;
    const unsigned item_begin = s.begin - s.first;
    auto slot = [&](unsigned block, bool second, int h) { return a.partial + (((size_t)block * 2 + second) * 8 + h) * kPart; };
    float m, sum, o;
    for (int h = h0; h < group; h += step) {
      Base::combine([&](int i) { return &parts[i][h][0]; }, kWarps, dim, m, sum, o);
      if (whole) { Base::write(a, s.row, s.kv_head * group + h, dim, o / sum, s.length); continue; }
      float* mine = slot(blockIdx.x, s.first == 0, h);  // the second piece of a block begins an item
      __stcg(mine + 2 + dim, o);
      if (dim == 0) { __stcg(mine, m); __stcg(mine + 1, sum); }
    }
    if (whole) return;
    const unsigned first = split.owner(item_begin), last = split.owner(item_begin + s.pages - 1);
    if (!arrive_last(a.arrivals + s.row * a.kv_heads + s.kv_head, last - first + 1)) return;
    for (int h = h0; h < group; h += step) {
      Base::combine([&](int i) { return slot(first + i, i == 0, h); }, last - first + 1, dim, m, sum, o);
      Base::write(a, s.row, s.kv_head * group + h, dim, o / sum, s.length);
    }
  }
};
