// Checks attention and the small kernels; times attention, cuBLASLt, and a whole simulated decode step.
#include "product_rows.cu"
#include "product_wide.cu"
#include "attention.cu"
#include "fused.cu"
#include "dequant.cu"
#include "moves.cu"
#include "check_attention.h"
#include "check_small.h"
#include <map>

struct Kernel { const void* f; int threads, smem, group; };
static std::map<std::string, Kernel> g_k;
static void register_kernels() {
#define PRODUCT(name, W, NT, KPW, WARPS, AHEAD, EPI, BLOCKS) { using P = RowProduct<W, NT, KPW, WARPS, AHEAD, EPI>; g_k[#name] = {(const void*)name, P::kThreads, P::kSharedBytes, 0}; }
#include "product_rows_variants.h"
#undef PRODUCT
#define WIDE(name, W, NT, WGS, AHEAD, STAGES, EPI) { using P = WideProduct<W, NT, WGS, AHEAD, STAGES, EPI>; static_assert(P::kSharedBytes <= 232448, #name); g_k[#name] = {(const void*)name, P::kThreads, P::kSharedBytes, P::kTilesPerGroup}; }
#define FED(name, W, NT, WGS, AHEAD, STAGES, EPI) { using P = FedProduct<W, NT, WGS, AHEAD, STAGES, EPI>; static_assert(P::kSharedBytes <= 232448, #name); g_k[#name] = {(const void*)name, P::kThreads, P::kSharedBytes, P::kTilesPerGroup}; }
#include "product_wide_variants.h"
#undef WIDE
#undef FED
  for (auto& k : g_k) CK(cudaFuncSetAttribute(k.second.f, cudaFuncAttributeMaxDynamicSharedMemorySize, k.second.smem));
}
// The step ends with the largest logit's index, which is what was timed; the server samples (sampling.cu).
struct ArgmaxArgs { const bf16* logits; unsigned long long* best; int rows, n; };  // best[row]: key<<32 | ~index, zeroed before
extern "C" __global__ void __launch_bounds__(256) argmax_rows(const __grid_constant__ ArgmaxArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const int row = blockIdx.y;
  unsigned long long best = 0;
  for (int i = (blockIdx.x * 256 + threadIdx.x) * 8; i < a.n; i += gridDim.x * 256 * 8) {
    float f[8];
    unpack8(load_shared_data16(a.logits + (size_t)row * a.n + i), f);
#pragma unroll
    for (int j = 0; j < 8; j++) {
      const uint32_t b = __float_as_uint(f[j]), key = b & 0x80000000u ? ~b : b | 0x80000000u;
      const unsigned long long c = ((unsigned long long)key << 32) | (uint32_t)~(i + j);
      best = c > best ? c : best;
    }
  }
#pragma unroll
  for (int d = 16; d > 0; d >>= 1) { const unsigned long long o = __shfl_xor_sync(~0u, best, d); best = o > best ? o : best; }
  if ((threadIdx.x & 31) == 0) atomicMax(a.best + row, best);
}
static void check_argmax() {
  const int N = 152064; std::mt19937 r(6); auto x = random_host((size_t)4 * N, 2, r); ArgmaxArgs a = {}; a.logits = (bf16*)upload(x); a.best = dev_alloc<unsigned long long>(4); CK(cudaMemset(a.best, 0, 32)); a.rows = 4; a.n = N; launch((const void*)argmax_rows, dim3(16, 4), 256, 0, a, false); CK(cudaStreamSynchronize(g_stream)); auto y = download(a.best, 4); int bad = 0;
  for (int b = 0; b < 4; b++) { int m = 0; for (int i = 1; i < N; i++) if (bf2f(x[(size_t)b * N + i]) > bf2f(x[(size_t)b * N + m])) m = i; bad += m != (int)~(uint32_t)y[b]; }
  report("argmax_rows", bad, 0.5);
}

// ---- the step -----------------------------------------------------------------------------------
static const int D = 5120, FF = 13824, H = 40, KV = 8, QKV = 7168, LAYERS = 48, VOCAB = 152064;
struct Matrix { void* w; void* s; int n, k; };
enum Fmt { NF4, INT8, BF16 };
static const char* fmt_name[] = {"nf4", "int8", "bf16"};
struct Model { Fmt f; std::vector<Matrix> m; Matrix head; bf16* norm; bf16* bias; };
static Matrix make(Fmt f, int n, int k) {
  size_t e = (size_t)n * k;
  if (f == NF4) return {random_dev<void>(e / 2, ~0u), random_dev<void>(e / 32, 0x03ff03ffu, 0x30003000u), n, k};
  if (f == INT8) { Matrix m{random_dev<void>(e, ~0u), nullptr, n, k}; m.s = random_dev<void>(n * 4, 0x007fffffu, 0x38000000u); return m; }
  return {random_dev<void>(e * 2), nullptr, n, k};
}
static Model make_model(Fmt f) {
  Model m; m.f = f; for (int l = 0; l < LAYERS; l++) { m.m.push_back(make(f, QKV, D)); m.m.push_back(make(f, D, D)); m.m.push_back(make(f, 2 * FF, D)); m.m.push_back(make(f, D, FF)); }
  m.head = make(BF16, VOCAB, D); m.norm = random_dev<bf16>(D * 2, 0x007f007f, 0x3f803f80); m.bias = random_dev<bf16>(QKV * 2); CK(cudaDeviceSynchronize()); return m;
}
static void free_model(Model& m) { for (auto& x : m.m) { cudaFree(x.w); if (x.s) cudaFree(x.s); } cudaFree(m.head.w); cudaFree(m.norm); cudaFree(m.bias); }
struct Buffers { bf16 *hidden, *x, *qkv, *q, *att, *gu, *act, *logits; float* parts; float4* partial; unsigned *arr, *att_arr; float* att_part; float2* cs; int *pos, *slots, *lens, *starts, *tables; bf16 *kc, *vc; unsigned long long* best; int stride; size_t layer_kv; };
static Buffers make_buffers(int B, int ctx) {
  Buffers b; size_t R = std::max(B, 8); b.hidden = random_dev<bf16>(R * D * 2); b.x = random_dev<bf16>(R * D * 2); b.qkv = random_dev<bf16>(R * QKV * 2); b.q = random_dev<bf16>(R * D * 2); b.att = random_dev<bf16>(R * D * 2); b.gu = random_dev<bf16>(R * 2 * FF * 2); b.act = random_dev<bf16>(R * FF * 2); b.logits = random_dev<bf16>(R * VOCAB * 2);
  b.parts = random_dev<float>(R * 8 * QKV * 4); b.partial = dev_alloc<float4>(64 << 20 >> 4); b.arr = dev_alloc<unsigned>(1 << 16); CK(cudaMemset(b.arr, 0, 4 << 16)); b.att_arr = dev_alloc<unsigned>(1 << 14); CK(cudaMemset(b.att_arr, 0, 4 << 14)); b.att_part = dev_alloc<float>((size_t)B * KV * 32 * 8 * 130); b.cs = random_dev<float2>(8192 * 64 * 8, 0x007fffff, 0x3f000000);
  b.stride = (ctx + 15) / 16; int blocks = B * b.stride; std::vector<int> t(blocks), p(B, ctx - 1), s(B), l(B, ctx); for (int i = 0; i < blocks; i++) t[i] = i; std::mt19937 r(1); std::shuffle(t.begin(), t.end(), r); for (int i = 0; i < B; i++) s[i] = t[i * b.stride + (ctx - 1) / 16] * 16 + (ctx - 1) % 16;
  b.tables = upload(t); b.pos = upload(p); b.slots = upload(s); b.lens = upload(l); b.starts = upload(page_starts(l, KV)); b.layer_kv = (size_t)blocks * KV * 2048; b.kc = random_dev<bf16>(b.layer_kv * LAYERS * 2); b.vc = random_dev<bf16>(b.layer_kv * LAYERS * 2); b.best = dev_alloc<unsigned long long>(R); CK(cudaDeviceSynchronize()); return b;
}
static void free_buffers(Buffers& b) { for (void* p : {(void*)b.hidden, (void*)b.x, (void*)b.qkv, (void*)b.q, (void*)b.att, (void*)b.gu, (void*)b.act, (void*)b.logits, (void*)b.parts, (void*)b.partial, (void*)b.arr, (void*)b.att_arr, (void*)b.att_part, (void*)b.cs, (void*)b.tables, (void*)b.pos, (void*)b.slots, (void*)b.lens, (void*)b.starts, (void*)b.kc, (void*)b.vc, (void*)b.best}) cudaFree(p); }
static int attention_splits(int B, int kv, int pages) { return std::max(1, std::min({(3 * g_sms + B * kv - 1) / (B * kv), (pages + 3) / 4, 32})); }
static LtGemm* g_lt; static std::map<std::tuple<int, int, int>, LtGemm::Plan> g_plans;
static void lt(int m, const Matrix& w, const bf16* x, bf16* y) { auto key = std::make_tuple(m, w.n, w.k); auto it = g_plans.find(key); if (it == g_plans.end()) { printf("no plan\n"); exit(1); } g_lt->run(it->second, x, w.w, y); }
static void plan(int m) { for (auto nk : {std::make_pair(QKV, D), {D, D}, {2 * FF, D}, {D, FF}, {VOCAB, D}}) { auto key = std::make_tuple(m, nk.first, nk.second); if (!g_plans.count(key)) g_plans[key] = g_lt->plan(m, nk.first, nk.second); } }

static bool g_silu8 = true, g_spread = true, g_parts = true, g_fed = false;
struct Parts { bool products = true, attention = true, small = true, head = true, pdl = true; };
static void step(const Model& M, const Buffers& b, int B, int ctx, Parts on) {
  const bool rows = B <= 8, library = M.f == BF16 && !rows, wide = !rows && !library;  const std::string f = fmt_name[M.f], ws = std::to_string(B); const bool pdl = on.pdl && B < 128;  // the wide products of 128 rows are faster one after the other
  auto groups = [](const Kernel& k, const Matrix& w) { return (w.n / 16 + k.group - 1) / k.group; };
  // Parts of k whose sums the next kernel adds up: as many as there are blocks for. From 128 rows writing them costs what they save.
  auto splits_of = [&](const std::string& name, const Matrix& w) { if (!wide) return rows && M.f != BF16 ? 2 : 1; return g_parts && B <= 64 ? std::max(1, g_sms / groups(g_k.at(name), w)) : 1; };
  auto product = [&](const std::string& name, const Matrix& w, const bf16* x, bf16* y, int splits, bool wide_out) {
    if (!on.products) return;
    const Kernel& k = g_k.at(name); ProductArgs a = {}; a.weights = w.w; a.scales = w.s; a.x = x; a.y = y; a.partial = b.partial; a.arrivals = b.arr; a.m = B; a.n = w.n; a.k = w.k; a.alpha = 0.02f; a.splits = splits; a.y_f32 = b.parts; a.split_stride = B * w.n;
    a.x_row = wide ? 8 : w.k; a.x_oct = wide ? 8 * B : 8; const int ny = name.find("silu") != std::string::npos ? w.n / 2 : w.n; a.y_row = wide_out ? 8 : ny; a.y_oct = wide_out ? 8 * B : 8; a.y_wide = wide_out;
    launch(k.f, wide && splits > 1 ? groups(k, w) * splits : name.find("k5w8a1") != std::string::npos ? 2 * g_sms : g_sms, k.threads, k.smem, a, pdl);
  };
  auto norm = [&](const bf16* delta, const float* parts, int splits, bf16* out, bool w) { if (!on.small) return; NormArgs a = {}; a.hidden = b.hidden; a.delta = delta; a.parts = parts; a.out = out; a.weight = M.norm; a.n = D; a.splits = splits; a.split_stride = B * D; a.out_row = w ? 8 : D; a.out_oct = w ? 8 * B : 8; a.wide = w; a.eps = 1e-6f; launch((const void*)add_rms_norm, B, D / 8, 0, a, pdl); };
  auto fed = [](const std::string& name) { return g_fed && g_k.count(name + "_fed") ? name + "_fed" : name; };
  const std::string wide_name = f + "_wide" + ws, small = f + (M.f == BF16 ? "_m8_k5w16a1" : "_m8_k5w8a1"), qname = rows ? small : fed(wide_name), oname = qname, dname = !rows ? oname : M.f == BF16 ? "bf16_m8_k5w16a1" : f + (M.f == NF4 ? "_m8_k9w12a2" : "_m8_k9w12a1");
  const int qs = splits_of(qname, M.m[0]), os = splits_of(oname, M.m[1]), ds = splits_of(dname, M.m[3]);
  if (on.head) CK(cudaMemsetAsync(b.best, 0, B * 8, g_stream));
  norm(nullptr, nullptr, 1, b.x, wide);
  for (int l = 0; l < LAYERS; l++) {
    const Matrix* m = &M.m[l * 4];
    if (l) norm(ds > 1 ? nullptr : b.att, ds > 1 ? b.parts : nullptr, ds, b.x, wide);
    if (!library) product(qname, m[0], b.x, b.qkv, qs, false); else if (on.products) lt(B, m[0], b.x, b.qkv);
    if (on.small) { RopeArgs a = {}; a.qkv = b.qkv; a.parts = qs > 1 ? b.parts : nullptr; a.bias = M.bias; a.cos_sin = b.cs; a.angle_rows = b.pos; a.head_dim = 128; a.slots = b.slots; a.q = b.q; a.k_cache = b.kc + l * b.layer_kv; a.v_cache = b.vc + l * b.layer_kv; a.heads = H; a.kv_heads = KV; a.splits = qs; a.split_stride = B * QKV; launch((const void*)rope_kv, dim3(14, B), 128, 0, a, pdl); }
    if (on.attention) { AttentionArgs a = {}; a.q = b.q; a.k_cache = b.kc + l * b.layer_kv; a.v_cache = b.vc + l * b.layer_kv; a.tables = b.tables; a.lengths = b.lens; a.starts = b.starts; a.out = b.att; a.partial = b.att_part; a.arrivals = b.att_arr; a.heads = H; a.kv_heads = KV; a.table_stride = b.stride; a.splits = attention_splits(B, KV, b.stride); a.wide = wide; a.out_row = wide ? 8 : D; a.out_oct = wide ? 8 * B : 8; a.scale = 1.4426950408889634f / std::sqrt(128.f); int warps = B <= 16 ? 12 : B <= 64 ? 6 : 4; if (B <= 2) a.splits = std::min(8, (b.stride + 3) / 4); else if (ctx <= 1024 || B >= 32) a.splits = 1; if (g_spread && B >= 64) { warps = 0; a.splits = 2 * g_sms; } run_attention(a, B, KV, warps, pdl); }
    if (!library) product(oname, m[1], b.att, b.qkv, os, false); else if (on.products) lt(B, m[1], b.att, b.qkv);
    norm(os > 1 ? nullptr : b.qkv, os > 1 ? b.parts : nullptr, os, b.x, wide);
    if (rows) product(M.f == NF4 && g_silu8 ? "nf4_m8_silu_k5w8a1" : f + "_m8_silu", m[2], b.x, b.act, 1, false);
    else if (library) { if (on.products) lt(B, m[2], b.x, b.gu); if (on.small) { SiluArgs a = {}; a.gate_up = b.gu; a.out = b.act; a.rows = B; a.n = FF; a.out_row = FF; a.out_oct = 8; launch((const void*)silu_mul, (int)(((size_t)B * FF / 8 + 255) / 256), 256, 0, a, pdl); } }
    else product(wide_name + (g_fed && B >= 128 ? "_fed_silu" : "_silu"), m[2], b.x, b.act, 1, true);
    if (!library) product(dname, m[3], b.act, b.att, ds, false); else if (on.products) lt(B, m[3], b.act, b.att);
  }
  norm(ds > 1 ? nullptr : b.att, ds > 1 ? b.parts : nullptr, ds, b.x, false);
  if (on.head) {
    if (rows) { const bool keep = on.products; on.products = true; product("bf16_m8_k5w16a1", M.head, b.x, b.logits, 1, false); on.products = keep; } else lt(B, M.head, b.x, b.logits);
    ArgmaxArgs a = {}; a.logits = b.logits; a.best = b.best; a.rows = B; a.n = VOCAB; launch((const void*)argmax_rows, dim3(B >= 32 ? 4 : 19, B), 256, 0, a, pdl);
  }
}

int main(int argc, char** argv) {
  std::string what = argc > 1 ? argv[1] : "all"; auto has = [&](const char* s) { return what == "all" || what.find(s) != std::string::npos; };
  cudaDeviceProp p; CK(cudaGetDeviceProperties(&p, 0)); g_sms = p.multiProcessorCount; CK(cudaStreamCreate(&g_stream)); register_kernels(); CK(cudaFuncSetAttribute((const void*)decode_attention_12, cudaFuncAttributeMaxDynamicSharedMemorySize, 12 * 4160)); g_lt = new LtGemm;
  g_part = dev_alloc<float>((size_t)64 << 20); g_arr = dev_alloc<unsigned>(1 << 16); CK(cudaMemset(g_arr, 0, 4 << 16));
  if (has("check")) {
    check_attention(); check_groups(); check_padding();
    check_small(); check_argmax();
  }
  if (has("attention")) {
    printf("attention (with combine, dependent launch), us and share of 4.33 TB/s: batch x context (0: mixed, 100 to 4000)\n");
    for (int ctx : {512, 4096, 0}) for (int B : {1, 8, 32, 128, 256}) {
      std::mt19937 r(1); std::vector<int> l(B, ctx); if (!ctx) for (auto& x : l) x = 100 + r() % 3900; double bytes = 0; int longest = 0; for (int x : l) { bytes += x * 4096.0; longest = std::max(longest, x); }
      const int stride = (longest + 15) / 16, L = std::max<int>(2, std::min<size_t>(48, (size_t)(((size_t)400 << 20) / bytes) + 1)); const size_t layer = (size_t)B * stride * KV * 2048; bf16 *kc = random_dev<bf16>(layer * L * 2), *vc = random_dev<bf16>(layer * L * 2), *q = random_dev<bf16>((size_t)B * D * 2), *out = random_dev<bf16>((size_t)B * D * 2);
      std::vector<int> t(B * stride); for (size_t i = 0; i < t.size(); i++) t[i] = i; std::shuffle(t.begin(), t.end(), r); int *td = upload(t), *ld = upload(l), *sd = upload(page_starts(l, KV)); double best = 1e30, spread = 0; int bs = 0; std::string all;
      for (int warps : {0, 4, 6, 12}) for (int mult : {0, 1, 2, 3}) { if (!warps && mult) continue; const int s = !warps ? 2 * g_sms : mult == 0 ? 1 : std::max(1, std::min({(mult * g_sms + B * KV - 1) / (B * KV), (stride + 3) / 4, 32}));
        const double us = time_graph([&] { for (int i = 0; i < 2 * L; i++) { AttentionArgs a = {}; a.q = q; a.k_cache = kc + layer * (i % L); a.v_cache = vc + layer * (i % L); a.tables = td; a.lengths = ld; a.starts = sd; a.out = out; a.partial = g_part; a.arrivals = g_arr; a.heads = H; a.kv_heads = KV; a.table_stride = stride; a.splits = s; a.out_row = D; a.out_oct = 8; a.scale = 0.1f; run_attention(a, B, KV, warps, true); } }, 5) / (2 * L);
        if (!warps) { spread = us; continue; } if (us < best) best = us, bs = s * 100 + warps; char tmp[40]; snprintf(tmp, 40, " s%dw%d:%.1f", s, warps, us); all += tmp; }
      auto share = [&](double us) { return 100 * bytes / us / 4.33e6; };
      printf("%4d x %-5d spread %7.1f us (%3.0f%%), best split %7.1f us (%3.0f%%) [%s ]\n", B, ctx, spread, share(spread), best, share(best), all.c_str()); fflush(stdout); for (void* x : {(void*)kc, (void*)vc, (void*)q, (void*)out, (void*)td, (void*)ld, (void*)sd}) cudaFree(x);
    }
  }
  if (has("lt")) {
    printf("cuBLASLt bf16, best of 6 heuristics, us: m | qkv, o, gateup, down | sum x48 ms | head\n");
    for (int m : {1, 8, 16, 32, 64, 128, 256, 2048, 16384}) { plan(m); double sum = 0; printf("%5d |", m);
      for (auto nk : {std::make_pair(QKV, D), {D, D}, {2 * FF, D}, {D, FF}, {VOCAB, D}}) { if (nk.first == VOCAB && m > 256) continue; size_t wb = (size_t)nk.first * nk.second * 2; int c = std::max<size_t>(2, ((size_t)300 << 20) / wb); char* w = random_dev<char>(wb * c); bf16 *x = random_dev<bf16>((size_t)m * nk.second * 2), *y = random_dev<bf16>((size_t)m * nk.first * 2); CK(cudaDeviceSynchronize()); int n = m >= 2048 ? 2 : 2 * c;
        double us = time_graph([&] { for (int i = 0; i < n; i++) g_lt->run(g_plans[std::make_tuple(m, nk.first, nk.second)], x, w + wb * (i % c), y); }, 5) / n; printf(" %8.1f", us); if (nk.first != VOCAB) sum += us; if (nk.second == FF) printf(" | %.2f ms |", sum * .048); cudaFree(w); cudaFree(x); cudaFree(y); }
      printf("\n"); fflush(stdout); }
    DequantArgs a = {}; double sum = 0; printf("dequant nf4 to bf16, us (TB/s read + written):"); bf16* o = random_dev<bf16>((size_t)2 * FF * D * 2);
    for (auto nk : {std::make_pair(QKV, D), {D, D}, {2 * FF, D}, {D, FF}}) { size_t e = (size_t)nk.first * nk.second; int c = ((size_t)200 << 20) / (e / 2) + 1; char* w = random_dev<char>(e / 2 * c, ~0u); uint32_t* s = random_dev<uint32_t>(e / 32, 0x03ff03ffu, 0x30003000u); a.scales = s; a.out = o; a.n = nk.first; a.k = nk.second; a.factor = 1; double us = time_graph([&] { for (int i = 0; i < c; i++) { a.codes = (uint4*)(w + e / 2 * i); launch((const void*)dequant_nf4, g_sms * 8, 256, 0, a, false); } }, 5) / c; printf(" %.1f (%.2f)", us, e * 2.53 / us / 1e6); sum += us; cudaFree(w); cudaFree(s); } printf(" | x48 %.2f ms\n", sum * .048);
  }
  if (has("step")) {
    printf("decode step, 48 layers, context 600, head and argmax included, one CUDA graph, ms: total | without dependent launch | products only, attention only, small only, head only\n");
    for (Fmt f : {NF4, INT8, BF16}) { if (what.find("onlynf4") != std::string::npos && f != NF4) continue; Model M = make_model(f);
      for (int B : {1, 2, 4, 8, 16, 32, 64, 128, 256}) { if (what.find("256") != std::string::npos && B < 128) continue; plan(B); Buffers b = make_buffers(B, 600); auto t = [&](Parts on) { return time_graph([&] { step(M, b, B, 600, on); }, 9) / 1e3; };
        Parts all, nopdl, pr, at, sm, he; nopdl.pdl = false; pr.attention = pr.small = pr.head = false; at.products = at.small = at.head = false; sm.products = sm.attention = sm.head = false; he.products = he.attention = he.small = false;
        printf("%-5s B=%-4d %6.2f | %6.2f | %6.2f %6.2f %6.2f %6.2f\n", fmt_name[f], B, t(all), t(nopdl), t(pr), t(at), t(sm), t(he)); fflush(stdout); if (f == NF4 && B <= 8) { g_silu8 = false; printf("      ... other variants of products: %.2f\n", t(all)); g_silu8 = true; }
        if (f != BF16 && B >= 128) { g_fed = true; printf("      ... all products fed: %.2f, products only %.2f\n", t(all), t(pr)); g_fed = false; }
        if (B >= 16 && B <= 64 && f != BF16) { g_parts = false; printf("      ... products with fix-up, not parts: %.2f, products only %.2f\n", t(all), t(pr)); g_parts = true; }
        if (B >= 64) { g_spread = false; printf("      ... attention not spread: %.2f, attention only %.2f\n", t(all), t(at)); g_spread = true; }
        free_buffers(b); }
      free_model(M); }
  }
}
