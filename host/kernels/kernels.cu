// Everything the host loads, as one fatbin: see fatbin.sh.
#include "product_rows.cu"
#include "product_wide.cu"
#include "product_mma.cu"
#include "attention.cu"
#include "fused.cu"
