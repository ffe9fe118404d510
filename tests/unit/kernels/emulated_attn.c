#include "tests/unit/kernels/emulated_attn.h"

#include "tests/unit/kernels/bf16_target.h"

#define SK_TILE_EMULATED 1
#define sk_attn_amx      emulated_attn
BF16_TARGET_BEGIN
#include "kernels/cpu/attn_amx.c"
BF16_TARGET_END
