// Checks of the small kernels (fused.cu, moves.cu, dequant.cu) against the CPU, on random numbers, with poisoned outputs.
#pragma once
#include "harness.h"

constexpr uint16_t kPoison = 0xffff;  // a NaN

// `count` bf16 outputs, and behind them some that nobody may touch.
struct Output {
  static constexpr size_t kGuard = 64;
  uint16_t* at; size_t count;
  explicit Output(size_t n) : at(dev_alloc<uint16_t>(n + kGuard)), count(n) { CK(cudaMemset(at, 0xff, (n + kGuard) * 2)); }
  operator bf16*() const { return (bf16*)at; }
  std::vector<uint16_t> read() const {
    auto v = download(at, count + kGuard);
    for (size_t i = count; i < v.size(); i++) if (v[i] != kPoison) { report("output guard", 1, 0.5); break; }
    v.resize(count); return v;
  }
};
template <class A> void run_now(const void* f, dim3 grid, int threads, const A& a) {
  launch(f, grid, threads, 0, a, false); CK(cudaStreamSynchronize(g_stream)); CK(cudaGetLastError());
}
// How activations of `rows` rows of `width` lie.
struct Placed {
  int rows, width; bool wide;
  int row() const { return wide ? 8 : width; }
  int oct() const { return wide ? 8 * rows : 8; }
  size_t at(int m, int i) const { if (wide) i = wide_index(i); return (size_t)m * row() + (size_t)(i / 8) * oct() + i % 8; }
};
static std::vector<float> random_floats(size_t n, std::mt19937& r) { std::normal_distribution<float> d; std::vector<float> v(n); for (auto& e : v) e = d(r); return v; }
template <class T> size_t differing(const std::vector<T>& a, const std::vector<T>& b) {
  size_t n = a.size() != b.size(); for (size_t i = 0; i < std::min(a.size(), b.size()); i++) n += a[i] != b[i]; return n;
}
static void report_at(const char* what, const char* how, int rows, int width, double err, double limit) {
  char name[99]; snprintf(name, 99, "%s %s %d x %d", what, how, rows, width); report(name, err, limit);
}

enum Added { kNothing, kDelta, kParts };
static void check_norm(int rows, int n, Added added, bool wide) {
  std::mt19937 r(n + added); const int S = 3; const size_t count = (size_t)rows * n; const Placed to{rows, n, wide}; const float eps = 1e-6f;
  const auto h = random_host(count, 2, r), d = random_host(count, 2, r), w = random_host(n, 1, r); const auto parts = random_floats(S * count, r); const Output out(count);
  NormArgs a = {}; a.hidden = (bf16*)upload(h); a.delta = added == kDelta ? (bf16*)upload(d) : nullptr; a.parts = added == kParts ? upload(parts) : nullptr; a.weight = (bf16*)upload(w); a.out = out;
  a.n = n; a.splits = S; a.split_stride = count; a.out_row = to.row(); a.out_oct = to.oct(); a.wide = wide; a.eps = eps;
  run_now((const void*)add_rms_norm, rows, (n / 8 + 31) / 32 * 32, a);
  const auto got = out.read(); const auto hidden = download((uint16_t*)a.hidden, count); std::vector<double> normed(count), summed(count);
  for (int m = 0; m < rows; m++) {
    double squares = 0; const size_t first = (size_t)m * n;
    for (size_t i = first; i < first + n; i++) { double x = bf2f(h[i]); if (added == kDelta) x += bf2f(d[i]); if (added == kParts) for (int s = 0; s < S; s++) x += parts[s * count + i]; summed[i] = x; squares += x * x; }
    for (int i = 0; i < n; i++) normed[first + i] = summed[first + i] / std::sqrt(squares / n + eps) * bf2f(w[i]);
  }
  const double e = rel(normed, [&](size_t i) { return bf2f(got[to.at(i / n, i % n)]); }) + rel(summed, [&](size_t i) { return bf2f(hidden[i]); });
  report_at("add_rms_norm", added == kNothing ? "alone" : added == kDelta ? "delta" : "parts", rows, n, e, 1e-2);
}

// `dim`: numbers of a head; narrower heads than 128 are padded, half of their numbers in each half.
struct RopeCase { const char* name; int dim; bool bias, norm, parts, scaled; };
static void check_rope(const RopeCase& c) {
  const int B = 16, H = 14, KV = 2, all = H + 2 * KV, blocks = 64, angles = 1024, half = c.dim / 2; std::mt19937 r(c.dim + c.parts); const float eps = 1e-6f;
  auto place = [&](int i) { return i < half ? i : 64 + i - half; };
  auto heads = [&](int count) { std::vector<uint16_t> v((size_t)count * 128); const auto real = random_host((size_t)count * c.dim, 1, r); for (int h = 0; h < count; h++) for (int i = 0; i < c.dim; i++) v[h * 128 + place(i)] = real[h * c.dim + i]; return v; };
  const auto x = heads(B * all), bias = heads(all), q_norm = random_host(128, 1, r), k_norm = random_host(128, 1, r);
  std::vector<float> parts(2 * x.size()), turns = random_floats(angles * 128, r), scales = random_floats(B, r);
  for (size_t i = 0; i < x.size(); i++) if (x[i]) { parts[i] = r() % 1000 / 500.f - 1; parts[x.size() + i] = r() % 1000 / 500.f - 1; }
  std::vector<int> rows(B), slots(B); for (int b = 0; b < B; b++) { rows[b] = r() % angles; slots[b] = b == 3 ? -1 : (int)((b * 4 + 1) * 16 + r() % 16); }
  const size_t cache = (size_t)blocks * KV * 2048; const Output q((size_t)B * H * 128), k(cache), v(cache);
  RopeArgs a = {}; a.qkv = (bf16*)upload(x); a.parts = c.parts ? upload(parts) : nullptr; a.bias = c.bias ? (bf16*)upload(bias) : nullptr; a.q_norm = c.norm ? (bf16*)upload(q_norm) : nullptr; a.k_norm = c.norm ? (bf16*)upload(k_norm) : nullptr; a.query_scale = c.scaled ? upload(scales) : nullptr;
  a.cos_sin = (float2*)upload(turns); a.angle_rows = upload(rows); a.slots = upload(slots); a.q = q; a.k_cache = k; a.v_cache = v; a.heads = H; a.kv_heads = KV; a.splits = 2; a.split_stride = x.size(); a.eps = eps; a.head_dim = c.dim;
  run_now((const void*)rope_kv, dim3((all + 3) / 4, B), 128, a);
  const auto qo = q.read(), ko = k.read(), vo = v.read(); std::vector<double> ref, got; size_t bad = 0, written = 0; for (size_t i = 0; i < cache; i++) written += (ko[i] != kPoison) + (vo[i] != kPoison);
  for (int b = 0; b < B; b++) for (int h = 0; h < all; h++) {
    const bool is_q = h < H, is_v = h >= H + KV; if (!is_q && slots[b] < 0) continue;
    std::vector<double> n(c.dim), o(c.dim); double squares = 0;
    for (int i = 0; i < c.dim; i++) { const size_t at = ((size_t)b * all + h) * 128 + place(i); n[i] = (c.parts ? parts[at] + parts[x.size() + at] : bf2f(x[at])) + (c.bias ? bf2f(bias[h * 128 + place(i)]) : 0); squares += n[i] * n[i]; }
    if (c.norm && !is_v) for (int i = 0; i < c.dim; i++) n[i] *= bf2f((is_q ? q_norm : k_norm)[place(i)]) / std::sqrt(squares / c.dim + eps);
    for (int i = 0; i < half; i++) { const float *t = &turns[(rows[b] * 64 + i) * 2]; o[i] = is_v ? n[i] : n[i] * t[0] - n[i + half] * t[1]; o[i + half] = is_v ? n[i + half] : n[i + half] * t[0] + n[i] * t[1]; }
    const int kv = is_v ? h - H - KV : h - H; const auto& from = is_q ? qo : is_v ? vo : ko; const size_t first = is_q ? ((size_t)b * H + h) * 128 : (((size_t)(slots[b] >> 4) * KV + kv) * 16 + (slots[b] & 15)) * 128;
    for (int i = 0; i < c.dim; i++) { ref.push_back(o[i] * (is_q && c.scaled ? scales[b] : 1)); got.push_back(bf2f(from[first + place(i)])); }
    for (int i = 0; i < 128; i++) bad += i % 64 >= half && bf2f(from[first + i]) != 0;  // padding stays zero
  }
  report(c.name, rel(ref, [&](size_t i) { return got[i]; }) + bad + (written != (size_t)2 * (B - 1) * KV * 128), 1e-2);
}

static void check_silu(int rows, int n, bool wide) {
  std::mt19937 r(n); const auto x = random_host((size_t)rows * 2 * n, 2, r); const Placed to{rows, n, wide}; const Output out((size_t)rows * n);
  SiluArgs a = {}; a.gate_up = (bf16*)upload(x); a.out = out; a.rows = rows; a.n = n; a.wide = wide; a.out_row = to.row(); a.out_oct = to.oct();
  run_now((const void*)silu_mul, (rows * n / 8 + 255) / 256, 256, a); const auto y = out.read(); std::vector<double> ref((size_t)rows * n);
  for (size_t i = 0; i < ref.size(); i++) { const size_t gate = i / n * 2 * n + i % n / 8 * 16 + i % 8; const double g = bf2f(x[gate]); ref[i] = g / (1 + std::exp(-g)) * bf2f(x[gate + 8]); }
  report_at("silu_mul", wide ? "wide" : "rows", rows, n, rel(ref, [&](size_t i) { return bf2f(y[to.at(i / n, i % n)]); }), 5e-3);
}

static void check_moves(int rows, int width) {
  std::mt19937 r(width); const int from_rows = 50; const auto table = random_host((size_t)from_rows * width, 1, r); bf16* from = (bf16*)upload(table);
  std::vector<int> tokens(rows), drawn(rows), meant(rows);
  for (int i = 0; i < rows; i++) { drawn[i] = r() % from_rows; tokens[i] = r() % from_rows; }
  for (int i = 0; i < rows; i++) { if (r() % 2) tokens[i] = -1 - (int)(r() % rows); meant[i] = tokens[i] < 0 ? drawn[-1 - tokens[i]] : tokens[i]; }
  std::vector<uint16_t> expected((size_t)rows * width); for (size_t i = 0; i < expected.size(); i++) expected[i] = table[(size_t)meant[i / width] * width + i % width];
  const Output hidden(expected.size()), gathered(expected.size());
  const EmbedArgs e = {upload(tokens), upload(drawn), from, hidden, rows, width}; run_now((const void*)embed, rows, 128, e);
  report_at("embed", "", rows, width, differing(hidden.read(), expected), 0.5);
  const GatherArgs g = {from, upload(meant), gathered, rows, width}; run_now((const void*)gather_rows, rows, 128, g);
  report_at("gather_rows", "", rows, width, differing(gathered.read(), expected), 0.5);
  if (width % 64) return;
  const Placed to{rows, width, true}; const Output wide(expected.size()); const WidenArgs w = {gathered, wide, rows, width}; run_now((const void*)widen, rows, 128, w);
  std::vector<uint16_t> moved(expected.size()); for (size_t i = 0; i < moved.size(); i++) moved[to.at(i / width, i % width)] = expected[i];
  report_at("widen", "", rows, width, differing(wide.read(), moved), 0.5);
}

// A product that no compiler makes part of another operation.
static float times(float a, float b) { volatile float p = a * b; return p; }
static float plus(float a, float b) { volatile float p = a + b; return p; }
// Codes with f16 scales, f32 scales and nested ones. The rows come from two matrices of a checkpoint: as of a gate and what
// it gates (`interleaved`), or one above the other.
static void check_nf4(int n, int k, bool interleaved) {
  std::mt19937 r(n + k + interleaved); const int k_blocks = k / 64; const size_t blocks = (size_t)n * k_blocks, of_one = blocks / 2, entries = (of_one + 255) / 256;
  std::vector<uint8_t> codes((size_t)n * k / 2), packed(codes.size()), scale_codes(blocks), packed_scales(blocks); for (auto& e : codes) e = r(); for (auto& e : scale_codes) e = r();
  const auto map = random_floats(256, r); std::vector<float2> nested(2 * entries); std::uniform_real_distribution<float> u(0.01f, 0.1f);
  for (auto& e : nested) { e.x = u(r); e.y = r() % 2 ? u(r) : -times(map[r() % 256], e.x); }  // the second takes all of a product away, and a fused one shows
  std::vector<int> first_blocks(n); std::vector<float> largest(blocks);
  for (int row = 0; row < n; row++) {
    const bool second = interleaved ? row & 8 : row >= n / 2; const int own = interleaved ? row / 16 * 8 + row % 8 : row % (n / 2);
    first_blocks[row] = second * 256 * entries + own * k_blocks;
    for (int b = 0; b < k_blocks; b++) { const float2 e = nested[second * entries + ((size_t)own * k_blocks + b) / 256]; const size_t i = (size_t)row * k_blocks + b; largest[i] = plus(times(map[scale_codes[i]], e.x), e.y); }
  }
  auto number = [&](size_t i) { return kNf4[i & 1 ? codes[i / 2] & 15 : codes[i / 2] >> 4]; };
  repack_nf4(codes.data(), packed.data(), n, k); repack_blocks(scale_codes.data(), packed_scales.data(), n, k, [](uint8_t c) { return c; });
  std::vector<float> f32(blocks); repack_blocks(largest.data(), f32.data(), n, k, [](float f) { return f; }); std::vector<uint16_t> f16(blocks); repack_absmax(largest.data(), f16.data(), n, k, 64.f, f2h);
  std::vector<uint16_t> exact((size_t)n * k); std::vector<double> ref(exact.size()); for (size_t i = 0; i < exact.size(); i++) { exact[i] = f2bf(times(number(i), largest[i / 64])); ref[i] = (double)number(i) * largest[i / 64]; }
  const Output near(exact.size()), plain(exact.size()), twice(exact.size()); const uint4* c = (uint4*)upload(packed); const char* how = interleaved ? "interleaved" : "stacked";
  run_now((const void*)dequant_nf4, 132, 256, DequantArgs{c, upload(f16), near, n, k, 1 / 64.f}); const auto y = near.read(); report_at("dequant_nf4", how, n, k, rel(ref, [&](size_t i) { return bf2f(y[i]); }), 3e-3);
  run_now((const void*)dequant_nf4_f32, 3, 256, DequantArgs{c, upload(f32), plain, n, k, 1}); report_at("dequant_nf4_f32, bits", how, n, k, differing(plain.read(), exact), 0.5);
  const DequantNestedArgs a = {c, upload(packed_scales), upload(map), upload(nested), upload(first_blocks), twice, n, k};
  run_now((const void*)dequant_nf4_nested, 3, 256, a); report_at("dequant_nf4_nested, bits", how, n, k, differing(twice.read(), exact), 0.5);
}
static void check_int8(int n, int k) {
  std::mt19937 r(n + k); const float unit = 1 / 127.f; std::vector<int8_t> codes((size_t)n * k), packed(codes.size()); for (auto& e : codes) e = r(); std::uniform_real_distribution<float> u(0.01f, 1.f); std::vector<float> scales(n); for (auto& e : scales) e = u(r);
  repack_int8(codes.data(), packed.data(), n, k); std::vector<uint16_t> exact(codes.size()); for (size_t i = 0; i < exact.size(); i++) exact[i] = f2bf(times(times(codes[i], scales[i / k]), unit));
  const Output out(exact.size()); run_now((const void*)dequant_int8, 5, 256, DequantInt8Args{(uint4*)upload(packed), upload(scales), out, n, k, unit});
  report_at("dequant_int8, bits", "", n, k, differing(out.read(), exact), 0.5);
}

static void check_small() {
  for (Added added : {kNothing, kDelta, kParts}) { for (int n : {5120, 896, 3584, 8192}) check_norm(16, n, added, added != kDelta); check_norm(5, 8, added, false); check_norm(5, 1000, added, false); }
  check_rope({"rope_kv bias", 128, true, false, false, false}); check_rope({"rope_kv norm, parts", 128, false, true, true, false}); check_rope({"rope_kv bias, scaled", 128, true, false, false, true});
  check_rope({"rope_kv 64 of 128, norm, scaled", 64, false, true, false, true}); check_rope({"rope_kv 64 of 128, bias, parts", 64, true, false, true, false}); check_rope({"rope_kv 96 of 128, all", 96, true, true, true, true});
  for (bool wide : {false, true}) { check_silu(16, 13824, wide); check_silu(3, 4864, wide); }
  for (int width : {5120, 896, 3584, 8, 8192 + 8, 9 * 1024}) check_moves(32, width);
  for (bool interleaved : {false, true}) { check_nf4(256, 1024, interleaved); check_nf4(64, 5120, interleaved); check_nf4(32, 20480, interleaved); }
  check_int8(16384, 128); check_int8(48, 4864);
}
