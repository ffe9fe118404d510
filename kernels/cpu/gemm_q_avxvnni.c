#include <immintrin.h>

static inline __m256i dot_q4(__m256i acc, __m256i w, __m256i x)
{
    return _mm256_dpbusd_avx_epi32(acc, w, x);
}

static inline __m256i end_q4(__m256i acc)
{
    return acc;
}

enum { Q8_SIGNED = 0 };
static inline __m256i dot_q8(__m256i acc, __m256i w, __m256i x)
{
    return _mm256_dpbusd_avx_epi32(acc, w, x);
}

#include "kernels/cpu/gemm_q_avx2.h"

void sk_gemm_q_avxvnni(struct sk_ktab *t)
{
    put_kernels(t);
}
