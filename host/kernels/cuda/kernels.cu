// Everything that the host loads. Each of these becomes a fat binary of its own (build.rs): they compile side by side, and
// only what changed compiles again. They are compiled with PROGRAM, which leaves out what only the benches launch.
#include "product_rows.cu"
#include "product_wide.cu"
#include "product_mma.cu"
#include "attention.cu"
#include "fused.cu"
#include "moves.cu"
#include "dequant.cu"
#include "prefill.cu"
#include "sampling.cu"
