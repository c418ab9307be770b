// Draws the next token of every row by the rules of host/model/src/sampling.rs: the same token for the same seed, unless
// two candidates' shares meet within the rounding of f64.
//
// A row is worked on by a cluster of 8 blocks (Hopper), each with an eighth of the vocabulary as f32 in shared memory; or
// by one block with the row in memory. What the row does not ask for is not done: a greedy row is one pass over the
// logits.
//
// The vocabulary is never sorted. All truncations keep a prefix of the candidates in their order (more weight first, of
// equals the smaller id), so each of them, and the draw itself, is a search for a position in that order: histograms of
// 10 bits of the weight at a time say in which bin it lies, and at the end which of the tokens of equal weight it is. The
// weights in a bin are summed as integers (their exponent is the bin's), so sums are exact and depend on no order. Where the
// first histogram shows that at most 1,024 tokens can be kept, which is the rule, those are sorted after all.
#pragma once
#include "philox.cuh"

struct SampleRow {
  float temperature;         // below 1e-5: greedy
  float top_p, min_p;        // 1 and 0 keep everything
  float repetition_penalty, presence_penalty, frequency_penalty;
  int top_k;                 // 0 keeps everything
  int logprobs;              // how many alternatives to report (at most 20); -1: no log-probabilities at all
  unsigned long long seed;
  int bias_first, bias_count;            // in SampleArgs' lists; the tokens of one row are distinct
  int forbidden_first, forbidden_count;
  int slot;                  // of SampleArgs::counts; -1: no penalties
  int given;                 // >= 0: nothing is drawn, counted or adjusted; this token (< n) is the result, with its
                             // log-probability. -1: a token is drawn
};
struct SampleResult {
  int status;                // 0: a token; 1: logit `token` is not finite; 2: every token is forbidden
  int token;
  float logprob;             // of the token by the logits as they came
  int unused;
};
struct SampleArgs {
  const void* logits;        // [rows][stride] bf16 or f32; stride % 8 == 0
  const SampleRow* rows;
  const int* positions;      // of the token that each row's logits follow; the drawn one's is one more
  const int* bias_tokens;
  const float* bias_values;
  const int* forbidden;
  unsigned* counts;          // [slot][n]: times in the answer; the top bit: in the prompt. The drawn token is added
  float* scratch;            // [rows][stride], only without clusters
  int* tokens;               // [rows] the drawn or given tokens, where the next step reads them; unchanged where there is none
  SampleResult* results;     // [rows]
  int* top_tokens;           // [rows][20], most likely first
  float* top_logprobs;
  int n, stride, is_f32;
};

constexpr int kTopMost = 20;
constexpr unsigned kInPrompt = 0x80000000u;
constexpr float kGreedyBelow = 1e-5f;

// host/model/src/layers/math.rs's exp, bit for bit.
DEV float exp_weight(float x) {
  x = fminf(fmaxf(x, -87.f), 88.f);
  const float round = 12582912.f, rounded = __fmaf_rn(x, 1.44269504f, round), n = __fsub_rn(rounded, round);
  const float r = __fmaf_rn(n, 2.1219444e-4f, __fmaf_rn(n, -0.6933594f, x));
  float p = 1.9875691e-4f;
  p = __fmaf_rn(p, r, 1.3982e-3f); p = __fmaf_rn(p, r, 8.333452e-3f); p = __fmaf_rn(p, r, 4.1665796e-2f);
  p = __fmaf_rn(p, r, 1.6666666e-1f); p = __fmaf_rn(p, r, 0.5f);
  const float fraction = __fadd_rn(__fmaf_rn(p, __fmul_rn(r, r), r), 1.f);
  return __fmul_rn(fraction, __uint_as_float((__float_as_uint(rounded) - __float_as_uint(round) + 127u) << 23));
}
// Bits that order as the numbers do.
DEV uint32_t ordered_bits(float x) {
  const uint32_t b = __float_as_uint(x);
  return b & 0x80000000u ? ~b : b | 0x80000000u;
}
// Whatever the parameters, a number stays a number.
DEV float changed(float from, float to) { return isnan(to) ? from : fminf(fmaxf(to, -3.402823466e38f), 3.402823466e38f); }
DEV float penalised(float logit, const SampleRow& row, unsigned count) {
  const unsigned times = count & ~kInPrompt;
  const float repeated = logit > 0.f ? __fdiv_rn(logit, row.repetition_penalty) : __fmul_rn(logit, row.repetition_penalty);
  return __fsub_rn(__fsub_rn(repeated, __fmul_rn(row.frequency_penalty, (float)times)), times ? row.presence_penalty : 0.f);
}

template <int RANKS, int THREADS>
struct Sampler {
  static constexpr int kWarps = THREADS / 32, kBins = 1024, kPerThread = kBins / THREADS, kFew = kBins;

  struct Totals { unsigned count[kBins]; double sum[kBins]; };
  // A position in the order of candidates: `count` of them have the key, `before` are better, with that much weight.
  struct Cut { uint32_t key; unsigned count, before; double before_sum; };
  struct alignas(16) Shared {
    unsigned long long best[2][RANKS];
    unsigned bad[2][RANKS];
    double sums[RANKS * kWarps];     // of a measure of each warp's part of the vocabulary
    Totals first, other;             // over all ranks
    union {
      struct { unsigned bin_count[kBins], bin_high[kBins], bin_low[kBins]; };
      unsigned long long few[kFew];  // in rank 0: key and token of those that are sorted
    };
    unsigned warp_count[kWarps];
    double warp_sum[kWarps];
    unsigned winner, listed;
    Cut cut;
  };
  static constexpr int kSharedBytes = sizeof(Shared);  // and, in a cluster, part(n) floats
  __host__ __device__ static int part(int n) { return ((n + RANKS - 1) / RANKS + 7) & ~7; }

  // ---- the cluster: with one rank it is the block ---------------------------------------------
  DEV static int rank_here() {
#ifdef HAS_CLUSTERS
    if (RANKS > 1) return cluster_rank();
#endif
    return 0;
  }
  DEV static void meet() {
#ifdef HAS_CLUSTERS
    if (RANKS > 1) return cluster_meet();
#endif
    __syncthreads();
  }
  // The same variable in another rank's shared memory.
  template <class T> DEV static T* of_rank(T* p, int rank) {
#ifdef HAS_CLUSTERS
    if (RANKS > 1) return in_rank(p, rank);
#endif
    return p;
  }

  const SampleArgs& a;
  Shared& sh;
  const int row, rank, tid, warp, lane;
  const int begin, length;  // this rank's part of the vocabulary
  float* values;            // of it: logits, then weights
  int exchanges = 0;

  DEV Sampler(const SampleArgs& args, Shared& shared, float* local, int row_)
      : a(args), sh(shared), row(row_), rank(rank_here()), tid(threadIdx.x), warp(threadIdx.x >> 5), lane(threadIdx.x & 31),
        begin(rank * part(args.n)), length(max(0, min(part(args.n), args.n - rank * part(args.n)))),
        values(RANKS > 1 ? local : args.scratch + (size_t)row_ * args.stride) {}

  // ---- reductions over the row ----------------------------------------------------------------
  // The largest `best`, the smallest `bad`.
  DEV void reduce(unsigned long long& best, unsigned& bad) {
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) {
      const unsigned long long o = __shfl_xor_sync(~0u, best, d);
      best = o > best ? o : best;
      bad = min(bad, __shfl_xor_sync(~0u, bad, d));
    }
    __syncthreads();
    if (lane == 0) { sh.warp_count[warp] = bad; reinterpret_cast<unsigned long long*>(sh.warp_sum)[warp] = best; }
    __syncthreads();
    const int turn = exchanges++ & 1;
    if (tid < RANKS) {
      for (int w = 0; w < kWarps; w++) {
        const unsigned long long o = reinterpret_cast<unsigned long long*>(sh.warp_sum)[w];
        best = o > best ? o : best;
        bad = min(bad, sh.warp_count[w]);
      }
      *of_rank(&sh.best[turn][rank], tid) = best;
      *of_rank(&sh.bad[turn][rank], tid) = bad;
    }
    meet();
    for (int r = 0; r < RANKS; r++) {
      best = sh.best[turn][r] > best ? sh.best[turn][r] : best;
      bad = min(bad, sh.bad[turn][r]);
    }
  }
  DEV static unsigned long long candidate(float logit, int token) {
    return (unsigned long long)ordered_bits(__fadd_rn(logit, 0.f)) << 32 | (uint32_t)~token;  // minus zero equals zero
  }
  DEV static int token_of(unsigned long long best) { return (int)~(uint32_t)best; }
  DEV static float logit_of(unsigned long long best) {
    const uint32_t b = (uint32_t)(best >> 32);
    return __uint_as_float(b & 0x80000000u ? b & 0x7fffffffu : ~b);
  }

  // A warp's part of the rank's part, whole 32s.
  DEV int warp_begin(int w) const { return min(length, w * (((length + kWarps - 1) / kWarps + 31) & ~31)); }
  // What is added up in the order of tokens: the values themselves, or 1 for each with these bits.
  struct Measure {
    bool whole;
    uint32_t bits;
    DEV double operator()(float v) const { return whole ? (double)v : __float_as_uint(v) == bits ? 1.0 : 0.0; }
  };
  // Sums `measure` over each warp's part, for all ranks to see, and returns the whole.
  template <class Function> DEV double sum_in_order(Function measure) {
    double sum = 0;
    for (int i = warp_begin(warp) + lane; i < warp_begin(warp + 1); i += 32) sum += measure(values[i]);
#pragma unroll
    for (int d = 16; d > 0; d >>= 1) sum += __shfl_xor_sync(~0u, sum, d);
    meet();  // nobody reads the sums of an earlier call any more
    if (lane < RANKS) *of_rank(&sh.sums[rank * kWarps + warp], lane) = sum;
    meet();
    double total = 0;
#pragma unroll 8
    for (int w = 0; w < RANKS * kWarps; w++) total += sh.sums[w];
    return total;
  }
  // The first token at which the running sum of `measure` is more than `target`, after sum_in_order; -1 in the ranks and
  // warps that do not have it. Rounding can leave none: then the last one that has any measure.
  DEV int locate(double target, Measure measure) {
    double before = 0, sum = 0;
    int owner = -1;
#pragma unroll 1
    for (int w = 0; w < RANKS * kWarps; w++) {
      if (sh.sums[w] > 0) { owner = w; before = sum; }
      sum += sh.sums[w];
      if (sum > target) break;
    }
    if (owner != rank * kWarps + warp) return -1;
    int last = -1;
#pragma unroll 1
    for (int i = warp_begin(warp); i < warp_begin(warp + 1); i += 32) {
      const double m = i + lane < warp_begin(warp + 1) ? measure(values[i + lane]) : 0.0;
      double running = m;
#pragma unroll
      for (int d = 1; d < 32; d <<= 1) { const double o = __shfl_up_sync(~0u, running, d); if (lane >= d) running += o; }
      const unsigned found = __ballot_sync(~0u, m > 0 && before + running > target), any = __ballot_sync(~0u, m > 0);
      if (found) return begin + i + __ffs(found) - 1;
      if (any) last = begin + i + 31 - __clz(any);
      before += __shfl_sync(~0u, running, 31);
    }
    return last;
  }

  // ---- searches in the order of candidates ----------------------------------------------------
  // Where a search ends: at so many candidates, or at so much weight (with `beyond`, at more than that).
  struct Goal {
    unsigned count;
    double sum;
    bool beyond;
    DEV bool reached(unsigned c, double s) const { return c >= count || (beyond ? s > sum : s >= sum); }
  };
  // Counts the keys that begin with `prefix` (their bits from `above` on) by the 10 bits from `shift` on, over all ranks,
  // and sums them as weights. Key 0 is no candidate.
  DEV void histogram(Totals& totals, bool weights, uint32_t prefix, int above, int shift) {
    for (int i = tid; i < kBins; i += THREADS) sh.bin_count[i] = sh.bin_high[i] = sh.bin_low[i] = 0;
    __syncthreads();
#pragma unroll 4
    for (int i = tid; i < length; i += THREADS) {
      const uint32_t k = weights ? __float_as_uint(values[i]) : ordered_bits(values[i]);
      if (k == 0 || (above < 32 && k >> above != prefix)) continue;
      const uint32_t bin = k >> shift & (kBins - 1), rest = k & ((1u << shift) - 1);
      atomicAdd(&sh.bin_count[bin], 1u);
      if (weights && rest >> 10) atomicAdd(&sh.bin_high[bin], rest >> 10);
      if (weights && (rest & 1023)) atomicAdd(&sh.bin_low[bin], rest & 1023);
    }
    meet();
    constexpr int kShare = kBins / RANKS;
#pragma unroll 1
    for (int i = tid; i < kShare; i += THREADS) {
      const int bin = rank * kShare + i;
      unsigned count = 0, high = 0, low = 0;
#pragma unroll
      for (int r = 0; r < RANKS; r++) {
        count += *of_rank(&sh.bin_count[bin], r);
        high += *of_rank(&sh.bin_high[bin], r);
        low += *of_rank(&sh.bin_low[bin], r);
      }
      const uint32_t least = (above < 32 ? prefix << above : 0) | (uint32_t)bin << shift;
      const unsigned long long mantissas = (unsigned long long)count * ((least & 0x7fffff) | 0x800000) + ((unsigned long long)high << 10) + low;
      const double sum = (double)mantissas * __longlong_as_double((long long)(1023 - 150 + (least >> 23 & 255)) << 52);
#pragma unroll
      for (int r = 0; r < RANKS; r++) { *of_rank(&totals.count[bin], r) = count; *of_rank(&totals.sum[bin], r) = sum; }
    }
    meet();
  }
  // The first bin, from the top, at whose end the goal is reached; or the last that has any.
  DEV void find_bin(const Totals& totals, const Goal& goal, Cut& cut, int shift) {
    unsigned count = 0;
    double sum = 0;
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
      count += totals.count[kBins - 1 - tid * kPerThread - i];
      sum += totals.sum[kBins - 1 - tid * kPerThread - i];
    }
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) {
      const unsigned o = __shfl_up_sync(~0u, count, d);
      const double s = __shfl_up_sync(~0u, sum, d);
      if (lane >= d) { count += o; sum += s; }
    }
    __syncthreads();
    if (lane == 31) { sh.warp_count[warp] = count; sh.warp_sum[warp] = sum; }
    if (tid == 0) sh.winner = kBins;
    __syncthreads();
    const unsigned lane_count = __shfl_up_sync(~0u, count, 1);
    const double lane_sum = __shfl_up_sync(~0u, sum, 1);
    unsigned total = cut.before;
    count = cut.before; sum = cut.before_sum;
#pragma unroll 1
    for (int w = 0; w < kWarps; w++) {
      if (w < warp) { count += sh.warp_count[w]; sum += sh.warp_sum[w]; }
      total += sh.warp_count[w];
    }
    if (lane > 0) { count += lane_count; sum += lane_sum; }
    Cut mine = {};
    unsigned place = kBins;
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
      const int bin = kBins - 1 - tid * kPerThread - i;
      const unsigned here = totals.count[bin];
      const double weight = totals.sum[bin];
      if (place == kBins && here && (goal.reached(count + here, sum + weight) || count + here == total)) {
        place = tid * kPerThread + i;
        mine = Cut{cut.key | (uint32_t)bin << shift, here, count, sum};
      }
      count += here; sum += weight;
    }
    if (place < kBins) atomicMin(&sh.winner, place);
    __syncthreads();
    if (place < kBins && sh.winner == place) sh.cut = mine;
    __syncthreads();
    cut = sh.cut;
  }
  DEV uint32_t key_of(float v, bool weights) const { return weights ? __float_as_uint(v) : ordered_bits(v); }
  // Keys are the bits of weights, of which there are 30 as weights are at most 1; or of logits, in 32 that order as they
  // do (the last step then has 2 new bits, and 8 that all its keys share).
  DEV static int first_shift(bool weights) { return weights ? 20 : 22; }
  DEV Cut first_cut(const Goal& goal, bool weights) {
    Cut cut = {};
    find_bin(sh.first, goal, cut, first_shift(weights));
    return cut;
  }
  // Starts from sh.first, the first histogram.
  DEV Cut search(const Goal& goal, bool weights) {
    Cut cut = first_cut(goal, weights);
#pragma unroll 1
    for (int above = first_shift(weights); above > 0; above = max(0, above - 10)) {
      const int shift = max(0, above - 10);
      histogram(sh.other, weights, cut.key >> above, above, shift);
      find_bin(sh.other, goal, cut, shift);
    }
    return cut;
  }

  // ---- few candidates -------------------------------------------------------------------------
  DEV static unsigned long long entry(uint32_t key, int token) { return (unsigned long long)key << 32 | (uint32_t)~token; }
  // Brings those that are in the cut's bin or better to rank 0 and sorts them there. sh.listed was 0 before a meeting.
  DEV void sort_few(const Cut& cut, bool weights) {
    for (int i = tid; i < length; i += THREADS) {
      const uint32_t key = key_of(values[i], weights);
      if (key >= cut.key) *of_rank(&sh.few[atomicAdd(of_rank(&sh.listed, 0), 1u)], 0) = entry(key, begin + i);
    }
    meet();
    if (rank != 0) return;
    int size = 32;
    while (size < (int)(cut.before + cut.count)) size *= 2;
    for (int i = cut.before + cut.count + tid; i < size; i += THREADS) sh.few[i] = 0;
    __syncthreads();
    // Bitonic, largest first.
#pragma unroll 1
    for (int run = 2; run <= size; run *= 2)
#pragma unroll 1
      for (int step = run / 2; step > 0; step /= 2) {
        for (int i = tid; i < size / 2; i += THREADS) {
          const int low = 2 * i - (i & (step - 1)), high = low + step;
          const unsigned long long x = sh.few[low], y = sh.few[high];
          if ((x < y) == !(low & run)) { sh.few[low] = y; sh.few[high] = x; }
        }
        __syncthreads();
      }
  }
  // The first of the sorted whose running weight (in sh.other.sum) reaches the goal; at most `last`.
  DEV int first_few(const Goal& goal, int last) {
    __syncthreads();
    if (tid == 0) sh.winner = last;
    __syncthreads();
    for (int i = tid; i < last; i += THREADS)
      if (goal.reached(0, sh.other.sum[i])) atomicMin(&sh.winner, (unsigned)i);
    __syncthreads();
    return sh.winner;
  }
  // In rank 0: the draw from the sorted, for its first warp. `total`: of all candidates.
  DEV int draw_few(const SampleRow& r, double share, int count, double total) {
    double own[kPerThread], sum = 0;
#pragma unroll
    for (int i = 0; i < kPerThread; i++) {
      const int at = tid * kPerThread + i;
      own[i] = sum += at < count ? (double)__uint_as_float((uint32_t)(sh.few[at] >> 32)) : 0.0;
    }
    double running = sum;
#pragma unroll
    for (int d = 1; d < 32; d <<= 1) { const double o = __shfl_up_sync(~0u, running, d); if (lane >= d) running += o; }
    if (lane == 31) sh.warp_sum[warp] = running;
    __syncthreads();
    double before = __shfl_up_sync(~0u, running, 1);
    if (lane == 0) before = 0;
    for (int w = 0; w < warp; w++) before += sh.warp_sum[w];
#pragma unroll
    for (int i = 0; i < kPerThread; i++) sh.other.sum[tid * kPerThread + i] = before + own[i];
    __syncthreads();
    int last = count - 1;
    if (r.top_k > 0) { last = min(last, r.top_k - 1); total = sh.other.sum[last]; }
    if (r.top_p < 1.f) last = first_few(Goal{~0u, fmax((double)r.top_p * total, 1e-300), false}, last);
    const int drawn = first_few(Goal{~0u, share * sh.other.sum[last], true}, last);
    return warp == 0 ? token_of(sh.few[drawn]) : -1;
  }

  // ---- the steps of a draw --------------------------------------------------------------------
  DEV float raw_logit(int token) const {
    const size_t at = (size_t)row * a.stride + token;
    return a.is_f32 ? __ldcg(reinterpret_cast<const float*>(a.logits) + at) : __bfloat162float(reinterpret_cast<const bf16*>(a.logits)[at]);
  }
  DEV void read8(float (&f)[8], int i) const {
    const size_t at = (size_t)row * a.stride + begin + i;
    if (a.is_f32) {
      const uint4 u = load_shared_data16(reinterpret_cast<const float*>(a.logits) + at), v = load_shared_data16(reinterpret_cast<const float*>(a.logits) + at + 4);
      const uint32_t w[8] = {u.x, u.y, u.z, u.w, v.x, v.y, v.z, v.w};
#pragma unroll
      for (int j = 0; j < 8; j++) f[j] = __uint_as_float(w[j]);
    } else {
      unpack8(load_shared_data16(reinterpret_cast<const bf16*>(a.logits) + at), f);
    }
  }
  // Finds the best logit and the first that is not finite; stores them if they are wanted again.
  DEV void load(bool store, unsigned long long& best, unsigned& bad) {
    best = 0; bad = ~0u;
#pragma unroll 2
    for (int i = tid * 8; i < length; i += THREADS * 8) {
      float f[8];
      read8(f, i);
#pragma unroll
      for (int j = 0; j < 8; j++) {
        const bool there = i + j < length;
        const unsigned long long c = candidate(f[j], begin + i + j);
        best = there && c > best ? c : best;
        if (there && (__float_as_uint(f[j]) & 0x7f800000u) == 0x7f800000u) bad = min(bad, (unsigned)(begin + i + j));
      }
      if (store) {  // what is written behind the part's end is never read
        *reinterpret_cast<float4*>(values + i) = make_float4(f[0], f[1], f[2], f[3]);
        *reinterpret_cast<float4*>(values + i + 4) = make_float4(f[4], f[5], f[6], f[7]);
      }
    }
    reduce(best, bad);
  }
  // Bias, penalties, forbidden tokens; then the best again.
  DEV unsigned long long adjust(const SampleRow& r) {
    for (int i = tid; i < r.bias_count; i += THREADS) {
      const int at = a.bias_tokens[r.bias_first + i] - begin;
      if (at >= 0 && at < length) values[at] = changed(values[at], __fadd_rn(values[at], a.bias_values[r.bias_first + i]));
    }
    __syncthreads();
    if (r.slot >= 0) {
      const unsigned* counts = a.counts + (size_t)r.slot * a.n + begin;
      for (int i = tid; i < length; i += THREADS) {
        const unsigned count = __ldcg(counts + i);
        if (count) values[i] = changed(values[i], penalised(values[i], r, count));
      }
      __syncthreads();
    }
    for (int i = tid; i < r.forbidden_count; i += THREADS) {
      const int at = a.forbidden[r.forbidden_first + i] - begin;
      if (at >= 0 && at < length) values[at] = -INFINITY;
    }
    __syncthreads();
    unsigned long long best = 0;
    for (int i = tid; i < length; i += THREADS) { const unsigned long long c = candidate(values[i], begin + i); best = c > best ? c : best; }
    unsigned bad = 0;
    reduce(best, bad);
    return best;
  }
  DEV double log_sum_exp(float max) {
    return (double)max + log(sum_in_order([&](float l) { return (double)exp_weight(__fsub_rn(l, max)); }));
  }
  DEV void list(int i, uint32_t key) { *of_rank(&sh.few[atomicAdd(of_rank(&sh.listed, 0), 1u)], 0) = entry(key, begin + i); }
  // The most likely tokens, best first.
  DEV void report_top(int wanted, double total) {
    wanted = min(min(wanted, kTopMost), a.n);
    if (wanted <= 0) return;
    if (tid == 0) sh.listed = 0;
    const Goal goal{(unsigned)wanted, INFINITY, false};
    histogram(sh.first, false, 0, 32, first_shift(false));
    Cut cut = first_cut(goal, false);
    if (cut.before + cut.count <= kFew) {
      sort_few(cut, false);
    } else {
      cut = search(goal, false);
      const unsigned ties = wanted - cut.before;
      const Measure tied{false, cut.key & 0x80000000u ? cut.key & 0x7fffffffu : ~cut.key};
      sum_in_order(tied);
      for (int i = tid; i < length; i += THREADS) {
        const uint32_t key = ordered_bits(values[i]);
        if (key > cut.key) list(i, key);
      }
      for (unsigned t = 0; t < ties; t++) {
        const int token = locate(t, tied);
        if (token >= 0 && lane == 0) list(token - begin, cut.key);
      }
      meet();
    }
    if (rank != 0 || tid >= wanted) return;
    const unsigned long long own = sh.few[tid];
    int place = 0;
    for (int i = 0; i < wanted; i++) place += sh.few[i] > own;
    a.top_tokens[row * kTopMost + place] = token_of(own);
    a.top_logprobs[row * kTopMost + place] = (float)((double)logit_of(own) - total);
  }
  // Logits become weights relative to the best one's; 0: no candidate.
  DEV void weigh(const SampleRow& r, float max) {
    const float least = r.min_p > 0.f ? fminf(r.min_p, 1.f) : 0.f;
    for (int i = tid; i < length; i += THREADS) {
      const float l = values[i], w = l == -INFINITY ? 0.f : exp_weight(__fdiv_rn(__fsub_rn(l, max), r.temperature));
      values[i] = w >= least ? w : 0.f;
    }
    __syncthreads();
  }
  // How many of the tokens with the cut's key make `sum` more than, or at least, what it should be.
  DEV static unsigned tokens_needed(const Cut& cut, double sum, bool at_least) {
    const double each = (double)__uint_as_float(cut.key), quotient = fmax(0.0, (sum - cut.before_sum) / each);
    const double needed = at_least ? fmax(1.0, ceil(quotient)) : floor(quotient) + 1.0;
    return (unsigned)fmin(needed, (double)cut.count);
  }
  // The token at the draw's share of all weight that is kept; -1 in the warps that do not have it.
  DEV int draw(const SampleRow& r, double share) {
    const bool by_count = r.top_k > 0, by_sum = r.top_p < 1.f;
    if (!by_count && !by_sum) {
      const Measure weight{true, 0};
      return locate(share * sum_in_order(weight), weight);
    }
    if (tid == 0) sh.listed = 0;
    histogram(sh.first, true, 0, 32, first_shift(true));
    const Cut lowest = first_cut(Goal{~0u, INFINITY, false}, true);
    double total = lowest.before_sum + sh.first.sum[lowest.key >> first_shift(true)];
    const Goal bound = by_count ? Goal{(unsigned)r.top_k, INFINITY, false} : Goal{~0u, fmax((double)r.top_p * total, 1e-300), false};
    const Cut first = first_cut(bound, true);
    if (first.before + first.count <= kFew) {
      sort_few(first, true);
      return rank == 0 ? draw_few(r, share, first.before + first.count, total) : -1;
    }
    // The last token that is kept is the `kept`-th of those with this key.
    Cut last = {};
    unsigned kept = 0;
#pragma unroll 1
    for (int step = 0; step < 3; step++) {  // top-k, top-p, the draw itself
      if ((step == 0 && !by_count) || (step == 1 && !by_sum)) continue;
      const double sum = step == 0 ? INFINITY : step == 1 ? fmax((double)r.top_p * total, 1e-300) : share * total;
      const Cut cut = search(Goal{step == 0 ? (unsigned)r.top_k : ~0u, sum, step == 2}, true);
      unsigned nth = step == 0 ? min((unsigned)r.top_k - min(cut.before, (unsigned)r.top_k - 1), cut.count) : tokens_needed(cut, sum, step == 1);
      if (kept && cut.key == last.key) nth = min(nth, kept);
      last = cut;
      kept = nth;
      total = cut.before_sum + (double)kept * __uint_as_float(cut.key);
    }
    const Measure tied{false, last.key};
    sum_in_order(tied);
    return locate((double)kept - 1.0, tied);
  }

  DEV void run() {
    const SampleRow r = a.rows[row];
    const bool given = r.given >= 0, scored = given || r.logprobs >= 0, greedy = !(r.temperature >= kGreedyBelow);
    const bool adjusted = r.bias_count > 0 || r.forbidden_count > 0 || r.slot >= 0;
    unsigned long long best;
    unsigned bad;
    load(scored || adjusted || !greedy, best, bad);
    if (bad != ~0u) return finish(rank == 0 && tid == 0, 1, (int)bad, 0.0, false, r);
    double total = 0;
    if (scored) {
      total = log_sum_exp(logit_of(best));
      report_top(r.logprobs, total);
      __syncthreads();
    }
    if (given) return finish(rank == 0 && tid == 0, 0, r.given, total, true, r);
    if (adjusted) {
      best = adjust(r);
      if (logit_of(best) == -INFINITY) return finish(rank == 0 && tid == 0, 2, 0, 0.0, false, r);
    }
    if (greedy) return finish(rank == 0 && tid == 0, 0, token_of(best), total, scored, r);
    weigh(r, logit_of(best));
    const int token = draw(r, uniform(r.seed, (unsigned long long)(unsigned)(a.positions[row] + 1)));
    finish(token >= 0 && lane == 0, 0, token, total, scored, r);
  }
  DEV void finish(bool here, int status, int token, double total, bool scored, const SampleRow& r) {
    if (here) {
      SampleResult result = {status, token, 0.f, 0};
      if (status == 0) {
        a.tokens[row] = token;
        if (scored) result.logprob = (float)((double)raw_logit(token) - total);
        if (r.slot >= 0 && r.given < 0) a.counts[(size_t)r.slot * a.n + token]++;
      }
      a.results[row] = result;
    }
  }
};

// The counts of a sequence that begins, or begins again: `prompt` tokens and after them `answer` tokens of a list.
struct CountSpan { int first, prompt, answer, slot; };
struct CountArgs { const int* tokens; const CountSpan* spans; unsigned* counts; int n; };
