// Everything the host loads, as one fatbin: see build.sh.
#include "product_rows.cu"
#include "product_wide.cu"
#include "product_mma.cu"
#include "attention.cu"
#include "fused.cu"
#include "prefill.cu"
#include "sampling.cu"
