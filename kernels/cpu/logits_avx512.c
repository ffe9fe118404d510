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

    for (; i + 64 <= n; i += 64) {
        UNROLL
        for (uint32_t j = 0; j < 4; j++)
            max[j] = _mm512_max_ps(_mm512_loadu_ps(x + i + 16 * j), max[j]);
    }
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
static double sum_exp(const float *x, uint32_t n, float max)
{
    const __m512 m = _mm512_set1_ps(max);
    __m512d lo = _mm512_setzero_pd(), hi = lo;

    for (uint32_t i = 0; i < n; i += 16) {
        __m512 e = exp_ps(_mm512_sub_ps(load(x, i, n), m));
        lo = _mm512_add_pd(lo, _mm512_cvtps_pd(_mm512_castps512_ps256(e)));
        hi = _mm512_add_pd(hi, _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1)));
    }
    return _mm512_reduce_add_pd(_mm512_add_pd(lo, hi));
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

void sk_logits_avx512(struct sk_ktab *t)
{
    t->max = max_of;
    t->argmax = argmax;
    t->count_above = count_above;
    t->sum_exp = sum_exp;
    t->top = top;
    t->part_max = part_max;
}
