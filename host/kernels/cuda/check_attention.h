// Checks of decode attention (attention.cu) against the CPU, on random numbers, with poisoned outputs and NaN behind the end of
// every sequence.
#pragma once
#include "harness.h"

// warps 0: the spread kernel, by `splits` blocks.
static void run_attention(const AttentionArgs& a, int B, int kv, int warps, bool pdl) {
  if (warps == 0) { AttentionArgs s = a; s.batch = B; launch((const void*)decode_attention_spread, a.splits, 128, 4 * 4160, s, pdl); return; }
  launch(warps == 12 ? (const void*)decode_attention_12 : warps == 6 ? (const void*)decode_attention_6 : (const void*)decode_attention, dim3(a.splits, kv, B), 32 * warps, warps * 4160, a, pdl);
}
static std::vector<int> page_starts(const std::vector<int>& lengths, int kv) { std::vector<int> s{0}; for (int l : lengths) s.push_back(s.back() + (l + 15) / 16 * kv); return s; }
static float* g_part; static unsigned* g_arr;
static void check_attention(int heads, int kv, std::vector<int> len, int splits, bool wide, int warps = 4) {
  std::mt19937 r(heads * 131 + splits); int B = len.size(), stride = 0; for (int l : len) stride = std::max(stride, (l + 15) / 16 + 1);
  int blocks = B * stride; std::vector<int> perm(blocks), tab(B * stride); for (int i = 0; i < blocks; i++) perm[i] = i; std::shuffle(perm.begin(), perm.end(), r); tab = perm;
  auto q = random_host((size_t)B * heads * 128, 1, r), k = random_host((size_t)blocks * kv * 2048, 1, r), v = random_host((size_t)blocks * kv * 2048, 1, r);
  for (int b = 0; b < B; b++) for (int t = len[b]; t < stride * 16; t++) for (int h = 0; h < kv; h++) for (int d = 0; d < 128; d++) { size_t at = (((size_t)tab[b * stride + t / 16] * kv + h) * 16 + t % 16) * 128 + d; k[at] = v[at] = 0x7fc0; }  // NaN past the end
  int rows = (B + 7) / 8 * 8; AttentionArgs a = {}; a.q = (bf16*)upload(q); a.k_cache = (bf16*)upload(k); a.v_cache = (bf16*)upload(v); a.tables = upload(tab); a.lengths = upload(len); a.starts = upload(page_starts(len, kv));
  uint16_t* out = dev_alloc<uint16_t>((size_t)rows * heads * 128); CK(cudaMemset(out, 0xff, (size_t)rows * heads * 256)); a.out = (bf16*)out; a.partial = g_part; a.arrivals = g_arr; a.heads = heads; a.kv_heads = kv; a.table_stride = stride; a.splits = splits;
  a.wide = wide; a.out_row = wide ? 8 : heads * 128; a.out_oct = wide ? 8 * rows : 8; a.scale = 1.4426950408889634f / std::sqrt(128.f);
  run_attention(a, B, kv, warps, false); CK(cudaStreamSynchronize(g_stream)); CK(cudaGetLastError());
  auto o = download(out, (size_t)rows * heads * 128); std::vector<double> ref((size_t)B * heads * 128);
  parallel_for(B * heads, [&](int i) { int b = i / heads, h = i % heads, g = heads / kv; std::vector<double> s(len[b]); double m = -1e300, z = 0;
    auto at = [&](int t) { return (((size_t)tab[b * stride + t / 16] * kv + h / g) * 16 + t % 16) * 128; };
    for (int t = 0; t < len[b]; t++) { double x = 0; for (int d = 0; d < 128; d++) x += (double)bf2f(q[(size_t)i * 128 + d]) * bf2f(k[at(t) + d]); s[t] = x / std::sqrt(128.0); m = std::max(m, s[t]); }
    for (auto& x : s) { x = std::exp(x - m); z += x; }
    for (int d = 0; d < 128; d++) { double x = 0; for (int t = 0; t < len[b]; t++) x += s[t] * bf2f(v[at(t) + d]); ref[(size_t)i * 128 + d] = len[b] ? x / z : 0; } });
  auto found = [&](size_t i) { int b = i / (heads * 128), c = i % (heads * 128); if (wide) c = wide_index(c); return bf2f(o[(size_t)b * a.out_row + (size_t)(c / 8) * a.out_oct + c % 8]); };
  double e = 0;
  if (std::any_of(len.begin(), len.end(), [](int l) { return l > 0; })) e = rel(ref, found);
  else for (size_t i = 0; i < ref.size(); i++) e += found(i) != 0;  // nothing to be relative to
  char name[99]; snprintf(name, 99, "attention heads %d/%d batch %d splits %d warps %d%s", heads, kv, B, splits, warps, wide ? " wide" : ""); report(name, e, 5e-3);
  for (void* p : {(void*)a.q, (void*)a.k_cache, (void*)a.v_cache, (void*)a.tables, (void*)a.lengths, (void*)a.starts, (void*)out}) cudaFree(p);
}

static void check_attention() {
  for (bool w : {false, true}) { check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, 1, w); check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, 3, w); }
  check_attention(40, 8, {5000}, 13, false); check_attention(40, 40, {100, 700}, 2, false); check_attention(8, 8, {31}, 1, false); check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, 2, true, 6); check_attention(40, 40, {100, 700}, 1, false, 6); check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, 1, true, 12); check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, 2, false, 12);
  for (int blocks : {1, 7, 50, 2 * g_sms}) for (bool w : {false, true}) check_attention(40, 8, {1, 17, 600, 16, 0, 513, 4000, 33}, blocks, w, 0);
  std::vector<int> many(200); for (int i = 0; i < 200; i++) many[i] = i * 37 % 300; check_attention(10, 2, many, 2 * g_sms, false, 0); check_attention(4, 4, {700, 3}, 2 * g_sms, false, 0);
}
// Rows without a context, wherever they stand: a step is padded with some.
static void check_padding() {
  std::vector<int> padded(128, 0); for (int i = 0; i < 70; i++) padded[i] = 1 + i * 53 % 200;
  for (int blocks : {3, 264}) {
    check_attention(10, 2, padded, blocks, true, 0); check_attention(10, 2, {0, 0, 17, 0, 40, 0, 0, 300, 0}, blocks, false, 0);
    check_attention(10, 2, {0, 0, 0}, blocks, false, 0); check_attention(10, 2, {0, 0, 0, 0, 0, 0, 0, 5}, blocks, true, 0);
  }
}
// Every kernel with one to eight queries to a key, over short contexts.
static void check_groups() {
  for (int group = 1; group <= 8; group++) {
    for (int warps : {4, 6, 12}) check_attention(2 * group, 2, {1, 17, 0, 130, 33}, 1 + group % 3, group % 2, warps);
    check_attention(2 * group, 2, {1, 17, 0, 130, 33}, 1 + group, group % 2, 0);
  }
}
