// Checks of the products (product_*.cu) against the CPU, twice each: the same bits are wanted.
#pragma once
#include "harness.h"

struct Variant { const char* name; const void* f; int fmt, max_m, threads, smem, blocks, items; bool silu; int group = 0; bool whole = false; };
template <class W> constexpr int fmt_of() { return std::is_same<W, Nf4>::value ? 0 : std::is_same<W, Int8>::value ? 1 : 2; }
static std::vector<Variant> variants() {
  std::vector<Variant> v;
#define PRODUCT(name, W, NT, KPW, WARPS, AHEAD, EPI, BLOCKS) \
  { using P = RowProduct<W, NT, KPW, WARPS, AHEAD, EPI>; static_assert(P::kSharedBytes <= 232448, #name); for (int b = 1; b <= BLOCKS; b++) v.push_back({#name, (const void*)name, fmt_of<W>(), NT * 8, P::kThreads, P::kSharedBytes, b, 0, EPI == kSilu}); }
#include "product_rows_variants.h"
#undef PRODUCT
#define WIDE(name, W, NT, WGS, AHEAD, STAGES, EPI) { using P = WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>; static_assert(P::kSharedBytes <= 232448, #name); v.push_back({#name, (const void*)name, fmt_of<W>(), NT * 8, P::kThreads, P::kSharedBytes, 1, 1, EPI == kSilu, P::kTilesPerGroup}); }
#define FED(name, W, NT, WGS, AHEAD, STAGES, EPI) { using P = FedProduct<W, NT, WGS, AHEAD, STAGES, EPI>; static_assert(P::kSharedBytes <= 232448, #name); v.push_back({#name, (const void*)name, fmt_of<W>(), NT * 8, P::kThreads, P::kSharedBytes, 1, 1, EPI == kSilu, P::kTilesPerGroup, true}); }
#include "product_wide_variants.h"
#undef WIDE
#undef FED
#define MMA(name, W, NT, R, WR, WK, DEPTH, EPI, BLOCKS) { using P = MmaProduct<W, NT, R, WR, WK, DEPTH, EPI>; static_assert(P::kSharedBytes <= 101376, #name); v.push_back({#name, (const void*)name, fmt_of<W>(), NT * 8, P::kThreads, P::kSharedBytes, BLOCKS, 2, EPI == kSilu}); }
#include "product_mma_variants.h"
#undef MMA
  return v;
}
static float4* g_partial; static unsigned* g_arrivals;

static void check(const Variant& v, int m, int n, int k, bool octets, int splits = 1, bool y_wide = false) {
  std::mt19937 rng(m * 7919 + n * 31 + k); std::normal_distribution<float> nd; std::uniform_real_distribution<float> ud(0.01f, 0.1f);
  std::vector<uint16_t> x((size_t)m * k); for (auto& e : x) e = f2bf(nd(rng));
  const int kb = k / 64; std::vector<float> w((size_t)n * k); ProductArgs a = {}; a.alpha = 1; a.splits = splits;
  std::vector<void*> frees;
  if (v.fmt == 0) {
    std::vector<uint8_t> codes((size_t)n * k / 2), packed(codes.size()); for (auto& e : codes) e = rng();
    std::vector<float> am((size_t)n * kb); for (auto& e : am) e = ud(rng);
    for (size_t i = 0; i < w.size(); i++) w[i] = kNf4[(i & 1) ? codes[i / 2] & 15 : codes[i / 2] >> 4] * am[i / 64];
    repack_nf4(codes.data(), packed.data(), n, k); std::vector<uint16_t> sc(am.size()); repack_absmax(am.data(), sc.data(), n, k, 64.f, f2h);
    a.weights = upload(packed); a.scales = upload(sc); a.alpha = 1 / (64.f * NF4_TABLE_FACTOR);
  } else if (v.fmt == 1) {
    std::vector<int8_t> q((size_t)n * k), packed(q.size()); for (auto& e : q) e = (int8_t)rng(); std::vector<float> sc(n); for (auto& e : sc) e = ud(rng);
    for (size_t i = 0; i < w.size(); i++) w[i] = q[i] * sc[i / k];
    repack_int8(q.data(), packed.data(), n, k); a.weights = upload(packed); a.scales = upload(sc);
  } else {
    std::vector<uint16_t> q((size_t)n * k); for (size_t i = 0; i < q.size(); i++) { q[i] = f2bf(nd(rng)); w[i] = bf2f(q[i]); } a.weights = upload(q);
  }
  std::vector<uint16_t> xl(x.size());
  a.x_row = octets ? 8 : k; a.x_oct = octets ? 8 * m : 8;
  for (int i = 0; i < m; i++) for (int j = 0; j < k; j++) { int q = v.items == 1 ? wide_index(j) : j; xl[(size_t)i * a.x_row + (size_t)(q / 8) * a.x_oct + q % 8] = x[(size_t)i * k + j]; }
  const int ny = v.silu ? n / 2 : n;
  uint16_t* xd = upload(xl); uint16_t* yd = dev_alloc<uint16_t>((size_t)m * ny);
  a.x = (bf16*)xd; a.y = (bf16*)yd; a.y_row = y_wide ? 8 : ny; a.y_oct = y_wide ? 8 * m : 8; a.y_wide = y_wide; a.m = m; a.n = n; a.k = k; a.partial = g_partial; a.arrivals = g_arrivals;
  a.y_f32 = dev_alloc<float>((size_t)splits * m * ny); a.split_stride = m * ny;
  double worst = 0; bool same = true; std::vector<uint16_t> y, y2;
  for (int rep = 0; rep < 2; rep++) {
    CK(cudaMemset(yd, 0xff, (size_t)m * ny * 2)); CK(cudaMemset(a.y_f32, 0xff, (size_t)splits * m * ny * 4));
    launch(v.f, v.items == 1 && splits > 1 ? (n / 16 + v.group - 1) / v.group * splits : g_sms * v.blocks, v.threads, v.smem, a, false); CK(cudaStreamSynchronize(g_stream)); CK(cudaGetLastError());
    y2 = y; y = download(yd, (size_t)m * ny);
    if (y_wide) { auto as_it_lies = y; for (int r = 0; r < m; r++) for (int i = 0; i < ny; i++) y[(size_t)r * ny + i] = as_it_lies[(size_t)r * 8 + (size_t)(wide_index(i) / 8) * 8 * m + wide_index(i) % 8]; }
    if (splits > 1) { auto f = download(a.y_f32, (size_t)splits * m * ny); for (size_t i = 0; i < y.size(); i++) { float s = 0; for (int p = 0; p < splits; p++) s += f[p * y.size() + i]; y[i] = f2bf(s); } }
  }
  same = y == y2;
  std::vector<double> num(ny), den(ny);
  parallel_for(ny, [&](int i) {
    for (int r = 0; r < m; r++) {
      auto dot = [&](int row) { double s = 0; for (int j = 0; j < k; j++) s += (double)w[(size_t)row * k + j] * bf2f(x[(size_t)r * k + j]); return s; };
      double ref;
      if (v.silu) { int st = i / 8 * 16 + i % 8; double gte = dot(st), up = dot(st + 8); ref = gte / (1 + exp(-gte)) * up; } else ref = dot(i);
      double d = bf2f(y[(size_t)r * ny + i]) - ref; num[i] += d * d; den[i] += ref * ref;
    }
  });
  double nu = 0, de = 0; bool nan = false; for (int i = 0; i < ny; i++) { nu += num[i]; de += den[i]; worst = std::max(worst, std::sqrt(num[i] / den[i])); nan |= !(num[i] == num[i]); }
  double err = std::sqrt(nu / de); bool ok = err < 5e-3 && !nan;
  g_failed |= !ok || !same;
  static int n_ok = 0; if (ok && same) { n_ok++; if (n_ok % 20) return; }
  printf("%s %-14s m=%-3d n=%-5d k=%-5d %s err %.2e%s\n", ok ? "ok  " : "FAIL", v.name, m, n, k, y_wide ? "wide" : octets ? "oct" : "row", err, same ? "" : "  NOT DETERMINISTIC");
  cudaFree((void*)a.weights); if (a.scales) cudaFree((void*)a.scales); cudaFree(xd); cudaFree(yd); cudaFree(a.y_f32);
}

static void check_product(const Variant& v) {
  check(v, v.max_m, 512, 1024, true); if (v.items == 1) { check(v, v.max_m, 5120, 640, true); check(v, v.max_m, 5120, 5120, true); check(v, v.max_m, 1568, 2048, true); check(v, v.max_m, 1536, 1280, true, 1, true); if (!v.silu && !v.whole) { check(v, v.max_m, 1568, 2048, true, 3); check(v, v.max_m, 5120, 5120, true, 2); } return; } check(v, std::max(1, v.max_m - 3), 5120, 640, false);
  if (v.max_m == 8) check(v, 1, 1568, 2048, false);
  if (v.items == 2) check(v, v.max_m, 5120, 5120, true); else if (!v.silu) { check(v, v.max_m, 5120, 5120, true, 2); check(v, 3, 1024, 13824, false, 3); } else check(v, 7, 5120, 5120, true);
}
// Matrices of models that are made for tests: one block of inputs, a few, and numbers of them that no kernel was made for.
static void check_product_small(const Variant& v) {
  if (v.items == 1) {  // they take pairs of blocks
    for (int k : {128, 384, 896}) for (int n : {16, 176, 384}) {
      check(v, v.max_m, n, k, true);
      if (n == 384) check(v, v.max_m, n, k, true, 1, true);
      if (!v.silu && !v.whole && k >= 384) check(v, v.max_m, n, k, true, 3);
    }
    return;
  }
  for (int k : {64, 128, 192, 320, 896}) for (int n : {16, 48, 176}) {
    check(v, v.max_m, n, k, false);
    if (v.items == 0) check(v, 1, n, k, false);
    if (v.items == 0 && !v.silu && k >= 128) check(v, 3, n, k, false, 2);
  }
}
