// Checks of sampling (sampling.cu) against the CPU's rules, and the batches that its timings use too.
#pragma once
#include "harness.h"

// host/model/src/layers/math.rs, adjuster.rs, sampling.rs and logprobs.rs, written down once more.
static float exp_host(float x) {
  x = std::min(std::max(x, -87.f), 88.f); const float round = 12582912.f, rounded = std::fma(x, 1.44269504f, round), n = rounded - round;
  const float r = std::fma(n, 2.1219444e-4f, std::fma(n, -0.6933594f, x)); float p = 1.9875691e-4f;
  for (float f : {1.3982e-3f, 8.333452e-3f, 4.1665796e-2f, 1.6666666e-1f, 0.5f}) p = std::fma(p, r, f);
  const float fraction = std::fma(p, r * r, r) + 1.f; uint32_t a, b; memcpy(&a, &rounded, 4); memcpy(&b, &round, 4); const uint32_t e = (a - b + 127) << 23; float scale; memcpy(&scale, &e, 4);
  return fraction * scale;
}
static double uniform_host(uint64_t key, uint64_t counter) {
  uint32_t k[2] = {(uint32_t)key, (uint32_t)(key >> 32)}, x[4] = {(uint32_t)counter, (uint32_t)(counter >> 32), 0, 0};
  for (int i = 0; i < 10; i++) { const uint64_t p = (uint64_t)0xD2511F53u * x[0], q = (uint64_t)0xCD9E8D57u * x[2]; const uint32_t y[4] = {(uint32_t)(q >> 32) ^ x[1] ^ k[0], (uint32_t)q, (uint32_t)(p >> 32) ^ x[3] ^ k[1], (uint32_t)p}; memcpy(x, y, 16); k[0] += 0x9E3779B9u; k[1] += 0xBB67AE85u; }
  return (double)(((uint64_t)x[0] << 32 | x[1]) >> 11) / (double)(1ull << 53);
}
struct Case { SampleRow row; int position; std::vector<int> prompt, answer, forbidden; std::vector<std::pair<int, float>> bias; std::vector<float> logits; };
struct Candidate { int token; float weight; };
static uint32_t ordered(float x) { uint32_t b; memcpy(&b, &x, 4); return b & 0x80000000u ? ~b : b | 0x80000000u; }
static bool better(const Candidate& a, const Candidate& b) { return ordered(a.weight) != ordered(b.weight) ? ordered(a.weight) > ordered(b.weight) : a.token < b.token; }
static float number(float from, float to) { return std::isnan(to) ? from : std::min(std::max(to, -3.402823466e38f), 3.402823466e38f); }

// What comes out before any draw: everything but the token of a row that is not greedy.
struct Expected { int status = 0, token = 0; float logprob = 0; std::vector<Candidate> top; std::vector<Candidate> candidates; bool drawn = false; };
static Expected expect(const Case& c) {
  Expected e; const SampleRow& r = c.row; const auto& raw = c.logits; const int n = raw.size();
  for (int i = 0; i < n; i++) if (!std::isfinite(raw[i])) { e.status = 1; e.token = i; return e; }
  if (r.logprobs >= 0 || r.given >= 0) for (int i = 0; i < n; i++) e.top.push_back({i, raw[i]});
  if (r.given >= 0) { e.token = r.given; return e; }  // as the logits came, and whatever else the row asks for
  std::vector<float> l = raw;
  for (auto& [t, b] : c.bias) l[t] = number(l[t], l[t] + b);
  if (r.slot >= 0) {
    std::vector<int> times(n), in(n); for (int t : c.prompt) in[t] = 1; for (int t : c.answer) { in[t] = 1; times[t]++; }
    for (int i = 0; i < n; i++) if (in[i]) { const float x = l[i] > 0 ? l[i] / r.repetition_penalty : l[i] * r.repetition_penalty; const float y = x - r.frequency_penalty * (float)times[i]; l[i] = number(l[i], y - (times[i] ? r.presence_penalty : 0.f)); }
  }
  for (int t : c.forbidden) l[t] = -INFINITY;
  int best = 0; for (int i = 1; i < n; i++) if (l[i] > l[best]) best = i;
  if (l[best] == -INFINITY) { e.status = 2; return e; }
  e.token = best; e.drawn = r.temperature >= 1e-5f;
  if (e.drawn) {
    for (int i = 0; i < n; i++) if (l[i] != -INFINITY) { const float w = exp_host((l[i] - l[best]) / r.temperature); if (!(r.min_p > 0) || w >= std::min(r.min_p, 1.f)) e.candidates.push_back({i, w}); }
    if (r.top_k > 0 || r.top_p < 1) std::sort(e.candidates.begin(), e.candidates.end(), better);
    if (r.top_k > 0 && (int)e.candidates.size() > r.top_k) e.candidates.resize(r.top_k);
  }
  return e;
}
// `off`: by how much the sums may be off.
static int draw_host(const Case& c, const std::vector<Candidate>& candidates, double off) {
  size_t kept = candidates.size();
  if (c.row.top_p < 1) { double total = 0, sum = 0; for (auto& x : candidates) total += x.weight; for (size_t i = 0; i < candidates.size(); i++) { sum += candidates[i].weight; if (sum >= (double)c.row.top_p * total * (1 + off)) { kept = i + 1; break; } } }
  double total = 0; for (size_t i = 0; i < kept; i++) total += candidates[i].weight;
  double left = uniform_host(c.row.seed, c.position + 1) * total * (1 + off);
  for (size_t i = 0; i < kept; i++) { left -= candidates[i].weight; if (left < 0) return candidates[i].token; }
  return candidates[kept - 1].token;
}

// Device copies of a batch of cases.
struct Batch { SampleArgs args; std::vector<void*> all; int rows; };
template <class T> static T* keep(Batch& b, T* p) { b.all.push_back((void*)p); return p; }
static Batch make_batch(const std::vector<Case>& cases, int n, int stride, bool f32) {
  Batch b; b.rows = cases.size(); SampleArgs a = {}; std::vector<SampleRow> rows; std::vector<int> positions, bias_tokens{0}, forbidden{0}, tokens{0}; std::vector<float> bias_values{0}; std::vector<CountSpan> spans; int slots = 0;
  for (auto& c : cases) { SampleRow r = c.row; r.bias_first = bias_tokens.size(); r.bias_count = c.bias.size(); for (auto& [t, v] : c.bias) { bias_tokens.push_back(t); bias_values.push_back(v); } r.forbidden_first = forbidden.size(); r.forbidden_count = c.forbidden.size(); forbidden.insert(forbidden.end(), c.forbidden.begin(), c.forbidden.end());
    if (r.slot >= 0) { spans.push_back({(int)tokens.size(), (int)c.prompt.size(), (int)c.answer.size(), r.slot}); tokens.insert(tokens.end(), c.prompt.begin(), c.prompt.end()); tokens.insert(tokens.end(), c.answer.begin(), c.answer.end()); slots = std::max(slots, r.slot + 1); }
    rows.push_back(r); positions.push_back(c.position); }
  if (f32) { std::vector<float> l((size_t)b.rows * stride, NAN); for (int i = 0; i < b.rows; i++) std::copy(cases[i].logits.begin(), cases[i].logits.end(), l.begin() + (size_t)i * stride); a.logits = keep(b, upload(l)); }
  else { std::vector<uint16_t> l((size_t)b.rows * stride, 0x7fc0); for (int i = 0; i < b.rows; i++) for (int j = 0; j < n; j++) { uint32_t u; memcpy(&u, &cases[i].logits[j], 4); l[(size_t)i * stride + j] = u >> 16; } a.logits = keep(b, upload(l)); }
  a.rows = keep(b, upload(rows)); a.positions = keep(b, upload(positions)); a.bias_tokens = keep(b, upload(bias_tokens)); a.bias_values = keep(b, upload(bias_values)); a.forbidden = keep(b, upload(forbidden));
  a.counts = keep(b, dev_alloc<unsigned>((size_t)std::max(1, slots) * n)); CK(cudaMemset(a.counts, 0xff, (size_t)std::max(1, slots) * n * 4)); a.scratch = keep(b, dev_alloc<float>((size_t)b.rows * stride)); a.tokens = keep(b, dev_alloc<int>(b.rows)); a.results = keep(b, dev_alloc<SampleResult>(b.rows)); a.top_tokens = keep(b, dev_alloc<int>(b.rows * kTopMost)); a.top_logprobs = keep(b, dev_alloc<float>(b.rows * kTopMost));
  a.n = n; a.stride = stride; a.is_f32 = f32;
  if (!spans.empty()) { CountArgs c = {keep(b, upload(tokens)), keep(b, upload(spans)), a.counts, n}; launch((const void*)count_tokens, spans.size(), 1024, 0, c, false); }
  b.args = a; return b;
}
static void sample(const SampleArgs& a, int rows, bool cluster, bool pdl = false) {
  using C = Sampler<8, 512>; using B = Sampler<1, 1024>;
  if (cluster) launch((const void*)sample_cluster, rows * 8, 512, C::kSharedBytes + 4 * C::part(a.n), a, pdl); else launch((const void*)sample_block, rows, 1024, B::kSharedBytes, a, pdl);
}

static std::vector<float> random_logits(int kind, int n, bool f32, std::mt19937& r) {
  std::vector<float> l(n); const float sd[] = {2.5f, 0.5f, 8.f}; std::normal_distribution<float> d(0, kind < 3 ? sd[kind] : 1);
  for (auto& x : l) x = kind < 3 ? d(r) : kind == 3 ? 1.5f : kind == 4 ? (float)((int)(r() % 7) - 3) : kind == 5 ? -60.f + d(r) : (r() & 1 ? 3e38f : -3e38f);
  if (kind == 5) l[r() % n] = 60.f;
  if (!f32) for (auto& x : l) x = bf2f(f2bf(x));
  return l;
}
static void check_sampling(int n, int stride, bool f32, int rows) {
  std::mt19937 r(n + f32); auto unit = [&] { return (r() % 100000) / 100000.f; }; auto chance = [&](int percent) { return (int)(r() % 100) < percent; }; auto token = [&] { return (int)(r() % n); };
  std::vector<Case> cases;
  for (int i = 0; i < rows; i++) {
    Case c = {}; c.row = {chance(20) ? 0.f : 0.05f + 1.5f * unit(), 1, 0, 1, 0, 0, 0, -1, (uint64_t)r() << 32 | r(), 0, 0, 0, 0, -1, -1}; c.position = r() % 5000;
    if (chance(50)) c.row.top_p = chance(10) ? 0.f : 1.05f * unit();
    if (chance(50)) c.row.top_k = chance(30) ? 1 + r() % (2 * n) : 1 + r() % 60;
    if (chance(30)) c.row.min_p = chance(10) ? 1.2f : 0.2f * unit();
    if (chance(50)) c.row.logprobs = r() % 21;
    if (chance(40)) { c.row.slot = i; if (chance(70)) c.row.repetition_penalty = 0.5f + unit(); if (chance(70)) c.row.presence_penalty = 4 * unit() - 2; if (chance(70)) c.row.frequency_penalty = 4 * unit() - 2; const int span = std::min(n, 500); for (int j = r() % 300; j > 0; j--) c.prompt.push_back(r() % span); for (int j = r() % 300; j > 0; j--) c.answer.push_back(r() % span); }
    if (chance(30)) { std::vector<int> t(std::min(n, 400)); for (size_t j = 0; j < t.size(); j++) t[j] = j * (n / t.size()); std::shuffle(t.begin(), t.end(), r); for (size_t j = 0; j < std::min<size_t>(300, t.size()); j++) c.bias.push_back({t[j], 200 * unit() - 100}); }
    if (chance(20)) for (int j = 0; j < 50; j++) c.forbidden.push_back(token());
    if (chance(15)) c.row.given = chance(10) ? n - 1 : token();
    c.logits = random_logits(r() % 8 < 5 ? 0 : r() % 7, n, f32, r);
    if (i % 16 == 9) c.logits[token()] = i % 32 == 9 ? NAN : INFINITY;
    if (i % 16 == 10 && n < 10000) { c.forbidden.resize(n); for (int j = 0; j < n; j++) c.forbidden[j] = j; }
    if (i % 16 == 11) { const int at = std::max_element(c.logits.begin(), c.logits.end()) - c.logits.begin(); c.forbidden.push_back(at); }
    cases.push_back(c);
  }
  std::vector<Expected> expected(rows); parallel_for(rows, [&](int i) { expected[i] = expect(cases[i]); });
  for (bool cluster : {true, false}) {
    Batch b = make_batch(cases, n, stride, f32); const SampleArgs& a = b.args; size_t slots = 0; for (auto& c : cases) slots = std::max<size_t>(slots, c.row.slot + 1);
    CK(cudaStreamSynchronize(g_stream)); const auto before = download(a.counts, slots * n);
    for (void* p : {(void*)a.tokens, (void*)a.results, (void*)a.top_tokens, (void*)a.top_logprobs}) CK(cudaMemset(p, 0xff, p == a.tokens ? rows * 4 : p == a.results ? rows * 16 : rows * 80));
    sample(a, rows, cluster); CK(cudaStreamSynchronize(g_stream)); CK(cudaGetLastError());
    const auto tokens = download(a.tokens, rows); const auto results = download(a.results, rows); const auto top = download(a.top_tokens, rows * kTopMost); const auto top_logprobs = download(a.top_logprobs, rows * kTopMost); const auto after = download(a.counts, slots * n);
    std::vector<int> bad(rows), near(rows);
    parallel_for(rows, [&](int i) {
      const Case& c = cases[i]; const Expected& e = expected[i]; const SampleResult& g = results[i]; int why = 0;
      auto wrong = [&](int code, bool if_so) { if (if_so && !why) why = code; };
      wrong(1, g.status != e.status);
      wrong(2, e.status == 1 && g.token != e.token); wrong(3, e.status != 0 && tokens[i] != -1);
      if (e.status == 0 && !why) {
        wrong(4, g.token != tokens[i] || g.token < 0 || g.token >= n);
        if (!e.drawn) wrong(5, g.token != e.token);
        else if (g.token != draw_host(c, e.candidates, 0)) { near[i] = 1; wrong(6, g.token != draw_host(c, e.candidates, 1e-11) && g.token != draw_host(c, e.candidates, -1e-11)); }
        if ((c.row.logprobs >= 0 || c.row.given >= 0) && !why) {
          float m = *std::max_element(c.logits.begin(), c.logits.end()); double s = 0; for (float l : c.logits) s += std::exp((double)(l - m)); const double total = m + std::log(s); const int wanted = std::max(0, std::min(c.row.logprobs, n));
          auto close = [&](float got, int token) { const float x = c.logits[token] - total; return got == x || std::fabs(got - x) <= 1e-5 + 1e-6 * std::fabs(x); };
          wrong(7, !close(g.logprob, g.token)); auto sorted = e.top; std::partial_sort(sorted.begin(), sorted.begin() + wanted, sorted.end(), better);
          for (int j = 0; j < wanted; j++) { wrong(8, top[i * kTopMost + j] != sorted[j].token); wrong(9, !why && !close(top_logprobs[i * kTopMost + j], sorted[j].token)); }
        }
      }
      if (c.row.slot >= 0) for (int t = 0; t < n; t++) { const size_t at = (size_t)c.row.slot * n + t; unsigned was = 0; if (t < 500) was = std::count(c.answer.begin(), c.answer.end(), t) | (std::count(c.prompt.begin(), c.prompt.end(), t) ? kInPrompt : 0); wrong(10, before[at] != was); wrong(11, after[at] != before[at] + (e.status == 0 && c.row.given < 0 && t == g.token)); }
      if (why) printf("row %d is wrong (%d): status %d token %d, expected %d %d; temperature %g top_p %g top_k %d min_p %g logprobs %d given %d\n", i, why, g.status, g.token, e.status, e.token, c.row.temperature, c.row.top_p, c.row.top_k, c.row.min_p, c.row.logprobs, c.row.given);
      bad[i] = why != 0;
    });
    int wrong = 0, ties = 0; for (int i = 0; i < rows; i++) { wrong += bad[i]; ties += near[i]; }
    char what[99]; snprintf(what, 99, "%s %d x %d %s, ties within rounding: %d", cluster ? "sample_cluster" : "sample_block", rows, n, f32 ? "f32" : "bf16", ties); report(what, wrong, 0.5);
    for (void* p : b.all) cudaFree(p);
  }
}
