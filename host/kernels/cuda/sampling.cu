// Launch: sample_cluster 8 blocks per row in clusters of 8, Sampler<8, 512>::kSharedBytes + 4 * part(n) bytes of shared
// memory; sample_block one block per row, kSharedBytes. count_tokens: one block per span.
#include "sampling.cuh"

extern "C" __global__ void IN_CLUSTERS_OF_8 __launch_bounds__(512, 2) sample_cluster(const __grid_constant__ SampleArgs a) {
#ifdef HAS_CLUSTERS
  using S = Sampler<8, 512>;
  DYNAMIC_SHARED(unsigned char, sample_shared);
  pdl_launch_next();
  S::meet();  // no block writes to another's memory before that one has begun
  pdl_wait_previous();
  S sampler(a, *reinterpret_cast<S::Shared*>(sample_shared), reinterpret_cast<float*>(sample_shared + S::kSharedBytes), blockIdx.x / 8);
  sampler.run();
  S::meet();  // no block ends while another may still read or write its memory
#else
  __trap();
#endif
}
extern "C" __global__ void __launch_bounds__(1024, 1) sample_block(const __grid_constant__ SampleArgs a) {
  using S = Sampler<1, 1024>;
  DYNAMIC_SHARED(unsigned char, sample_shared);
  pdl_launch_next();
  pdl_wait_previous();
  S sampler(a, *reinterpret_cast<S::Shared*>(sample_shared), nullptr, blockIdx.x);
  sampler.run();
}
SHARED_BYTES(sample_cluster, (Sampler<8, 512>::kSharedBytes))  // and 4 * part(n), which the host adds
SHARED_BYTES(sample_block, (Sampler<1, 1024>::kSharedBytes))
// Clears a slot of the counts and counts what stands in the prompt and in the answer.
extern "C" __global__ void __launch_bounds__(1024) count_tokens(const __grid_constant__ CountArgs a) {
  pdl_launch_next();
  pdl_wait_previous();
  const CountSpan span = a.spans[blockIdx.x];
  unsigned* counts = a.counts + (size_t)span.slot * a.n;
  for (int i = threadIdx.x; i < a.n; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  for (int i = threadIdx.x; i < span.prompt + span.answer; i += blockDim.x) {
    const int token = a.tokens[span.first + i];
    if (token < 0 || token >= a.n) continue;
    if (i < span.prompt) atomicOr(counts + token, kInPrompt);
    else atomicAdd(counts + token, 1u);
  }
}
