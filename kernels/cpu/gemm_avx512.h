/* How the AVX-512 files of GEMM end an output. Include only in files built for AVX-512: all is static. */
#ifndef SK_GEMM_AVX512_H
#define SK_GEMM_AVX512_H
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

/* Of 16 outputs from `column`; zeros where there is none. */
INLINE __m512 bias_of(const struct sk_gemm *g, size_t column)
{
    return g->bias != NULL ? _mm512_loadu_ps(g->bias + column) : _mm512_setzero_ps();
}

INLINE void put_sum(float *out, __m512 sum, __m512 bias, bool add)
{
    __m512 v = _mm512_add_ps(sum, bias);

    if (add)
        v = _mm512_add_ps(_mm512_loadu_ps(out), v);
    _mm512_storeu_ps(out, v);
}

#endif
