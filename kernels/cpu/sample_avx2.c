/* Candidates, their weights and the draw. exp and log are those of kernels/ref/fmath.h operation by operation, nothing
 * is fused; sums are of whole numbers, so exact: the tokens are those of kernels/ref. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/ref/sample.h"

enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
static const float PER_NAT = 0x1.715476p+23f; /* log2(e) of a float's exponent */

INLINE __m256 mask_below(uint32_t n)
{
    return _mm256_castsi256_ps(lanes_below(n));
}

INLINE uint32_t bits_of(__m256 mask)
{
    return (uint32_t)_mm256_movemask_ps(mask);
}

/* Lanes whose bit is set, side by side; returns their number. Up to 4 words beyond them are written. */
INLINE uint32_t put(float *to, __m256 v, uint32_t bits)
{
    static const int32_t lanes[16][4] = {{0}, {0},    {1},    {0, 1},    {2},    {0, 2},    {1, 2},    {0, 1, 2},
                                         {3}, {0, 3}, {1, 3}, {0, 1, 3}, {2, 3}, {0, 2, 3}, {1, 2, 3}, {0, 1, 2, 3}};
    const __m128i low = _mm_loadu_si128((const __m128i *)lanes[bits & 15]);
    const __m128i high = _mm_loadu_si128((const __m128i *)lanes[bits >> 4]);
    const uint32_t n_low = (uint32_t)__builtin_popcount(bits & 15);

    _mm_storeu_ps(to, _mm_permutevar_ps(_mm256_castps256_ps128(v), low));
    _mm_storeu_ps(to + n_low, _mm_permutevar_ps(_mm256_extractf128_ps(v, 1), high));
    return (uint32_t)__builtin_popcount(bits);
}

INLINE void put_id(int32_t *to, __m256i id, uint32_t bits)
{
    put((float *)to, _mm256_castsi256_ps(id), bits);
}

/* sk_sample_weight. */
INLINE __m256 weight(__m256 d)
{
    static const float coef[] = {0x1.23a6p-10f, 0x1.3cbea8p-7f, 0x1.c74322p-5f, 0x1.ebfa4ep-3f, 0x1.62e39ep-1f, 1};
    const __m256 x = _mm256_mul_ps(d, _mm256_set1_ps(-0x1.715476p+0f));
    const __m256 above = _mm256_cmp_ps(x, _mm256_set1_ps(-40), _CMP_GT_OQ); /* no for NaN */
    const __m256 k = _mm256_round_ps(x, NEAREST), f = _mm256_sub_ps(x, k);
    __m256 p = _mm256_set1_ps(coef[0]);

    UNROLL
    for (int i = 1; i < 6; i++)
        p = _mm256_add_ps(_mm256_mul_ps(p, f), _mm256_set1_ps(coef[i]));
    p = _mm256_mul_ps(p, power_of_2(_mm256_add_epi32(_mm256_cvtps_epi32(k), _mm256_set1_epi32(32))));
    return _mm256_round_ps(_mm256_and_ps(above, p), NEAREST);
}

INLINE __m256i indices(uint32_t i)
{
    return _mm256_add_epi32(_mm256_set1_epi32((int)i), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static void take(const float *x, uint32_t n, float temperature, float limit, struct sk_cands *ret, double *ret_mass)
{
    const __m256 minus_inf = _mm256_set1_ps(-__builtin_inff()), max = _mm256_set1_ps(ret->max);
    const __m256 t = _mm256_set1_ps(temperature), least = _mm256_set1_ps(limit);
    struct sum_pd sum = zero_pd();
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 there = mask_below(n - i);
        const __m256 v = _mm256_blendv_ps(minus_inf, _mm256_maskload_ps(x + i, _mm256_castps_si256(there)), there);
        uint32_t k = bits_of(_mm256_cmp_ps(v, least, _CMP_GE_OQ));
        if (k == 0 && ret_mass == NULL)
            continue;
        const __m256 z = temperature == 1 ? v : _mm256_div_ps(v, t);
        k &= bits_of(_mm256_cmp_ps(z, minus_inf, _CMP_GT_OQ));
        if (ret_mass != NULL) {
            const __m256 w = weight(_mm256_sub_ps(max, z));
            add_pd(&sum, w);
            if (k == 0)
                continue;
            put(ret->w + count, w, k);
        }
        put_id(ret->id + count, indices((uint32_t)ret->first + i), k);
        count += put(ret->z + count, z, k);
    }
    ret->n = count;
    if (ret_mass != NULL)
        *ret_mass = total_pd(sum);
}

static double weigh(struct sk_cands *c)
{
    struct sum_pd sum = zero_pd();

    for (uint32_t i = 0; i < c->n; i += 8) {
        const __m256 w = weight(_mm256_sub_ps(_mm256_set1_ps(c->max), _mm256_loadu_ps(c->z + i)));
        _mm256_storeu_ps(c->w + i, w);
        add_pd(&sum, _mm256_and_ps(mask_below(c->n - i), w));
    }
    return total_pd(sum);
}

static double spread(const struct sk_cands *c)
{
    struct sum_pd sum = zero_pd();

    for (uint32_t i = 0; i < c->n; i += 8) {
        const __m256 w = _mm256_and_ps(mask_below(c->n - i), _mm256_loadu_ps(c->w + i));
        const __m256 some = _mm256_cmp_ps(w, _mm256_setzero_ps(), _CMP_GT_OQ); /* 0 * Inf is no sum */
        const __m256 d = _mm256_sub_ps(_mm256_set1_ps(c->max), _mm256_loadu_ps(c->z + i));
        add_pd(&sum, _mm256_round_ps(_mm256_and_ps(some, _mm256_mul_ps(w, d)), NEAREST));
    }
    return total_pd(sum);
}

static struct sk_cand_split split(const struct sk_keys *k, float pivot)
{
    const __m256 p = _mm256_set1_ps(pivot);
    struct sum_pd above = zero_pd(), equal = zero_pd();
    struct sk_cand_split ret = {0};

    for (uint32_t i = 0; i < k->n; i += 8) {
        const __m256 key = _mm256_loadu_ps(k->key + i);
        const __m256 w = _mm256_and_ps(mask_below(k->n - i), _mm256_loadu_ps(k->w + i));
        const __m256 same = _mm256_and_ps(mask_below(k->n - i), _mm256_cmp_ps(key, p, _CMP_EQ_OQ));
        add_pd(&above, _mm256_and_ps(_mm256_cmp_ps(key, p, _CMP_GT_OQ), w));
        if (bits_of(same) != 0) {
            add_pd(&equal, _mm256_and_ps(same, w));
            ret.n_equal += (uint32_t)__builtin_popcount(bits_of(same));
        }
    }
    ret.above = total_pd(above);
    ret.equal = total_pd(equal);
    return ret;
}

static void narrow(const struct sk_keys *k, float pivot, bool above, struct sk_keys *ret)
{
    const __m256 p = _mm256_set1_ps(pivot);
    const uint32_t n = k->n;
    uint32_t count = 0;

    for (uint32_t i = 0; i < n; i += 8) {
        const __m256 key = _mm256_loadu_ps(k->key + i), w = _mm256_loadu_ps(k->w + i);
        const __m256 side = above ? _mm256_cmp_ps(key, p, _CMP_GT_OQ) : _mm256_cmp_ps(key, p, _CMP_LT_OQ);
        const uint32_t left = bits_of(_mm256_and_ps(mask_below(n - i), side));
        if (left == 0)
            continue;
        put(ret->w + count, w, left);
        count += put(ret->key + count, key, left);
    }
    ret->n = count;
}

static void keep(struct sk_cands *c, const float *key, float limit, uint32_t last)
{
    const __m256 least = _mm256_set1_ps(limit);
    uint32_t count = 0;

    for (uint32_t i = 0; i < c->n; i += 8) {
        const __m256 k = _mm256_loadu_ps(key + i), z = _mm256_loadu_ps(c->z + i), w = _mm256_loadu_ps(c->w + i);
        const __m256i id = _mm256_loadu_si256((const __m256i *)(c->id + i));
        const __m256 ties = _mm256_castsi256_ps(lanes_below(i <= last ? (size_t)last - i + 1 : 0));
        const __m256 kept =
            _mm256_or_ps(_mm256_cmp_ps(k, least, _CMP_GT_OQ), _mm256_and_ps(ties, _mm256_cmp_ps(k, least, _CMP_EQ_OQ)));
        const uint32_t bits = bits_of(_mm256_and_ps(mask_below(c->n - i), kept));
        if (bits == 0)
            continue;
        put(c->w + count, w, bits);
        put_id(c->id + count, id, bits);
        count += put(c->z + count, z, bits);
    }
    c->n = count;
}

/* What the random words of a row are made of (comm/base/rng.h). */
struct rng {
    uint32_t key[10][2]; /* of the rounds */
    uint32_t pos, choice;
};

/* Philox4x32-10 of 8 counters {quad, pos, choice, 0}. Even and odd lanes go apart: what is above the low word of a
 * 64-bit lane is left to be anything. */
INLINE void philox(const struct rng *rng, __m256i quad, __m256i ret[4])
{
    const __m256i m0 = _mm256_set1_epi32((int)0xD2511F53), m1 = _mm256_set1_epi32((int)0xCD9E8D57);
    const __m256i pos = _mm256_set1_epi32((int)rng->pos), choice = _mm256_set1_epi32((int)rng->choice);
    __m256i c[2][4] = {{quad, pos, choice, _mm256_setzero_si256()},
                       {_mm256_srli_epi64(quad, 32), pos, choice, _mm256_setzero_si256()}};

    UNROLL
    for (int round = 0; round < 10; round++) {
        const __m256i key0 = _mm256_set1_epi32((int)rng->key[round][0]);
        const __m256i key1 = _mm256_set1_epi32((int)rng->key[round][1]);
        UNROLL
        for (int half = 0; half < 2; half++) {
            __m256i *h = c[half];
            const __m256i p0 = _mm256_mul_epu32(h[0], m0), p1 = _mm256_mul_epu32(h[2], m1);
            h[0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p1, 32), h[1]), key0);
            h[2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(p0, 32), h[3]), key1);
            h[1] = p1;
            h[3] = p0;
        }
    }
    UNROLL
    for (int i = 0; i < 4; i++)
        ret[i] = _mm256_blend_epi32(c[0][i], _mm256_slli_epi64(c[1][i], 32), 0xaa);
}

/* sk_fm_log. */
INLINE __m256 log_ps(__m256 x)
{
    const __m256 one = _mm256_set1_ps(1);
    __m256i bits = _mm256_castps_si256(x);
    __m256i e = _mm256_srai_epi32(_mm256_sub_epi32(bits, _mm256_set1_epi32(0x3f3504f3)), 23);
    __m256 m = _mm256_castsi256_ps(_mm256_sub_epi32(bits, _mm256_slli_epi32(e, 23)));
    __m256 s = _mm256_div_ps(_mm256_sub_ps(m, one), _mm256_add_ps(m, one)), z = _mm256_mul_ps(s, s);
    __m256 series = _mm256_mul_ps(z, _mm256_set1_ps(1.0f / 9));

    series = _mm256_mul_ps(z, _mm256_add_ps(_mm256_set1_ps(1.0f / 7), series));
    series = _mm256_mul_ps(z, _mm256_add_ps(_mm256_set1_ps(1.0f / 5), series));
    series = _mm256_mul_ps(z, _mm256_add_ps(_mm256_set1_ps(1.0f / 3), series));
    series = _mm256_add_ps(one, series);
    return _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(e), _mm256_set1_ps(0.693147181f)),
                         _mm256_mul_ps(_mm256_mul_ps(_mm256_set1_ps(2), s), series));
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

/* Looks at 8 candidates and the random words of their ids. Noise g = -log(-log u) is a pair of logarithms, and almost
 * none of the candidates can win: g > d takes -log u < e^-d, and so 1 - u < e^-d. The right side is bounded from above
 * by -d * PER_NAT + offset read as the bits of a float (Schraudolph, "A fast, compact approximation of the exponential
 * function", 1999): a chord of 2^x never lies below it. Both sides are times 2^23. */
INLINE void look(struct best *best, __m256 there, __m256i id, __m256 z, __m256i word)
{
    const __m256 bits = _mm256_cvtepi32_ps(_mm256_srli_epi32(word, 9)), sign = _mm256_set1_ps(-0.0f);
    int32_t ids[8];
    float v[8];

    __m256 y = _mm256_fmadd_ps(z, _mm256_set1_ps(PER_NAT), _mm256_set1_ps(best->offset));
    y = _mm256_min_ps(y, _mm256_set1_ps((127 + 24) * 0x1p23f)); /* more is not needed and would not be an int32 */
    const __m256 bound = _mm256_castsi256_ps(_mm256_cvttps_epi32(y));
    const __m256 low = _mm256_cmp_ps(_mm256_sub_ps(_mm256_set1_ps(0x1p23f - 0.5f), bits), bound, _CMP_LE_OQ);
    uint32_t k = bits_of(_mm256_and_ps(there, low));
    if (__builtin_expect(k == 0, 1))
        return;
    const __m256 u = _mm256_mul_ps(_mm256_add_ps(bits, _mm256_set1_ps(0.5f)), _mm256_set1_ps(0x1p-23f));
    _mm256_storeu_ps(v, _mm256_sub_ps(z, log_ps(_mm256_xor_ps(log_ps(u), sign))));
    _mm256_storeu_si256((__m256i *)ids, id);
    for (; k != 0; k &= k - 1) { /* ids rise: of equal ones, the first stays */
        const int i = __builtin_ctz(k);
        if (v[i] > best->v) {
            set_best(best, v[i]);
            best->id = ids[i];
        }
    }
}

/* Random words of the 32 tokens from `token`, a multiple of 32. Counter lane 4l + k is quad 2k + l, so that the 4 x 4
 * transpositions inside 128-bit lanes leave words and tokens in the same order. */
INLINE void words_of_32(const struct rng *rng, uint32_t token, __m256i ret[4])
{
    const __m256i quad = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
    __m256i c[4];

    philox(rng, _mm256_add_epi32(quad, _mm256_set1_epi32((int)(token / 4))), c);
    __m256i a = _mm256_unpacklo_epi32(c[0], c[1]), b = _mm256_unpacklo_epi32(c[2], c[3]);
    __m256i d = _mm256_unpackhi_epi32(c[0], c[1]), e = _mm256_unpackhi_epi32(c[2], c[3]);
    ret[0] = _mm256_unpacklo_epi64(a, b);
    ret[1] = _mm256_unpackhi_epi64(a, b);
    ret[2] = _mm256_unpacklo_epi64(d, e);
    ret[3] = _mm256_unpackhi_epi64(d, e);
}

/* a where the bit of `id` is 0, else b. */
INLINE __m256i by_bit(__m256i id, int bit, __m256i a, __m256i b)
{
    const __m256 pick = _mm256_castsi256_ps(_mm256_slli_epi32(id, 31 - bit));
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), pick));
}

/* Random words of any 8 tokens. */
INLINE __m256i words_of(const struct rng *rng, __m256i id)
{
    __m256i c[4];

    philox(rng, _mm256_srli_epi32(id, 2), c);
    return by_bit(id, 1, by_bit(id, 0, c[0], c[1]), by_bit(id, 0, c[2], c[3]));
}

/* Candidates from i on that are among the 32 tokens from `token`; returns the first that is not. */
static uint32_t look_at_32(const struct sk_cands *c, uint32_t i, uint32_t token, const struct rng *rng,
                           struct best *best)
{
    const __m256i end = _mm256_set1_epi32((int)(token + 32));
    __m256i w[4];

    words_of_32(rng, token, w);
    for (uint32_t end32 = i + 32;; i += 8) {
        const __m256i id = _mm256_loadu_si256((const __m256i *)(c->id + i));
        const __m256 there = _mm256_and_ps(mask_below(c->n - i), _mm256_castsi256_ps(_mm256_cmpgt_epi32(end, id)));
        __m256i part[4]; /* by the low bits of the id */
        UNROLL
        for (int j = 0; j < 4; j++)
            part[j] = _mm256_permutevar8x32_epi32(w[j], id);
        const __m256i word = by_bit(id, 4, by_bit(id, 3, part[0], part[1]), by_bit(id, 3, part[2], part[3]));
        look(best, there, id, _mm256_loadu_ps(c->z + i), word);
        if (bits_of(there) != 0xff)
            return i + (uint32_t)__builtin_popcount(bits_of(there));
        if (i + 8 == end32)
            return end32;
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
        const uint32_t token = (uint32_t)c->id[i] & ~(uint32_t)31;
        if (i + 8 <= c->n && (uint32_t)c->id[i + 7] - token < 32) {
            i = look_at_32(c, i, token, &rng, &best);
            continue;
        }
        const __m256i id = _mm256_loadu_si256((const __m256i *)(c->id + i));
        look(&best, mask_below(c->n - i), id, _mm256_loadu_ps(c->z + i), words_of(&rng, id));
        i += 8;
    }
    return best.id;
}

void sk_sample_avx2(struct sk_ktab *t)
{
    t->take = take;
    t->weigh = weigh;
    t->spread = spread;
    t->split = split;
    t->narrow = narrow;
    t->keep = keep;
    t->draw = draw;
}
