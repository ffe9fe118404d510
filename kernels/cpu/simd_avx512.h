/* What several AVX-512 files need. Include only in files built for AVX-512: all is static, nothing is exported. */
#ifndef SK_SIMD_AVX512_H
#define SK_SIMD_AVX512_H
#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Full unrolling keeps arrays of vectors in registers. */
#ifdef __clang__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif
#define INLINE static inline __attribute__((always_inline))

/* Lanes below n, n >= 0. */
INLINE __mmask16 lanes_below(size_t n)
{
    return n >= 16 ? 0xffff : (__mmask16)((1u << n) - 1);
}

INLINE int32_t load_i32(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE float load_f32(const void *p)
{
    float v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE __m512 load_f16(const void *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* e^x: x = n ln 2 + r, |r| <= ln(2) / 2, ln 2 in two parts so that n times the first is exact; Taylor series to r^7
 * (rest 6e-9). 0 below -87, so that nothing denormal slows what follows; Inf above f32's range; NaN stays. */
INLINE __m512 exp_ps(__m512 x)
{
    static const float coef[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1, 1};

    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87), _CMP_NLT_UQ);
    x = _mm512_min_ps(_mm512_set1_ps(90), x); /* of a NaN, min gives the second operand */
    __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)),
                                    _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.62ep-1f), x);
    r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0x1.0bfbe8p-15f), r);
    __m512 p = _mm512_set1_ps(coef[0]);
    UNROLL
    for (int i = 1; i < 8; i++)
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(coef[i]));
    return _mm512_maskz_scalef_ps(normal, p, n);
}

/* Sum of the lanes in one fixed order. */
INLINE float sum_ps(__m512 v)
{
    __m512 a = _mm512_add_ps(v, _mm512_shuffle_f32x4(v, v, 0x4e));
    a = _mm512_add_ps(a, _mm512_shuffle_f32x4(a, a, 0xb1));
    __m128 b = _mm512_castps512_ps128(a);
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}

#endif
