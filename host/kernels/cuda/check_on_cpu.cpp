// Runs the checks of the small kernels and of sampling without a card: c++ -std=c++17 -O2 -DON_CPU check_on_cpu.cpp
#include "fused.cu"
#include "dequant.cu"
#include "moves.cu"
#include "sampling.cu"
#include "check_sampling.h"
#include "check_small.h"

int main() {
  check_small();
  g_of_clusters = (const void*)sample_cluster;
  check_sampling(1003, 1008, true, 64); check_sampling(5000, 5000, false, 48); check_sampling(7, 8, true, 64);
  return g_failed;
}
