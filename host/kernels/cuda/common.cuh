// Small device functions shared by all kernels. No kernel lives here.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

typedef __nv_bfloat16 bf16;

#define DEV __device__ __forceinline__

// How much dynamic shared memory a kernel wants, for the host to read from the module by this name.
#define SHARED_BYTES(kernel, bytes) extern "C" __device__ const int shared_bytes_##kernel = (bytes);

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
DEV uint32_t read_shared4(uint32_t smem) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(smem) : "memory");
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

// ---- bf16 pairs -------------------------------------------------------------------------------
DEV uint32_t pack_bf16(float lo, float hi) {
  __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
  return *reinterpret_cast<uint32_t*>(&v);
}
DEV float bf16_lo(uint32_t v) { return __uint_as_float(v << 16); }
DEV float bf16_hi(uint32_t v) { return __uint_as_float(v & 0xffff0000u); }
DEV uint32_t mul_bf16x2(uint32_t a, uint32_t b) {
  __nv_bfloat162 r = __hmul2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
  return *reinterpret_cast<uint32_t*>(&r);
}
DEV uint32_t add_bf16x2(uint32_t a, uint32_t b) {
  __nv_bfloat162 r = __hadd2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
  return *reinterpret_cast<uint32_t*>(&r);
}
DEV void unpack8(uint4 v, float* f) {
  f[0] = bf16_lo(v.x); f[1] = bf16_hi(v.x); f[2] = bf16_lo(v.y); f[3] = bf16_hi(v.y);
  f[4] = bf16_lo(v.z); f[5] = bf16_hi(v.z); f[6] = bf16_lo(v.w); f[7] = bf16_hi(v.w);
}
DEV uint4 pack8(const float* f) {
  return make_uint4(pack_bf16(f[0], f[1]), pack_bf16(f[2], f[3]), pack_bf16(f[4], f[5]), pack_bf16(f[6], f[7]));
}
DEV float silu(float x) { return x / (1.0f + __expf(-x)); }

// d[16x8] += a[16x16] * b[16x8], bf16 in, f32 out. Lane = 4*g + t:
//   a[0],a[1] rows g, g+8 at k pair 0; a[2],a[3] rows g, g+8 at k pair 1; b[0],b[1] column g, k pairs 0, 1;
//   d[0],d[1] row g, columns 2t, 2t+1; d[2],d[3] row g+8.
DEV void mma_bf16(float* d, const uint32_t* a, uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Order of inputs within a k block in the activations of wide products: the order in which wgmma walks k
// is given, and the weights are stored for the row products, so the activations are permuted instead.
DEV int wide_k(int k) {
  return (k & ~63) | ((k & 32) | ((k & 4) << 2)) | ((k & 2) << 2) | ((k >> 2) & 6) | (k & 1);
}
// Stores columns 8*oct..8*oct+7 of a row of activations: element (row m, column i) lies at m*row + (i/8)*oct + i%8, with
// i replaced by wide_k(i) where `wide` says so. Row-major has (row, oct) = (k, 8), the wide products' layout (8, 8*rows).
DEV void store_oct(bf16* row, int oct, int out_oct, int wide, uint4 v) {
  if (!wide) { *reinterpret_cast<uint4*>(row + (size_t)oct * out_oct) = v; return; }
  const uint32_t w[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int j = 0; j < 4; j++) {
    const int p = wide_k(oct * 8 + 2 * j);
    *reinterpret_cast<uint32_t*>(row + (size_t)(p >> 3) * out_oct + (p & 7)) = w[j];
  }
}
