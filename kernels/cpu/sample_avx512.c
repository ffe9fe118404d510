/* Candidates, their weights and the draw. exp and log are those of kernels/ref/fmath.h operation by operation, nothing
 * is fused; sums are of whole numbers, so exact: the tokens are those of kernels/ref. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/ref/sample.h"

enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
static const float PER_NAT = 0x1.715476p+23f; /* log2(e) of a float's exponent */

/* sk_sample_weight. */
INLINE __m512 weight(__m512 d)
{
    static const float coef[] = {0x1.23a6p-10f, 0x1.3cbea8p-7f, 0x1.c74322p-5f, 0x1.ebfa4ep-3f, 0x1.62e39ep-1f, 1};
    const __m512 x = _mm512_mul_ps(d, _mm512_set1_ps(-0x1.715476p+0f));
    const __mmask16 above = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-40), _CMP_GT_OQ); /* no for NaN */
    const __m512 k = _mm512_roundscale_ps(x, NEAREST), f = _mm512_sub_ps(x, k);
    __m512 p = _mm512_set1_ps(coef[0]);

    UNROLL
    for (int i = 1; i < 6; i++)
        p = _mm512_add_ps(_mm512_mul_ps(p, f), _mm512_set1_ps(coef[i]));
    return _mm512_roundscale_ps(_mm512_maskz_scalef_ps(above, p, _mm512_add_ps(k, _mm512_set1_ps(32))), NEAREST);
}

struct sum {
    __m512d lo, hi;
};

INLINE struct sum zero(void)
{
    return (struct sum){_mm512_setzero_pd(), _mm512_setzero_pd()};
}

INLINE void add(struct sum *sum, __m512 v)
{
    sum->lo = _mm512_add_pd(sum->lo, _mm512_cvtps_pd(_mm512_castps512_ps256(v)));
    sum->hi = _mm512_add_pd(sum->hi, _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
}

INLINE double total(struct sum sum)
{
    return _mm512_reduce_add_pd(_mm512_add_pd(sum.lo, sum.hi));
}

INLINE __m512i indices(uint32_t i)
{
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_add_epi32(_mm512_set1_epi32((int)i), lane);
}

static void take(const float *x, uint32_t n, float temperature, float limit, struct sk_cands *ret, double *ret_mass)
{
    const __m512 minus_inf = _mm512_set1_ps(-__builtin_inff()), max = _mm512_set1_ps(ret->max);
    const __m512 t = _mm512_set1_ps(temperature), least = _mm512_set1_ps(limit);
    struct sum sum = zero();
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 16) {
        const __m512 v = _mm512_mask_loadu_ps(minus_inf, lanes_below(n - i), x + i);
        __mmask16 k = _mm512_cmp_ps_mask(v, least, _CMP_GE_OQ);
        if (k == 0 && ret_mass == NULL)
            continue;
        const __m512 z = temperature == 1 ? v : _mm512_div_ps(v, t);
        k &= _mm512_cmp_ps_mask(z, minus_inf, _CMP_GT_OQ);
        if (ret_mass != NULL) {
            const __m512 w = weight(_mm512_sub_ps(max, z));
            add(&sum, w);
            if (k == 0)
                continue;
            _mm512_storeu_ps(ret->w + count, _mm512_maskz_compress_ps(k, w));
        }
        _mm512_storeu_ps(ret->z + count, _mm512_maskz_compress_ps(k, z));
        _mm512_storeu_si512(ret->id + count, _mm512_maskz_compress_epi32(k, indices((uint32_t)ret->first + i)));
        count += (uint32_t)__builtin_popcount(k);
    }
    ret->n = count;
    if (ret_mass != NULL)
        *ret_mass = total(sum);
}

static double weigh(struct sk_cands *c)
{
    struct sum sum = zero();

    for (uint32_t i = 0; i < c->n; i += 16) {
        const __m512 w = weight(_mm512_sub_ps(_mm512_set1_ps(c->max), _mm512_loadu_ps(c->z + i)));
        _mm512_storeu_ps(c->w + i, w);
        add(&sum, _mm512_maskz_mov_ps(lanes_below(c->n - i), w));
    }
    return total(sum);
}

static double spread(const struct sk_cands *c)
{
    struct sum sum = zero();

    for (uint32_t i = 0; i < c->n; i += 16) {
        const __m512 w = _mm512_maskz_loadu_ps(lanes_below(c->n - i), c->w + i);
        const __mmask16 some = _mm512_cmp_ps_mask(w, _mm512_setzero_ps(), _CMP_GT_OQ); /* 0 * Inf is no sum */
        const __m512 d = _mm512_sub_ps(_mm512_set1_ps(c->max), _mm512_loadu_ps(c->z + i));
        add(&sum, _mm512_roundscale_ps(_mm512_maskz_mul_ps(some, w, d), NEAREST));
    }
    return total(sum);
}

static struct sk_cand_split split(const struct sk_keys *k, float pivot)
{
    const __m512 p = _mm512_set1_ps(pivot);
    struct sum above = zero(), equal = zero();
    struct sk_cand_split ret = {0};

    for (uint32_t i = 0; i < k->n; i += 16) {
        const __m512 key = _mm512_loadu_ps(k->key + i), w = _mm512_loadu_ps(k->w + i);
        const __mmask16 there = lanes_below(k->n - i);
        const __mmask16 same = _mm512_mask_cmp_ps_mask(there, key, p, _CMP_EQ_OQ);
        add(&above, _mm512_maskz_mov_ps(_mm512_mask_cmp_ps_mask(there, key, p, _CMP_GT_OQ), w));
        if (same != 0) {
            add(&equal, _mm512_maskz_mov_ps(same, w));
            ret.n_equal += (uint32_t)__builtin_popcount(same);
        }
    }
    ret.above = total(above);
    ret.equal = total(equal);
    return ret;
}

static void narrow(const struct sk_keys *k, float pivot, bool above, struct sk_keys *ret)
{
    const uint32_t n = k->n;
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 16) {
        const __m512 key = _mm512_loadu_ps(k->key + i), w = _mm512_loadu_ps(k->w + i), p = _mm512_set1_ps(pivot);
        const __mmask16 there = lanes_below(n - i);
        const __mmask16 left = above ? _mm512_mask_cmp_ps_mask(there, key, p, _CMP_GT_OQ)
                                     : _mm512_mask_cmp_ps_mask(there, key, p, _CMP_LT_OQ);
        if (left == 0)
            continue;
        _mm512_storeu_ps(ret->key + count, _mm512_maskz_compress_ps(left, key));
        _mm512_storeu_ps(ret->w + count, _mm512_maskz_compress_ps(left, w));
        count += (uint32_t)__builtin_popcount(left);
    }
    ret->n = count;
}

static void keep(struct sk_cands *c, const float *key, float limit, uint32_t last)
{
    const __m512 least = _mm512_set1_ps(limit);
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->n; i += 16) {
        const __m512 k = _mm512_loadu_ps(key + i), z = _mm512_loadu_ps(c->z + i), w = _mm512_loadu_ps(c->w + i);
        const __m512i id = _mm512_loadu_si512(c->id + i);
        const __mmask16 ties = i <= last ? lanes_below((size_t)last - i + 1) : 0;
        const __mmask16 kept = lanes_below(c->n - i) & (_mm512_cmp_ps_mask(k, least, _CMP_GT_OQ) |
                                                        _mm512_mask_cmp_ps_mask(ties, k, least, _CMP_EQ_OQ));
        if (kept == 0)
            continue;
        _mm512_storeu_ps(c->z + count, _mm512_maskz_compress_ps(kept, z));
        _mm512_storeu_ps(c->w + count, _mm512_maskz_compress_ps(kept, w));
        _mm512_storeu_si512(c->id + count, _mm512_maskz_compress_epi32(kept, id));
        count += (uint32_t)__builtin_popcount(kept);
    }
    c->n = count;
}

/* What the random words of a row are made of (comm/base/rng.h). */
struct rng {
    uint32_t key[10][2]; /* of the rounds */
    uint32_t pos, choice;
};

/* Philox4x32-10 of 16 counters {quad, pos, choice, 0}. Even and odd lanes go apart: what is above the low word of a
 * 64-bit lane is left to be anything. */
INLINE void philox(const struct rng *rng, __m512i quad, __m512i ret[4])
{
    const __m512i m0 = _mm512_set1_epi32((int)0xD2511F53), m1 = _mm512_set1_epi32((int)0xCD9E8D57);
    const __m512i pos = _mm512_set1_epi32((int)rng->pos), choice = _mm512_set1_epi32((int)rng->choice);
    __m512i c[2][4] = {{quad, pos, choice, _mm512_setzero_si512()},
                       {_mm512_srli_epi64(quad, 32), pos, choice, _mm512_setzero_si512()}};

    UNROLL
    for (int round = 0; round < 10; round++) {
        const __m512i key0 = _mm512_set1_epi32((int)rng->key[round][0]);
        const __m512i key1 = _mm512_set1_epi32((int)rng->key[round][1]);
        UNROLL
        for (int half = 0; half < 2; half++) {
            __m512i *h = c[half];
            const __m512i p0 = _mm512_mul_epu32(h[0], m0), p1 = _mm512_mul_epu32(h[2], m1);
            h[0] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p1, 32), h[1], key0, 0x96); /* xor of three */
            h[2] = _mm512_ternarylogic_epi32(_mm512_srli_epi64(p0, 32), h[3], key1, 0x96);
            h[1] = p1;
            h[3] = p0;
        }
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        ret[i] = _mm512_mask_mov_epi32(c[0][i], 0xaaaa, _mm512_slli_epi64(c[1][i], 32));
}

/* sk_fm_log. */
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

/* The best z + noise so far. */
struct best {
    float v;
    int32_t id;
    float margin; /* more than rounding can make of a z + noise */
    float offset; /* of the exponent in look() */
};

static void set_best(struct best *best, float v)
{
    best->v = v;
    best->offset = (127 + 23) * 0x1p23f + 1024 - (v - best->margin) * PER_NAT;
}

/* Looks at 16 candidates and the random words of their ids. Noise g = -log(-log u) is a pair of logarithms, and almost
 * none of the candidates can win: g > d takes -log u < e^-d, and so 1 - u < e^-d. The right side is bounded from above
 * by -d * PER_NAT + offset read as the bits of a float (Schraudolph, "A fast, compact approximation of the exponential
 * function", 1999): a chord of 2^x never lies below it. Both sides are times 2^23. */
INLINE void look(struct best *best, __mmask16 there, __m512i id, __m512 z, __m512i word)
{
    const __m512 bits = _mm512_cvtepi32_ps(_mm512_srli_epi32(word, 9));
    __m512 y = _mm512_fmadd_ps(z, _mm512_set1_ps(PER_NAT), _mm512_set1_ps(best->offset));
    y = _mm512_min_ps(y, _mm512_set1_ps((127 + 24) * 0x1p23f)); /* more is not needed and would not be an int32 */
    const __m512 bound = _mm512_castsi512_ps(_mm512_cvttps_epi32(y));
    __mmask16 k =
        _mm512_mask_cmp_ps_mask(there, _mm512_sub_ps(_mm512_set1_ps(0x1p23f - 0.5f), bits), bound, _CMP_LE_OQ);
    if (__builtin_expect(k == 0, 1))
        return;
    const __m512 u = _mm512_mul_ps(_mm512_add_ps(bits, _mm512_set1_ps(0.5f)), _mm512_set1_ps(0x1p-23f));
    const __m512 sign = _mm512_set1_ps(-0.0f);
    const __m512 v = _mm512_sub_ps(z, log_ps(_mm512_xor_ps(log_ps(u), sign)));
    k = _mm512_mask_cmp_ps_mask(k, v, _mm512_set1_ps(best->v), _CMP_GT_OQ);
    if (k == 0)
        return;
    set_best(best, _mm512_mask_reduce_max_ps(k, v));
    k = _mm512_mask_cmp_ps_mask(k, v, _mm512_set1_ps(best->v), _CMP_EQ_OQ);
    best->id = _mm512_mask_reduce_min_epi32(k, id);
}

/* Random words of the 64 tokens from `token`, a multiple of 64. Counter lane 4l + k is quad 4k + l, so that the 4 x 4
 * transpositions inside 128-bit lanes leave words and tokens in the same order. */
INLINE void words_of_64(const struct rng *rng, uint32_t token, __m512i ret[4])
{
    const __m512i quad = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i c[4];

    philox(rng, _mm512_add_epi32(quad, _mm512_set1_epi32((int)(token / 4))), c);
    __m512i a = _mm512_unpacklo_epi32(c[0], c[1]), b = _mm512_unpacklo_epi32(c[2], c[3]);
    __m512i d = _mm512_unpackhi_epi32(c[0], c[1]), e = _mm512_unpackhi_epi32(c[2], c[3]);
    ret[0] = _mm512_unpacklo_epi64(a, b);
    ret[1] = _mm512_unpackhi_epi64(a, b);
    ret[2] = _mm512_unpacklo_epi64(d, e);
    ret[3] = _mm512_unpackhi_epi64(d, e);
}

/* Random words of any 16 tokens. */
INLINE __m512i words_of(const struct rng *rng, __m512i id)
{
    __m512i c[4];

    philox(rng, _mm512_srli_epi32(id, 2), c);
    const __mmask16 odd = _mm512_test_epi32_mask(id, _mm512_set1_epi32(1));
    return _mm512_mask_mov_epi32(_mm512_mask_mov_epi32(c[0], odd, c[1]),
                                 _mm512_test_epi32_mask(id, _mm512_set1_epi32(2)),
                                 _mm512_mask_mov_epi32(c[2], odd, c[3]));
}

/* Candidates from i on that are among the 64 tokens from `token`; returns the first that is not. */
static uint32_t look_at_64(const struct sk_cands *c, uint32_t i, uint32_t token, const struct rng *rng,
                           struct best *best)
{
    const __m512i end = _mm512_set1_epi32((int)(token + 64));
    __m512i w[4];

    words_of_64(rng, token, w);
    for (uint32_t end64 = i + 64;; i += 16) {
        const __m512i id = _mm512_loadu_si512(c->id + i);
        const __mmask16 there = _mm512_mask_cmplt_epi32_mask(lanes_below(c->n - i), id, end);
        const __m512i word = _mm512_mask_mov_epi32(
            _mm512_permutex2var_epi32(w[0], id, w[1]), _mm512_test_epi32_mask(id, _mm512_set1_epi32(32)),
            _mm512_permutex2var_epi32(w[2], id, w[3])); /* by the low bits of the id */
        look(best, there, id, _mm512_loadu_ps(c->z + i), word);
        if (there != 0xffff)
            return i + (uint32_t)__builtin_popcount(there);
        if (i + 16 == end64)
            return end64;
    }
}

static int32_t draw(const struct sk_cands *c, float max, const struct sk_samp *s)
{
    const float size = max < 0 ? -max : max;
    struct rng rng = {.pos = s->pos, .choice = s->choice};
    struct best best = {.margin = 0x1p-10f + size * 0x1p-21f};

    for (uint32_t i = 0; i < 10; i++) {
        rng.key[i][0] = (uint32_t)s->seed + i * 0x9E3779B9;
        rng.key[i][1] = (uint32_t)(s->seed >> 32) + i * 0xBB67AE85;
    }
    set_best(&best, max + SK_GUMBEL_MIN - 0.1f - size * 0x1p-22f); /* less than the most probable gets */
    for (uint32_t i = 0; i < c->n;) {
        const uint32_t token = (uint32_t)c->id[i] & ~(uint32_t)63;
        if (i + 16 <= c->n && (uint32_t)c->id[i + 15] - token < 64) {
            i = look_at_64(c, i, token, &rng, &best);
            continue;
        }
        const __m512i id = _mm512_loadu_si512(c->id + i);
        look(&best, lanes_below(c->n - i), id, _mm512_loadu_ps(c->z + i), words_of(&rng, id));
        i += 16;
    }
    return best.id;
}

void sk_sample_avx512(struct sk_ktab *t)
{
    t->take = take;
    t->weigh = weigh;
    t->spread = spread;
    t->split = split;
    t->narrow = narrow;
    t->keep = keep;
    t->draw = draw;
}
