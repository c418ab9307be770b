// Checks sampling against the CPU's rules, and times it.
#include "sampling.cu"
#include "check_sampling.h"

static void time_all(int n, bool f32) {
  struct Kind { const char* name; SampleRow row; int bias; }; const SampleRow plain = {0, 1, 0, 1, 0, 0, 0, -1, 7, 0, 0, 0, 0, -1, -1}; std::vector<Kind> kinds;
  auto add = [&](const char* name, auto change, int bias = 0) { SampleRow r = plain; change(r); kinds.push_back({name, r, bias}); };
  add("greedy", [](SampleRow&) {}); add("temperature", [](SampleRow& r) { r.temperature = 0.8f; }); add("+ top-p 0.9", [](SampleRow& r) { r.temperature = 0.8f; r.top_p = 0.9f; }); add("+ top-k 50, top-p 0.9", [](SampleRow& r) { r.temperature = 0.8f; r.top_k = 50; r.top_p = 0.9f; });
  add("greedy, 20 logprobs", [](SampleRow& r) { r.logprobs = 20; }); add("all of it", [](SampleRow& r) { r.temperature = 0.8f; r.top_k = 50; r.top_p = 0.9f; r.min_p = 0.02f; r.logprobs = 20; r.slot = 0; r.repetition_penalty = 1.1f; r.presence_penalty = r.frequency_penalty = 0.1f; }, 20);
  printf("sampling, %d tokens, %s, us: rows | cluster, block of", n, f32 ? "f32" : "bf16"); for (auto& k : kinds) printf(" | %s", k.name); printf("\n");
  for (int rows : {1, 8, 32, 128, 256}) {
    std::mt19937 r(rows); std::vector<float> some = random_logits(0, n * 2, f32, r); const int copies = rows < 128 ? 3 : 1; std::vector<Batch> batches;
    printf("%4d", rows);
    for (auto& k : kinds) {
      std::vector<Case> cases(rows); for (int i = 0; i < rows; i++) { Case& c = cases[i]; c.row = k.row; c.row.seed = i; c.position = i; if (c.row.slot >= 0) { c.row.slot = i; for (int j = 0; j < 600; j++) c.prompt.push_back(r() % n); } for (int j = 0; j < k.bias; j++) c.bias.push_back({j * 1000, 1.f}); const int from = r() % n; c.logits.assign(some.begin() + from, some.begin() + from + n); }
      for (int i = 0; i < copies; i++) batches.push_back(make_batch(cases, n, n, f32));
      double us[2]; for (bool cluster : {true, false}) us[!cluster] = time_graph([&] { for (int i = 0; i < 2 * copies; i++) sample(batches[i % copies].args, rows, cluster, true); }, 7) / (2 * copies);
      printf(" | %6.1f %6.1f", us[0], us[1]); fflush(stdout);
      for (auto& b : batches) for (void* p : b.all) cudaFree(p); batches.clear();
    }
    printf("\n");
  }
}

int main(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "all"; auto has = [&](const char* s) { return what == "all" || what.find(s) != std::string::npos; };
  cudaDeviceProp p; CK(cudaGetDeviceProperties(&p, 0)); g_sms = p.multiProcessorCount; CK(cudaStreamCreate(&g_stream));
  CK(cudaFuncSetAttribute((const void*)sample_cluster, cudaFuncAttributeMaxDynamicSharedMemorySize, 116000)); CK(cudaFuncSetAttribute((const void*)sample_block, cudaFuncAttributeMaxDynamicSharedMemorySize, 60000));
  printf("shared bytes: cluster %d + %d, block %d\n", Sampler<8, 512>::kSharedBytes, 4 * Sampler<8, 512>::part(152064), Sampler<1, 1024>::kSharedBytes);
  if (has("check")) { check_sampling(1003, 1008, true, 256); check_sampling(5000, 5000, false, 256); check_sampling(7, 8, true, 64); }
  if (has("large")) { check_sampling(152064, 152064, false, 192); check_sampling(151936, 151936, true, 96); }
  if (has("time")) { time_all(152064, false); }
  if (has("f32")) { time_all(152064, true); }
  return g_failed;
}
