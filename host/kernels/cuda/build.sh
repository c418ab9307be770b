#!/usr/bin/env bash
# Builds the benches for Hopper, side by side: needs nvcc 13 and cublasLt (NVCC and CUDA_HOME say where). The program's own
# kernels are built by cargo.
set -euo pipefail
cd "$(dirname "$0")"
nvcc=${NVCC:-nvcc}
cuda=${CUDA_HOME:-/usr/local/cuda}
out=${1:-build}
mkdir -p "$out"
jobs=()
for bench in bench_product bench_step bench_prefill bench_sampling; do
  "$nvcc" -O3 -std=c++17 -gencode=arch=compute_90a,code=sm_90a -I"$cuda/include" "$bench.cu" -o "$out/$bench" \
    -L"$cuda/lib64" -L"$cuda/lib" -lcublasLt &
  jobs+=($!)
done
for job in "${jobs[@]}"; do wait "$job"; done
