// Runs the checks of all but prefill without a card: see README.md.
#include "attention.cu"
#include "product_rows.cu"
#include "product_wide.cu"
#include "product_mma.cu"
#include "fused.cu"
#include "dequant.cu"
#include "moves.cu"
#include "sampling.cu"
#include "check_attention.h"
#include "check_product.h"
#include "check_sampling.h"
#include "check_small.h"

int main() {
  g_part = dev_alloc<float>(8 << 20); g_arr = dev_alloc<unsigned>(1 << 12); CK(cudaMemset(g_arr, 0, 4 << 12));
  check_groups(); check_padding();
  g_sms = 3; g_partial = dev_alloc<float4>(4 << 20); g_arrivals = g_arr;
  for (auto& v : variants()) check_product_small(v);
  check_small();
  g_of_clusters = (const void*)sample_cluster;
  check_sampling(1003, 1008, true, 64); check_sampling(5000, 5000, false, 48); check_sampling(7, 8, true, 64);
  return g_failed;
}
