/* One pass each over a row of logits. Where NaN may come, the operand order of max and the ordered comparisons leave it
 * out. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

static const float minus_inf = -__builtin_inff();

/* x[i..i+16), -Inf past n. */
INLINE __m512 load(const float *x, uint32_t i, uint32_t n)
{
    return _mm512_mask_loadu_ps(_mm512_set1_ps(minus_inf), lanes_below(n - i), x + i);
}

static float max_of(const float *x, uint32_t n)
{
    __m512 max[4] = {_mm512_set1_ps(minus_inf), _mm512_set1_ps(minus_inf), _mm512_set1_ps(minus_inf),
                     _mm512_set1_ps(minus_inf)};
    uint32_t i = 0;

    for (; i + 64 <= n; i += 64)
        UNROLL
    for (uint32_t j = 0; j < 4; j++)
        max[j] = _mm512_max_ps(_mm512_loadu_ps(x + i + 16 * j), max[j]);
    for (; i < n; i += 16)
        max[0] = _mm512_max_ps(load(x, i, n), max[0]);
    return _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(max[0], max[1]), _mm512_max_ps(max[2], max[3])));
}

static uint32_t argmax(const float *x, uint32_t n)
{
    const __m512 max = _mm512_set1_ps(max_of(x, n));

    for (uint32_t i = 0; i < n; i += 16) {
        __mmask16 k = _mm512_cmp_ps_mask(load(x, i, n), max, _CMP_EQ_OQ);
        if (k != 0)
            return i + (uint32_t)__builtin_ctz(k);
    }
    return 0;
}

static uint32_t count_above(const float *x, uint32_t n, float limit)
{
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 16)
        count += (uint32_t)__builtin_popcount(_mm512_cmp_ps_mask(load(x, i, n), _mm512_set1_ps(limit), _CMP_GT_OQ));
    return count;
}

/* Sums in double: 150,000 additions of f32 would cost log-probs their last digits. */
static double sum_exp(const float *x, uint32_t n, float temperature, float max)
{
    const __m512 t = _mm512_set1_ps(temperature), m = _mm512_set1_ps(max);
    __m512d lo = _mm512_setzero_pd(), hi = lo;

    for (uint32_t i = 0; i < n; i += 16) {
        __m512 e = exp_ps(_mm512_sub_ps(_mm512_div_ps(load(x, i, n), t), m));
        lo = _mm512_add_pd(lo, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        hi = _mm512_add_pd(hi, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(lo, hi));
}

static uint32_t collect(const float *x, uint32_t n, float limit, int32_t *ret_id, float *ret_x)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 16) {
        __m512 v = _mm512_maskz_loadu_ps(lanes_below(n - i), x + i);
        __mmask16 k = _mm512_mask_cmp_ps_mask(lanes_below(n - i), v, _mm512_set1_ps(limit), _CMP_GE_OQ);
        if (k == 0)
            continue;
        const __mmask16 packed = lanes_below((uint32_t)__builtin_popcount(k));
        __m512i id = _mm512_add_epi32(_mm512_set1_epi32((int)i), lane);
        _mm512_mask_storeu_epi32(ret_id + count, packed, _mm512_maskz_compress_epi32(k, id));
        _mm512_mask_storeu_ps(ret_x + count, packed, _mm512_maskz_compress_ps(k, v));
        count += (uint32_t)__builtin_popcount(k);
    }
    return count;
}

/* Puts x[id] in its place among ids[0..n) by falling value; the last one falls out when there are n_top. Ids come in
 * rising order, so only a greater value passes one that is there. */
static uint32_t insert(const float *x, int32_t id, int32_t *ids, uint32_t n, uint32_t n_top)
{
    uint32_t at = n < n_top ? n : n_top - 1;

    for (; at > 0 && x[id] > x[ids[at - 1]]; at--)
        ids[at] = ids[at - 1];
    ids[at] = id;
    return n < n_top ? n + 1 : n_top;
}

static uint32_t top(const float *x, uint32_t n, uint32_t n_top, int32_t *ret_id)
{
    uint32_t count = 0, i = 0;

    if (n_top == 0)
        return 0;
    for (; i < n && i < n_top; i++)
        count = insert(x, (int32_t)i, ret_id, count, n_top);
    for (; i < n; i += 16) {
        __mmask16 k = _mm512_cmp_ps_mask(load(x, i, n), _mm512_set1_ps(x[ret_id[count - 1]]), _CMP_GT_OQ);
        for (; k != 0; k &= (__mmask16)(k - 1)) {
            const int32_t id = (int32_t)(i + (uint32_t)__builtin_ctz(k));
            if (x[id] > x[ret_id[count - 1]])
                insert(x, id, ret_id, count, n_top);
        }
    }
    return count;
}

static void part_max(const float *x, uint32_t n, float ret[SK_PART_MAX])
{
    for (uint32_t i = 0; i < SK_PART_MAX; i += 16) {
        __m512 max = _mm512_set1_ps(minus_inf);
        for (uint32_t at = i; at < n; at += SK_PART_MAX)
            max = _mm512_max_ps(load(x, at, n), max);
        _mm512_storeu_ps(ret + i, max);
    }
}

/* Products of the 16 lanes with m: high and low words. */
INLINE void mul_wide(__m512i a, uint32_t m, __m512i *ret_hi, __m512i *ret_lo)
{
    const __m512i by = _mm512_set1_epi32((int)m);
    __m512i even = _mm512_mul_epu32(a, by), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), by);
    *ret_hi = _mm512_mask_mov_epi32(_mm512_srli_epi64(even, 32), 0xaaaa, odd);
    *ret_lo = _mm512_mask_mov_epi32(even, 0xaaaa, _mm512_slli_epi64(odd, 32));
}

/* Philox4x32-10 (comm/base/rng.h) of 16 counters c[0..3]. */
INLINE void philox(uint64_t seed, __m512i c[4])
{
    uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);

    for (int round = 0; round < 10; round++, k0 += 0x9E3779B9, k1 += 0xBB67AE85) {
        __m512i hi0, lo0, hi1, lo1;
        mul_wide(c[0], 0xD2511F53, &hi0, &lo0);
        mul_wide(c[2], 0xCD9E8D57, &hi1, &lo1);
        c[0] = _mm512_ternarylogic_epi32(hi1, c[1], _mm512_set1_epi32((int)k0), 0x96); /* xor of three */
        c[1] = lo1;
        c[2] = _mm512_ternarylogic_epi32(hi0, c[3], _mm512_set1_epi32((int)k1), 0x96);
        c[3] = lo0;
    }
}

/* sk_fm_log of kernels/ref/fmath.h, operation by operation: nothing may be fused. */
INLINE __m512 log_ps(__m512 x)
{
    const __m512 one = _mm512_set1_ps(1);
    __m512i bits = _mm512_castps_si512(x);
    __m512i e = _mm512_srai_epi32(_mm512_sub_epi32(bits, _mm512_set1_epi32(0x3f3504f3)), 23);
    __m512 m = _mm512_castsi512_ps(_mm512_sub_epi32(bits, _mm512_slli_epi32(e, 23)));
    __m512 s = _mm512_div_ps(_mm512_sub_ps(m, one), _mm512_add_ps(m, one)), z = _mm512_mul_ps(s, s);
    __m512 series = _mm512_mul_ps(z, _mm512_set1_ps(1.0f / 9));

    series = _mm512_mul_ps(z, _mm512_add_ps(_mm512_set1_ps(1.0f / 7), series));
    series = _mm512_mul_ps(z, _mm512_add_ps(_mm512_set1_ps(1.0f / 5), series));
    series = _mm512_mul_ps(z, _mm512_add_ps(_mm512_set1_ps(1.0f / 3), series));
    series = _mm512_add_ps(one, series);
    return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(e), _mm512_set1_ps(0.693147181f)),
                         _mm512_mul_ps(_mm512_mul_ps(_mm512_set1_ps(2), s), series));
}

INLINE __m512 negate(__m512 x)
{
    return _mm512_xor_ps(x, _mm512_set1_ps(-0.0f));
}

/* Gumbel noise of tokens token..token + 63; token is a multiple of 64. Counter lane 4l + k is quad 4k + l, so that the
 * 4 x 4 transpositions inside 128-bit lanes leave words and tokens in the same order. */
INLINE void gumbel(const struct sk_samp *s, uint32_t token, __m512 ret[4])
{
    const __m512i quad = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c[4] = {_mm512_add_epi32(quad, _mm512_set1_epi32((int)(token / 4))), _mm512_set1_epi32((int)s->pos),
                    _mm512_set1_epi32((int)s->choice), _mm512_setzero_si512()};

    philox(s->seed, c);
    __m512i a = _mm512_unpacklo_epi32(c[0], c[1]), b = _mm512_unpacklo_epi32(c[2], c[3]);
    __m512i d = _mm512_unpackhi_epi32(c[0], c[1]), e = _mm512_unpackhi_epi32(c[2], c[3]);
    __m512i word[4] = {_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(d, e),
                       _mm512_unpackhi_epi64(d, e)};
    UNROLL
    for (int i = 0; i < 4; i++) {
        __m512 u = _mm512_add_ps(_mm512_cvtepi32_ps(_mm512_srli_epi32(word[i], 9)), _mm512_set1_ps(0.5f));
        ret[i] = negate(log_ps(negate(log_ps(_mm512_mul_ps(u, _mm512_set1_ps(0x1p-23f))))));
    }
}

static uint32_t gumbel_argmax(const float *x, uint32_t n, const struct sk_samp *s)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512 t = _mm512_set1_ps(s->temperature);
    __m512 best = _mm512_set1_ps(minus_inf);
    __m512i id = _mm512_set1_epi32(INT32_MAX);

    for (uint32_t i = 0; i < n; i += 64) {
        __m512 noise[4];
        gumbel(s, i, noise);
        for (uint32_t j = 0; j < 4 && i + 16 * j < n; j++) {
            __m512 v = _mm512_add_ps(_mm512_div_ps(load(x, i + 16 * j, n), t), noise[j]);
            __mmask16 k = _mm512_cmp_ps_mask(v, best, _CMP_GT_OQ);
            best = _mm512_mask_mov_ps(best, k, v);
            id = _mm512_mask_mov_epi32(id, k, _mm512_add_epi32(_mm512_set1_epi32((int)(i + 16 * j)), lane));
        }
    }
    const float max = _mm512_reduce_max_ps(best);
    if (max == minus_inf)
        return 0;
    return (uint32_t)_mm512_mask_reduce_min_epi32(_mm512_cmp_ps_mask(best, _mm512_set1_ps(max), _CMP_EQ_OQ), id);
}

void sk_logits_avx512(struct sk_ktab *t)
{
    t->max = max_of;
    t->argmax = argmax;
    t->count_above = count_above;
    t->sum_exp = sum_exp;
    t->collect = collect;
    t->top = top;
    t->part_max = part_max;
    t->gumbel_argmax = gumbel_argmax;
}
