// What CUDA C++ has no word for, in PTX. (on_cpu.h has the same for checks without a card, as far as they need it.)
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define DEV __device__ __forceinline__
#define DYNAMIC_SHARED(type, name) extern __shared__ __align__(16) type name[]

// ---- programmatic dependent launch ------------------------------------------------------------
// Every kernel lets its successor start early and waits for its predecessor only where it first
// touches data that the predecessor wrote. Weights never change, so they are requested before.
DEV void pdl_launch_next() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
DEV void pdl_wait_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// ---- loads ------------------------------------------------------------------------------------
// Weights are read once per step: keep them out of L1 so that the activations stay there.
DEV uint4 load_stream16(const void* p) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
  return v;
}
DEV uint32_t load_stream4(const void* p) {
  uint32_t v;
  asm volatile("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(v) : "l"(p));
  return v;
}
// Activations: plain (coherent) loads, since an earlier kernel of the same chain may still have
// been writing them when this kernel started.
DEV uint4 load_shared_data16(const void* p) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

// ---- asynchronous copies to shared memory (sm_80 and up) ------------------------------------------
template <int BYTES> DEV void copy_async(uint32_t smem, const void* p) {
  if (BYTES == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(smem), "l"(p) : "memory");
  else asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(smem), "l"(p), "n"(BYTES) : "memory");
}
// The same, or (live = false) nothing but zeros: no branch, so that the code around it can be reordered.
DEV void copy_async16_if(uint32_t smem, const void* p, bool live) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(smem), "l"(p), "r"(live ? 16 : 0) : "memory");
}
DEV void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> DEV void copy_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }
DEV uint4 read_shared16(uint32_t smem) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(smem) : "memory");
  return v;
}
DEV void write_shared2(uint32_t smem, __nv_bfloat16 v) { asm volatile("st.shared.b16 [%0], %1;" ::"r"(smem), "h"(__bfloat16_as_ushort(v)) : "memory"); }
DEV uint32_t read_shared4(uint32_t smem) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(smem) : "memory");
  return v;
}

// Of what does not change any more: may be moved, or left out where nothing reads it.
template <uint32_t BASE> DEV uint32_t look_up_shared(uint32_t offset) {
  uint32_t v;
  asm("ld.shared.u32 %0, [%1+%2];" : "=r"(v) : "r"(offset), "n"(BASE));
  return v;
}

// ---- bulk copies completing on barriers (Hopper) --------------------------------------------------
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HAS_BULK_COPY 1
DEV void barrier_init(uint32_t bar, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(bar), "r"(count) : "memory"); }
DEV void barrier_arrive(uint32_t bar) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(bar) : "memory"); }
DEV void barrier_wait(uint32_t bar, int parity) {
  asm volatile("{\n.reg .pred p;\nagain:\nmbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n@p bra done;\nbra again;\ndone:\n}" ::"r"(bar), "r"(parity) : "memory");
}
DEV void barrier_expect(uint32_t bar, int bytes) { asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(bar), "r"(bytes) : "memory"); }
DEV void barrier_publish() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
DEV void bulk_copy(uint32_t smem, const void* p, int bytes, uint32_t bar) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(smem), "l"(p), "r"(bytes), "r"(bar) : "memory");
}
#endif

// ---- parts of a block, and other blocks -------------------------------------------------------------
// Waits for all four warps of a warpgroup; each has an `id` of its own, from 1 on.
DEV void warpgroup_meet(int id) { asm volatile("bar.sync %0, 128;" ::"r"(id) : "memory"); }
// What was written before a flag can be read behind it.
DEV unsigned read_flag(const unsigned* p) {
  unsigned v;
  asm volatile("ld.acquire.gpu.u32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}
DEV void write_flag(unsigned* p, unsigned v) { asm volatile("st.release.gpu.u32 [%0], %1;" ::"l"(p), "r"(v) : "memory"); }
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
// Registers of each thread of this warpgroup, given to the others of the block or taken from what they gave.
template <int N> DEV void leave_registers() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> DEV void take_registers() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
#endif

// ---- clusters of blocks (Hopper) ------------------------------------------------------------------
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
#define HAS_CLUSTERS 1
#define IN_CLUSTERS_OF_8 __cluster_dims__(8, 1, 1)
DEV int cluster_rank() {
  int r;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
  return r;
}
DEV void cluster_meet() { asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory"); }
// The same variable in another rank's shared memory.
template <class T> DEV T* in_rank(T* p, int rank) {
  T* q;
  asm("mapa.u64 %0, %1, %2;" : "=l"(q) : "l"(p), "r"(rank));
  return q;
}
#else
#define IN_CLUSTERS_OF_8
#endif

// ---- tensor cores -----------------------------------------------------------------------------
// d[16x8] += a[16x16] * b[16x8], bf16 in, f32 out. Lane = 4*g + t:
//   a[0],a[1] rows g, g+8 at k pair 0; a[2],a[3] rows g, g+8 at k pair 1; b[0],b[1] column g, k pairs 0, 1;
//   d[0],d[1] row g, columns 2t, 2t+1; d[2],d[3] row g+8.
DEV void mma_bf16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
