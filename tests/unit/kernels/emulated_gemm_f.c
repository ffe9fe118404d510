#include "tests/unit/kernels/emulated_gemm_f.h"

#include "tests/unit/kernels/bf16_target.h"

#define SK_TILE_EMULATED 1
#define sk_gemm_f_amx    emulated_gemm_f
BF16_TARGET_BEGIN
#include "kernels/cpu/gemm_f_amx.c"
BF16_TARGET_END
