// Runs the checks of decode attention, the small kernels and sampling without a card: c++ -std=c++17 -O2 -DON_CPU check_on_cpu.cpp
#include "attention.cu"
#include "fused.cu"
#include "dequant.cu"
#include "moves.cu"
#include "sampling.cu"
#include "check_attention.h"
#include "check_sampling.h"
#include "check_small.h"

int main() {
  g_part = dev_alloc<float>(8 << 20); g_arr = dev_alloc<unsigned>(1 << 12); CK(cudaMemset(g_arr, 0, 4 << 12));
  check_groups();
  check_small();
  g_of_clusters = (const void*)sample_cluster;
  check_sampling(1003, 1008, true, 64); check_sampling(5000, 5000, false, 48); check_sampling(7, 8, true, 64);
  return g_failed;
}
