#include <immintrin.h>

static inline __m512i dot4(__m512i acc, __m512i w, __m512i x)
{
    return _mm512_dpbusd_epi32(acc, w, x);
}

#include "kernels/cpu/gemm_q_avx512.h"

void sk_gemm_q_vnni(struct sk_ktab *t)
{
    put_kernels(t);
}
