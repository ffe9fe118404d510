/* What several AVX2 files need. Include only in files built for AVX2: all is static, nothing is exported. */
#ifndef SK_SIMD_AVX2_H
#define SK_SIMD_AVX2_H
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

/* Lanes below n, n >= 0, as a mask of 8 words for maskload, maskstore and blendv. */
INLINE __m256i lanes_below(size_t n)
{
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n < 8 ? (int)n : 8), lane);
}

INLINE int32_t load_i32(const void *p)
{
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE __m256 load_f16(const void *p)
{
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

INLINE __m256 abs_ps(__m256 x)
{
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), x);
}

/* 2^n for n in -126..127. */
INLINE __m256 power_of_2(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* e^x: x = n ln 2 + r, |r| <= ln(2) / 2, ln 2 in two parts so that n times the first is exact; Taylor series to r^7
 * (rest 6e-9). 0 below -87, so that nothing denormal slows what follows; Inf above f32's range; NaN stays. */
INLINE __m256 exp_ps(__m256 x)
{
    static const float coef[] = {1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2, 1, 1};

    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-87), _CMP_NLT_UQ);
    x = _mm256_min_ps(_mm256_set1_ps(90), x); /* of a NaN, min gives the second operand */
    __m256 n =
        _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.62ep-1f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0x1.0bfbe8p-15f), r);
    __m256 p = _mm256_set1_ps(coef[0]);
    UNROLL
    for (int i = 1; i < 8; i++)
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coef[i]));
    /* n = 128 has no power of its own: half of it at a time. */
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    p = _mm256_mul_ps(_mm256_mul_ps(p, power_of_2(half)), power_of_2(_mm256_sub_epi32(whole, half)));
    return _mm256_and_ps(normal, p);
}

/* Sum of the lanes in one fixed order. */
INLINE float sum_ps(__m256 v)
{
    __m128 a = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_add_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_add_ss(a, _mm_movehdup_ps(a)));
}

INLINE float max_lane(__m256 v)
{
    __m128 a = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    a = _mm_max_ps(a, _mm_movehl_ps(a, a));
    return _mm_cvtss_f32(_mm_max_ss(a, _mm_movehdup_ps(a)));
}

/* A sum of f32 lanes in double. */
struct sum_pd {
    __m256d low, high;
};

INLINE struct sum_pd zero_pd(void)
{
    return (struct sum_pd){_mm256_setzero_pd(), _mm256_setzero_pd()};
}

INLINE void add_pd(struct sum_pd *sum, __m256 v)
{
    sum->low = _mm256_add_pd(sum->low, _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    sum->high = _mm256_add_pd(sum->high, _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

INLINE double total_pd(struct sum_pd sum)
{
    const __m256d v = _mm256_add_pd(sum.low, sum.high);
    const __m128d a = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(a, _mm_unpackhi_pd(a, a)));
}

INLINE int32_t sum_epi32(__m256i v)
{
    __m128i a = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
    a = _mm_add_epi32(a, _mm_unpackhi_epi64(a, a));
    return _mm_cvtsi128_si32(_mm_add_epi32(a, _mm_shuffle_epi32(a, 1)));
}

#endif
