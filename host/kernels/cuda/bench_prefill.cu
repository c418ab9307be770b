// Checks and times prefill attention; times the prefill of a whole 14B model with cuBLASLt's products.
#include <cudaTypedefs.h>
#include <cstddef>
#include "dequant.cu"
#include "fused.cu"
#include "prefill.cu"
#include "harness.h"

struct Shape { int heads, kv_heads, dim; };
struct Kernel { const char* name; const void* f; int threads, smem, dim; bool persistent; };
static const Kernel kKernels[] = {
    {"wgmma", (const void*)prefill_wgmma, PrefillWgmma<128>::kThreads, PrefillWgmma<128>::kSharedBytes, 128, true},
    {"wgmma", (const void*)prefill_wgmma_64, PrefillWgmma<64>::kThreads, PrefillWgmma<64>::kSharedBytes, 64, true},
    {"mma", (const void*)prefill_mma, PrefillMma<128>::kThreads, PrefillMma<128>::kSharedBytes, 128, false},
    {"mma", (const void*)prefill_mma_64, PrefillMma<64>::kThreads, PrefillMma<64>::kSharedBytes, 64, false},
};
static const Kernel& kernel(const std::string& name, int dim) {
  for (auto& k : kKernels) if (k.name == name && k.dim == dim) return k;
  exit(1);
}

// The map of a pool of `groups` x [8 tokens][dim], as PrefillWgmma wants it.
static void encode_map(unsigned char* map, const void* pool, size_t groups, int dim) {
  static PFN_cuTensorMapEncodeTiled_v12000 encode = [] {
    void* p = nullptr; cudaDriverEntryPointQueryResult found;
    CK(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &p, 12000, cudaEnableDefault, &found));
    return (PFN_cuTensorMapEncodeTiled_v12000)p;
  }();
  const cuuint64_t halves = dim / 64, sizes[4] = {64, 8, halves, groups}, strides[3] = {dim * 2ull, 128, dim * 16ull};
  const cuuint32_t box[4] = {64, 8, (cuuint32_t)halves, 2}, steps[4] = {1, 1, 1, 1};
  alignas(64) CUtensorMap m;
  CUresult e = encode(&m, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 4, (void*)pool, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                      CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (e != CUDA_SUCCESS) { printf("tensor map: error %d\n", (int)e); exit(1); }
  memcpy(map, &m, sizeof m);
}
static void run(const Kernel& k, const PrefillArgs& a) {
  const int items = a.tile_count * a.heads;
  launch(k.f, k.persistent ? std::min(items, g_sms) : items, k.threads, k.smem, a, false);
}

// Everything but queries, output and caches.
struct Work { std::vector<PrefillSequence> sequences; std::vector<PrefillTile> tiles; int stride, blocks; std::vector<int> tables; };
static Work make_work(const std::vector<std::pair<int, int>>& start_count, int gap, std::mt19937& r) {
  Work w; int row = 0; w.stride = 0;
  for (auto& [start, count] : start_count) { w.sequences.push_back({row, start, count, 0}); row += count + gap; w.stride = std::max(w.stride, (start + count + 15) / 16); }
  w.tiles = prefill_tiles(w.sequences);
  w.blocks = w.stride * w.sequences.size() + 3;
  std::vector<int> ids(w.blocks); for (int i = 0; i < w.blocks; i++) ids[i] = i;
  std::shuffle(ids.begin(), ids.end(), r);
  w.tables.assign(w.stride * w.sequences.size(), 0x7fffffff);  // what is not needed is not read
  for (size_t s = 0; s < w.sequences.size(); s++)
    for (int p = 0; p < (w.sequences[s].start + w.sequences[s].count + 15) / 16; p++) w.tables[s * w.stride + p] = ids[s * w.stride + p];
  return w;
}
static PrefillArgs make_args(const Work& w, Shape shape) {
  PrefillArgs a = {}; a.tables = upload(w.tables); a.sequences = (int4*)upload(w.sequences); a.tiles = (int2*)upload(w.tiles);
  a.heads = shape.heads; a.kv_heads = shape.kv_heads; a.table_stride = w.stride; a.tile_count = w.tiles.size(); a.scale = 1.4426950408889634f / std::sqrt((float)shape.dim);
  return a;
}
static void set_pool(PrefillArgs& a, const void* k, const void* v, size_t layer_blocks, int layer, int layers, int dim) {
  const size_t groups = layer_blocks * a.kv_heads * 2, element = groups * layer * 8 * dim;
  encode_map(a.k_map, k, groups * layers, dim); encode_map(a.v_map, v, groups * layers, dim);
  a.k_cache = (const bf16*)k + element; a.v_cache = (const bf16*)v + element; a.first_group = groups * layer;
}

static void check(Shape shape, const std::vector<std::pair<int, int>>& start_count, bool scaled) {
  std::mt19937 r(shape.heads * 131 + shape.dim + start_count.size()); const int gap = 3, dim = shape.dim, group = shape.heads / shape.kv_heads;
  const Work w = make_work(start_count, gap, r); const auto& last = w.sequences.back(); const size_t rows = last.first_row + last.count + gap, width = (size_t)shape.heads * dim;
  const size_t layer = (size_t)w.blocks * shape.kv_heads * 16 * dim;
  // Two layers, the second one is used. NaN wherever no token is.
  std::vector<uint16_t> k(2 * layer, 0x7fc0), v(k), q = random_host(rows * width, 1, r); std::normal_distribution<float> nd;
  auto at = [&](int s, int t, int h) { return layer + (((size_t)w.tables[s * w.stride + t / 16] * shape.kv_heads + h) * 16 + t % 16) * dim; };
  for (int s = 0; s < (int)w.sequences.size(); s++) for (int t = 0; t < w.sequences[s].start + w.sequences[s].count; t++) for (int h = 0; h < shape.kv_heads; h++) for (int d = 0; d < dim; d++) { k[at(s, t, h) + d] = f2bf(nd(r)); v[at(s, t, h) + d] = f2bf(nd(r)); }
  std::vector<float> factors(w.stride * 16); for (auto& f : factors) f = 0.5f + (r() % 1000) / 1000.f;
  PrefillArgs a = make_args(w, shape); uint16_t *kd = upload(k), *vd = upload(v); a.q = (bf16*)upload(q); a.query_scale = scaled ? upload(factors) : nullptr; set_pool(a, kd, vd, w.blocks, 1, 2, dim);
  std::vector<double> ref(rows * width, NAN);
  parallel_for(rows * shape.heads, [&](int i) {
    const int row = i / shape.heads, h = i % shape.heads; int s = 0; while (s + 1 < (int)w.sequences.size() && w.sequences[s + 1].first_row <= row) s++;
    const auto& q_s = w.sequences[s]; const int j = row - q_s.first_row, position = q_s.start + j; if (j >= q_s.count) return;
    std::vector<double> p(position + 1); double m = -1e300, z = 0; const size_t to = (size_t)row * width + h * dim; std::vector<double> o(dim);
    for (int t = 0; t <= position; t++) { double x = 0; const uint16_t* kt = &k[at(s, t, h / group)]; for (int d = 0; d < dim; d++) x += (double)bf2f(q[to + d]) * bf2f(kt[d]); p[t] = x / std::sqrt((double)dim) * (scaled ? factors[position] : 1); m = std::max(m, p[t]); }
    for (auto& x : p) { x = std::exp(x - m); z += x; }
    for (int t = 0; t <= position; t++) { const uint16_t* vt = &v[at(s, t, h / group)]; for (int d = 0; d < dim; d++) o[d] += p[t] * bf2f(vt[d]); }
    for (int d = 0; d < dim; d++) ref[to + d] = o[d] / z;
  });
  uint16_t* out = dev_alloc<uint16_t>(rows * width); a.out = (bf16*)out;
  for (auto name : {"wgmma", "mma"}) {
    std::vector<uint16_t> y[2]; double n = 0, d = 0, worst = 0; int bad = 0;
    for (auto& got : y) { CK(cudaMemset(out, 0xff, rows * width * 2)); run(kernel(name, dim), a); CK(cudaStreamSynchronize(g_stream)); CK(cudaGetLastError()); got = download(out, rows * width); }
    for (size_t i = 0; i < ref.size(); i++) {
      if (std::isnan(ref[i])) { bad += y[0][i] != 0xffff; continue; }  // rows between the sequences stay as they were
      const double e = bf2f(y[0][i]) - ref[i]; n += e * e; d += ref[i] * ref[i]; if (!(std::fabs(e) <= worst)) worst = std::fabs(e); bad += y[0][i] != y[1][i];
    }
    char what[99]; snprintf(what, 99, "prefill %s %d/%d x %d, %zu sequences%s", name, shape.heads, shape.kv_heads, dim, start_count.size(), scaled ? ", scaled" : "");
    report(what, std::sqrt(n / d) + (worst > 0.05 ? worst : 0) + bad, 5e-3);
  }
  for (const void* p : {(const void*)a.tables, (const void*)a.sequences, (const void*)a.tiles, (const void*)kd, (const void*)vd, (const void*)a.q, (const void*)a.query_scale, (const void*)out}) cudaFree((void*)p);
}

static double flops(const Work& w, Shape shape) {
  double pairs = 0; for (auto& s : w.sequences) pairs += (double)s.count * s.start + 0.5 * s.count * (s.count + 1.0);
  return 4 * pairs * shape.dim * shape.heads;
}
static void time_one(Shape shape, int count, int start, int length, bool mma) {
  std::mt19937 r(1); const Work w = make_work(std::vector<std::pair<int, int>>(count, {start, length}), 0, r); PrefillArgs a = make_args(w, shape);
  const size_t width = (size_t)shape.heads * shape.dim, rows = (size_t)count * length, layer_bytes = (size_t)w.blocks * shape.kv_heads * 32 * shape.dim;
  const int layers = std::max<size_t>(2, std::min<size_t>(16, (200 << 20) / layer_bytes + 1));
  void *k = random_dev<void>(layer_bytes * layers), *v = random_dev<void>(layer_bytes * layers); a.q = random_dev<bf16>(rows * width * 2); a.out = random_dev<bf16>(rows * width * 2); CK(cudaStreamSynchronize(g_stream));
  printf("%3d x %-5d after %-5d %2d/%-2d x %-3d", count, length, start, shape.heads, shape.kv_heads, shape.dim);
  for (auto name : {"wgmma", "mma"}) {
    if (name[0] == 'm' && !mma) continue;
    std::vector<PrefillArgs> at(layers, a); for (int l = 0; l < layers; l++) set_pool(at[l], k, v, w.blocks, l, layers, shape.dim);
    const double us = time_graph([&] { for (auto& x : at) run(kernel(name, shape.dim), x); }, 5) / layers, rate = flops(w, shape) / us / 1e6;
    printf(" | %s %8.1f us %6.0f TFLOP/s (%2.0f %%)", name, us, rate, rate / 7.64);
  }
  printf("\n"); fflush(stdout);
  for (const void* p : {(const void*)a.tables, (const void*)a.sequences, (const void*)a.tiles, (const void*)k, (const void*)v, (const void*)a.q, (const void*)a.out}) cudaFree((void*)p);
}

// ---- the prefill of a whole model -----------------------------------------------------------------
static const int D = 5120, FF = 13824, H = 40, KV = 8, QKV = 7168, LAYERS = 48, VOCAB = 152064;
struct Weights { bf16* w; uint4* codes; uint32_t* scales; int n, k; LtGemm::Plan plan; };
static void time_model(int count, int length, bool nf4) {
  std::mt19937 r(1); const int T = count * length; const Shape shape{H, KV, 128}; const Work w = make_work(std::vector<std::pair<int, int>>(count, {0, length}), 0, r);
  static LtGemm lt; std::vector<Weights> layer; const std::pair<int, int> shapes[] = {{QKV, D}, {D, D}, {2 * FF, D}, {D, FF}}; LtGemm::Plan plans[4]; for (int i = 0; i < 4; i++) plans[i] = lt.plan(T, shapes[i].first, shapes[i].second);
  bf16* scratch = nf4 ? random_dev<bf16>((size_t)2 * FF * D * 2) : nullptr;
  for (int l = 0; l < LAYERS; l++) for (int i = 0; i < 4; i++) { const size_t e = (size_t)shapes[i].first * shapes[i].second; layer.push_back({nf4 ? scratch : random_dev<bf16>(e * 2), nf4 ? random_dev<uint4>(e / 2, ~0u) : nullptr, nf4 ? random_dev<uint32_t>(e / 32, 0x03ff03ffu, 0x30003000u) : nullptr, shapes[i].first, shapes[i].second, plans[i]}); }
  const LtGemm::Plan head_plan = lt.plan(count, VOCAB, D); bf16 *head = random_dev<bf16>((size_t)VOCAB * D * 2), *logits = random_dev<bf16>((size_t)count * VOCAB * 2);
  auto act = [&](size_t n) { return random_dev<bf16>((size_t)T * n * 2); };
  bf16 *hidden = act(D), *x = act(D), *qkv = act(QKV), *q = act(D), *att = act(D), *gu = act(2 * FF), *silu = act(FF), *norm = random_dev<bf16>(D * 2, 0x007f007f, 0x3f803f80), *bias = random_dev<bf16>(QKV * 2); float2* cs = random_dev<float2>(8192 * 64 * 8, 0x007fffff, 0x3f000000);
  std::vector<int> pos(T), slot(T); for (int i = 0; i < T; i++) { pos[i] = i % length; slot[i] = w.tables[i / length * w.stride + pos[i] / 16] * 16 + pos[i] % 16; } int *pd = upload(pos), *sd = upload(slot);
  const size_t layer_kv = (size_t)w.blocks * KV * 2048; bf16 *kc = random_dev<bf16>(layer_kv * LAYERS * 2), *vc = random_dev<bf16>(layer_kv * LAYERS * 2);
  PrefillArgs base = make_args(w, shape); base.q = q; base.out = att; CK(cudaStreamSynchronize(g_stream));
  struct On { bool products = true, attention = true, small = true; };
  auto forward = [&](On on) {
    auto product = [&](const Weights& m, const bf16* in, bf16* out) { if (!on.products) return; if (nf4) { DequantArgs a = {m.codes, m.scales, m.w, m.n, m.k, 0.02f}; launch((const void*)dequant_nf4, g_sms * 8, 256, 0, a, false); } lt.run(m.plan, in, m.w, out); };
    auto add_norm = [&](const bf16* delta) { if (!on.small) return; NormArgs a = {}; a.hidden = hidden; a.delta = delta; a.weight = norm; a.out = x; a.n = D; a.out_row = D; a.out_oct = 8; a.eps = 1e-6f; launch((const void*)add_rms_norm, T, D / 8, 0, a, false); };
    for (int l = 0; l < LAYERS; l++) { const Weights* m = &layer[l * 4];
      add_norm(l ? att : nullptr); product(m[0], x, qkv);
      if (on.small) { RopeArgs a = {}; a.qkv = qkv; a.bias = bias; a.cos_sin = cs; a.angle_rows = pd; a.head_dim = 128; a.slots = sd; a.q = q; a.k_cache = kc + l * layer_kv; a.v_cache = vc + l * layer_kv; a.heads = H; a.kv_heads = KV; launch((const void*)rope_kv, dim3(14, T), 128, 0, a, false); }
      if (on.attention) { PrefillArgs a = base; set_pool(a, kc, vc, w.blocks, l, LAYERS, 128); run(kernel("wgmma", 128), a); }
      product(m[1], att, qkv); add_norm(qkv); product(m[2], x, gu);
      if (on.small) { SiluArgs a = {}; a.gate_up = gu; a.out = silu; a.rows = T; a.n = FF; a.out_row = FF; a.out_oct = 8; launch((const void*)silu_mul, (int)(((size_t)T * FF / 8 + 255) / 256), 256, 0, a, false); }
      product(m[3], silu, att); }
    add_norm(att); if (on.products) lt.run(head_plan, x, head, logits);  // of one row a sequence
  };
  auto t = [&](On on) { return time_graph([&] { forward(on); }, 3) / 1e3; };
  On all, products, attention, small; products.attention = products.small = attention.products = attention.small = small.products = small.attention = false;
  const double ms = t(all);
  printf("%s %d x %d: %.1f ms, %.1f k tokens/s | products %.1f%s, attention %.1f, small kernels %.1f\n", nf4 ? "nf4 " : "bf16", count, length, ms, T / ms, t(products), nf4 ? " (dequantising included)" : "", t(attention), t(small)); fflush(stdout);
  for (auto& m : layer) { if (nf4) { cudaFree(m.codes); cudaFree(m.scales); } else cudaFree(m.w); }
  for (const void* p : {(const void*)scratch, (const void*)head, (const void*)logits, (const void*)hidden, (const void*)x, (const void*)qkv, (const void*)q, (const void*)att, (const void*)gu, (const void*)silu, (const void*)norm, (const void*)bias, (const void*)cs, (const void*)pd, (const void*)sd, (const void*)kc, (const void*)vc, (const void*)base.tables, (const void*)base.sequences, (const void*)base.tiles}) cudaFree((void*)p);
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all"; auto has = [&](const char* s) { return what == "all" || what.find(s) != std::string::npos; };
  cudaDeviceProp p; CK(cudaGetDeviceProperties(&p, 0)); g_sms = p.multiProcessorCount; CK(cudaStreamCreate(&g_stream));
  for (auto& k : kKernels) CK(cudaFuncSetAttribute(k.f, cudaFuncAttributeMaxDynamicSharedMemorySize, k.smem));
  const Shape gqa{40, 8, 128}, mha{40, 40, 128}, narrow{14, 2, 64};
  if (has("check")) {
    const std::vector<std::pair<int, int>> mixed = {{0, 300}, {37, 129}, {600, 1}, {0, 1}, {1000, 513}, {128, 128}, {0, 128}, {16, 16}};
    check({10, 2, 128}, mixed, false); check({10, 2, 128}, mixed, true); check({4, 4, 128}, mixed, false);
    check({14, 2, 64}, mixed, false); check({4, 4, 64}, {{5, 1000}}, true); check(gqa, {{0, 640}, {777, 200}}, false);
  }
  if (has("time")) {
    printf("prefill attention: sequences x new tokens after context, share of 764 TFLOP/s\n");
    time_one(gqa, 8, 0, 2048, true); time_one(gqa, 1, 0, 2048, true); time_one(gqa, 1, 0, 8192, false);
    for (int start : {0, 2048, 8192}) { time_one(gqa, 16, start, 512, start == 2048); time_one(gqa, 1, start, 512, false); }
    time_one(mha, 8, 0, 2048, false); time_one(narrow, 8, 0, 2048, true);
  }
  if (has("model")) { for (bool nf4 : {false, true}) { time_model(8, 2048, nf4); time_model(1, 2048, nf4); } }
  return g_failed;
}
