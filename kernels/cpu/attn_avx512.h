/* What the AVX-512 kernels of attention share. A tile's queries are taken in panels that fill the registers; a panel
 * goes through a split in three passes: scores of all positions, softmax, weighted sum of values. Include only in files
 * built for AVX-512, that define PANEL (kernels/cpu/attn_span.h): all is static. */
#ifndef SK_ATTN_AVX512_H
#define SK_ATTN_AVX512_H
#include "kernels/cpu/attn_span.h"
#include "kernels/cpu/simd_avx512.h"

/* Row stride of scores in floats: off a power of two, so that rows fall into different cache sets. */
enum { LD_S = SK_SPLIT_TOK + 16 };

/* 2^x: a polynomial of degree n over the fraction in -1/2..1/2, exact at 0; relative error 1e-8 (n = 6), 7e-6 (n = 4:
 * for what is rounded to bf16). 0 below -126, so that nothing denormal slows what follows. x <= 0. */
INLINE __m512 exp2_ps(__m512 x, const int n)
{
    static const float six[] = {0.000154531634f, 0.00133908633f, 0.00961808302f,
                                0.0555035695f,   0.240226507f,   0.693147182f},
                       four[] = {0.00965671055f, 0.0558382832f, 0.2402253f, 0.693136752f};
    const float *c = n == 6 ? six : four;
    const __mmask16 normal = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-126), _CMP_NLT_UQ);
    const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512 r = _mm512_sub_ps(x, whole);
    __m512 p = _mm512_set1_ps(c[0]);

    UNROLL
    for (int i = 1; i < n; i++)
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c[i]));
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1));
    return _mm512_maskz_scalef_ps(normal, p, whole);
}

/* A panel of n <= 12 queries is computed as one of 1, 2, 3, 4, 6, 8 or 12: its sums fill the registers. */
INLINE uint32_t panel_height(uint32_t n)
{
    return n <= 4 ? n : n <= 8 ? (n + 1) & ~1u : 12;
}

/* Joins maximum and sum of query i with (max, sum) of positions after it: weights of the two. */
INLINE void fold(struct sk_attn_part *into, uint32_t i, float max, float sum, float *ret_keep, float *ret_take)
{
    const bool first = into->sum[i] == 0;
    const float high = first || max > into->max[i] ? max : into->max[i];
    *ret_keep = first ? 0 : _mm512_cvtss_f32(exp2_ps(_mm512_set1_ps(into->max[i] - high), 6));
    *ret_take = _mm512_cvtss_f32(exp2_ps(_mm512_set1_ps(max - high), 6));
    into->sum[i] = (first ? 0 : into->sum[i] * *ret_keep) + sum * *ret_take;
    into->max[i] = high;
}

INLINE void fold_panel(struct panel *p, struct sk_attn_part *into)
{
    for (uint32_t i = 0; i < p->n; i++) {
        p->old[i] = into->sum[p->at + i] != 0;
        fold(into, p->at + i, p->max[i], p->sum[i], &p->keep[i], &p->take[i]);
    }
}

/* 16 columns of an output: what was there, and what this split adds. */
INLINE void fold_columns(float *out, __m512 add, float keep, float take, bool old)
{
    const __m512 was = _mm512_maskz_loadu_ps(old ? 0xffff : 0, out);
    _mm512_storeu_ps(out, _mm512_fmadd_ps(was, _mm512_set1_ps(keep), _mm512_mul_ps(add, _mm512_set1_ps(take))));
}

#endif
