// What checks and timings share: memory of the card, random numbers, launches, a library's products.
#pragma once
#ifndef ON_CPU
#include <cublasLt.h>
#include <cuda_runtime.h>
#endif
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <thread>
#include <vector>
#include "host_layout.h"
#define CK(e) do { cudaError_t _e = (e); if (_e != cudaSuccess) { printf("CUDA error %s at %s:%d\n", cudaGetErrorString(_e), __FILE__, __LINE__); exit(1); } } while (0)

static int g_sms; static cudaStream_t g_stream; static double g_read_bw = 4.33e12;

template <class T> T* dev_alloc(size_t n) { T* p; CK(cudaMalloc(&p, n * sizeof(T))); return p; }
template <class T> T* upload(const std::vector<T>& v) { T* p = dev_alloc<T>(v.size()); CK(cudaMemcpy(p, v.data(), v.size() * sizeof(T), cudaMemcpyHostToDevice)); return p; }
template <class T> std::vector<T> download(const T* p, size_t n) { std::vector<T> v(n); CK(cudaMemcpy(v.data(), p, n * sizeof(T), cudaMemcpyDeviceToHost)); return v; }

inline float bf2f(uint16_t b) { uint32_t u = (uint32_t)b << 16; float f; memcpy(&f, &u, 4); return f; }
inline uint16_t f2bf(float f) { uint32_t u; memcpy(&u, &f, 4); u += 0x7fff + ((u >> 16) & 1); return u >> 16; }
inline uint16_t f2h(float f) { __half h = __float2half(f); uint16_t b; memcpy(&b, &h, 2); return b; }

inline std::vector<uint16_t> random_host(size_t n, float sd, std::mt19937& r) {
  std::normal_distribution<float> d(0, sd); std::vector<uint16_t> v(n);
  for (auto& e : v) e = f2bf(d(r));
  return v;
}
inline double rel(const std::vector<double>& ref, const std::function<double(size_t)>& got) {
  double n = 0, d = 0;
  for (size_t i = 0; i < ref.size(); i++) { double g = got(i); n += (g - ref[i]) * (g - ref[i]); d += ref[i] * ref[i]; }
  return std::sqrt(n / d);
}
static bool g_failed = false;
inline void report(const char* what, double err, double limit) {
  const bool good = err < limit;
  g_failed |= !good;
  printf("%s %-44s err %.2e\n", good ? "ok  " : "FAIL", what, err); fflush(stdout);
}

inline void parallel_for(int n, const std::function<void(int)>& f) {
  int nt = std::max(1u, std::thread::hardware_concurrency()); std::vector<std::thread> th;
  for (int i = 0; i < nt; i++) th.emplace_back([=, &f] { for (int j = i; j < n; j += nt) f(j); });
  for (auto& t : th) t.join();
}

#ifndef ON_CPU
// Kernel launch with or without programmatic dependent launch.
template <class A> void launch(const void* f, dim3 grid, int threads, int smem, const A& args, bool pdl, cudaStream_t s = nullptr) {
  cudaLaunchConfig_t c = {}; c.gridDim = grid; c.blockDim = dim3(threads); c.dynamicSmemBytes = smem; c.stream = s ? s : g_stream;
  cudaLaunchAttribute at[1]; at[0].id = cudaLaunchAttributeProgrammaticStreamSerialization; at[0].val.programmaticStreamSerializationAllowed = 1;
  c.attrs = at; c.numAttrs = pdl ? 1 : 0;
  void* p[] = {(void*)&args};
  CK(cudaLaunchKernelExC(&c, f, p));
}
// Median time in microseconds of one graph replay.
inline double time_graph(const std::function<void()>& record, int replays = 7) {
  cudaGraph_t g; cudaGraphExec_t e;
  CK(cudaStreamBeginCapture(g_stream, cudaStreamCaptureModeThreadLocal)); record(); CK(cudaStreamEndCapture(g_stream, &g));
  CK(cudaGraphInstantiate(&e, g, 0));
  cudaEvent_t a, b; CK(cudaEventCreate(&a)); CK(cudaEventCreate(&b));
  std::vector<float> t;
  for (int i = 0; i < replays + 2; i++) {
    CK(cudaEventRecord(a, g_stream)); CK(cudaGraphLaunch(e, g_stream)); CK(cudaEventRecord(b, g_stream)); CK(cudaStreamSynchronize(g_stream));
    float ms; CK(cudaEventElapsedTime(&ms, a, b)); if (i >= 2) t.push_back(ms * 1e3f);
  }
  CK(cudaGetLastError());
  CK(cudaGraphExecDestroy(e)); CK(cudaGraphDestroy(g)); CK(cudaEventDestroy(a)); CK(cudaEventDestroy(b));
  std::sort(t.begin(), t.end()); return t[t.size() / 2];
}
// Random bits, or with the default mask random bf16 numbers below 2.
static __global__ void fill_random(uint32_t* p, size_t n, uint32_t seed, uint32_t mask, uint32_t add) {
  for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
    uint32_t h = (uint32_t)i * 0x9E3779B1u ^ seed ^ (uint32_t)(i >> 32) * 0x85EBCA77u;
    h ^= h >> 16; h *= 0x7feb352du; h ^= h >> 15; h *= 0x846ca68bu; h ^= h >> 16;
    p[i] = (h & mask) + add;
  }
}
static uint32_t g_seed = 1;
template <class T> T* random_dev(size_t bytes, uint32_t mask = 0xbfffbfffu, uint32_t add = 0) {
  uint32_t* p = dev_alloc<uint32_t>((bytes + 3) / 4);
  fill_random<<<2048, 256, 0, g_stream>>>(p, (bytes + 3) / 4, g_seed++ * 77u, mask, add);
  return (T*)p;
}
#define CB(e) do { cublasStatus_t _e = (e); if (_e != CUBLAS_STATUS_SUCCESS) { printf("cublas error %d at %s:%d\n", (int)_e, __FILE__, __LINE__); exit(1); } } while (0)
// y[m][n] row-major bf16 = x[m][k] W[n][k]^T by cuBLASLt; picks the fastest of its first heuristics.
struct LtGemm {
  cublasLtHandle_t lt; void* ws; size_t ws_bytes = 64 << 20;
  LtGemm() { CB(cublasLtCreate(&lt)); CK(cudaMalloc(&ws, ws_bytes)); }
  struct Plan { cublasLtMatmulDesc_t op; cublasLtMatrixLayout_t a, b, c; cublasLtMatmulAlgo_t algo; };
  Plan plan(int m, int n, int k, int tries = 6) {
    Plan p; cublasOperation_t T = CUBLAS_OP_T, N = CUBLAS_OP_N;
    CB(cublasLtMatmulDescCreate(&p.op, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    CB(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_TRANSA, &T, sizeof T));
    CB(cublasLtMatmulDescSetAttribute(p.op, CUBLASLT_MATMUL_DESC_TRANSB, &N, sizeof N));
    CB(cublasLtMatrixLayoutCreate(&p.a, CUDA_R_16BF, k, n, k)); CB(cublasLtMatrixLayoutCreate(&p.b, CUDA_R_16BF, k, m, k)); CB(cublasLtMatrixLayoutCreate(&p.c, CUDA_R_16BF, n, m, n));
    cublasLtMatmulPreference_t pref; CB(cublasLtMatmulPreferenceCreate(&pref));
    CB(cublasLtMatmulPreferenceSetAttribute(pref, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &ws_bytes, sizeof ws_bytes));
    std::vector<cublasLtMatmulHeuristicResult_t> h(tries); int got = 0;
    CB(cublasLtMatmulAlgoGetHeuristic(lt, p.op, p.a, p.b, p.c, p.c, pref, tries, h.data(), &got));
    cublasLtMatmulPreferenceDestroy(pref);
    p.algo = h[0].algo;
    if (got > 1) {
      size_t wb = (size_t)n * k * 2; int copies = std::max<size_t>(1, (256u << 20) / wb);
      // Random numbers: the chip slows down under load, and not all algorithms alike.
      char *w = random_dev<char>(wb * copies), *x = random_dev<char>((size_t)m * k * 2), *y = dev_alloc<char>((size_t)m * n * 2);
      double best = 1e30;
      for (int i = 0; i < got; i++) {
        Plan q = p; q.algo = h[i].algo;
        double t = time_graph([&] { for (int c = 0; c < std::max(4, copies); c++) run(q, x, w + wb * (c % copies), y); }, 3);
        if (t < best) { best = t; p.algo = h[i].algo; }
      }
      cudaFree(w); cudaFree(x); cudaFree(y);
    }
    return p;
  }
  void run(const Plan& p, const void* x, const void* w, void* y) {
    float one = 1, zero = 0; CB(cublasLtMatmul(lt, p.op, &one, w, p.a, x, p.b, &zero, y, p.c, y, p.c, &p.algo, ws, ws_bytes, g_stream));
  }
};
#endif
