#include "tests/unit/kernels/emulated_gemm_q.h"

#include <immintrin.h>

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("f16c,fma,avx2,avx512vl,avx512vnni"))), apply_to = function)
#else
#pragma GCC target("f16c,fma,avx2,avx512vl,avx512vnni")
#endif
#define sk_gemm_q_avxvnni       emulated_gemm_q
#define _mm256_dpbusd_avx_epi32 _mm256_dpbusd_epi32
#include "kernels/cpu/gemm_q_avxvnni.c"
#ifdef __clang__
#pragma clang attribute pop
#endif
