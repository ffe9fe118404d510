/* Attention in f32; keys and values of bf16 and q8 are widened as they are loaded, exactly (bf16) or to scale * int8
 * rounded once. Nothing else is rounded to less than f32: products and sums are fused, in the order of dimensions
 * (scores) and of positions (outputs). A tile's queries are taken in panels that fill the registers; a panel goes
 * through a split in three passes: scores of all positions, softmax, weighted sum of values. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx2.h"

enum { PANEL = 6 };
#include "kernels/cpu/attn_span.h"

/* Row stride of scores in floats: off a power of two, so that rows fall into different cache sets. */
enum { LD_S = SK_SPLIT_TOK + 16 };

/* Heights of panels; a panel of n queries is computed as the next of them. */
static const uint8_t panel_height[PANEL + 1] = {0, 1, 2, 3, 4, 6, 6};

struct scratch {
    float q[SK_ATTN_TILE + PANEL][SK_ATTN_MAX_HEAD_DIM]; /* in use: rows of head_stride */
    float s[PANEL][LD_S];                                /* scores, then weights */
};
_Static_assert(sizeof(struct scratch) <= SK_ATTN_SCRATCH_BYTES, "attention's scratch");

/* One tile at work in one split. */
struct work {
    const struct sk_attn_tile *t;
    struct scratch *w;
    struct span span;
    struct sk_attn_part *into;
};

/* Where a block's keys or values lie, and their scales (q8). */
struct side {
    const char *at;
    const float *scale;
};

INLINE struct side keys_of(const struct work *w, const enum sk_dtype dtype, uint32_t b)
{
    const struct sk_kv_layer *kv = w->t->kv;
    const char *at = sk_attn_block(kv, w->t->table[w->span.begin / SK_KV_BLOCK + b], w->t->kv_head);
    return (struct side){at, (const float *)(at + 2 * sk_attn_side_bytes(dtype, kv->head_stride))};
}

INLINE struct side values_of(const struct work *w, const enum sk_dtype dtype, uint32_t b)
{
    const uint32_t n = w->t->kv->head_stride;
    const struct side keys = keys_of(w, dtype, b);
    return (struct side){keys.at + sk_attn_side_bytes(dtype, n), keys.scale + (size_t)sk_attn_scales(n) * SK_KV_BLOCK};
}

/* Lines i and i + 1 of width `ld` lie side by side in bf16 and q8: column c of line i, and its 7 neighbours. */
INLINE __m256 load_line(const enum sk_dtype dtype, const char *at, size_t ld, size_t i, size_t c)
{
    if (dtype == SK_F32)
        return _mm256_loadu_ps((const float *)at + i * ld + c);
    const uint16_t *pairs = (const uint16_t *)at + (i / 2 * ld + c) * (dtype == SK_BF16 ? 2 : 1);
    if (dtype == SK_BF16) {
        const __m256i x = _mm256_loadu_si256((const __m256i *)pairs);
        return _mm256_castsi256_ps(i % 2 ? _mm256_and_si256(x, _mm256_set1_epi32((int)0xffff0000))
                                         : _mm256_slli_epi32(x, 16));
    }
    const __m256i x = _mm256_cvtepi16_epi32(_mm_loadu_si128((const __m128i *)pairs));
    return _mm256_cvtepi32_ps(_mm256_srai_epi32(i % 2 ? x : _mm256_slli_epi32(x, 24), i % 2 ? 8 : 24));
}

INLINE __m256 load_key(const enum sk_dtype dtype, struct side k, size_t d, size_t pos)
{
    const __m256 x = load_line(dtype, k.at, SK_KV_BLOCK, d, pos);
    if (dtype != SK_Q8)
        return x;
    return _mm256_mul_ps(x, _mm256_loadu_ps(k.scale + d / SK_QBLOCK * SK_KV_BLOCK + pos));
}

INLINE __m256 load_value(const enum sk_dtype dtype, struct side v, size_t ld, size_t pos, size_t d)
{
    const __m256 x = load_line(dtype, v.at, ld, pos, d);
    return dtype != SK_Q8 ? x : _mm256_mul_ps(x, _mm256_set1_ps(v.scale[d / SK_QBLOCK * SK_KV_BLOCK + pos]));
}

/* acc[r][j] += q[r][d] * K[d] at 8 c positions from pos. */
INLINE void add_dim(const enum sk_dtype dtype, struct side k, const float *q, size_t n, size_t d, size_t pos,
                    __m256 acc[][4], const int m, const int c)
{
    __m256 kd[4];

    UNROLL
    for (int j = 0; j < c; j++)
        kd[j] = load_key(dtype, k, d, pos + 8 * (size_t)j);
    UNROLL
    for (int r = 0; r < m; r++) {
        const __m256 qr = _mm256_set1_ps(q[(size_t)r * n + d]);
        UNROLL
        for (int j = 0; j < c; j++)
            acc[r][j] = _mm256_fmadd_ps(qr, kd[j], acc[r][j]);
    }
}

/* s[r][0..31] = q[r] . K, for the 32 positions of a block. A low panel (decoding) waits for memory: it asks for the
 * keys of the next block, and for the values of this one, which are needed last, into the second-level cache. */
INLINE void scores(const struct work *w, const enum sk_dtype dtype, const float *q, uint32_t b, float *s, const int m)
{
    const size_t n = w->t->kv->head_stride, pair_bytes = 2 * sk_attn_side_bytes(dtype, 1);
    const struct side k = keys_of(w, dtype, b), v = values_of(w, dtype, b),
                      next = keys_of(w, dtype, b + 1 < w->span.end_block ? b + 1 : b);
    const int c = m <= 3 ? 4 : 2;

    for (size_t pos = 0; pos < SK_KV_BLOCK; pos += 8 * (size_t)c) {
        __m256 acc[PANEL][4];
        UNROLL
        for (int r = 0; r < m; r++) {
            UNROLL
            for (int j = 0; j < c; j++)
                acc[r][j] = _mm256_setzero_ps();
        }
        for (size_t d = 0; d < n; d += 2) {
            if (m <= 4 && pos == 0) {
                UNROLL
                for (size_t i = 0; i < pair_bytes; i += 64) {
                    _mm_prefetch(next.at + d / 2 * pair_bytes + i, _MM_HINT_T0);
                    _mm_prefetch(v.at + d / 2 * pair_bytes + i, _MM_HINT_T1);
                }
            }
            add_dim(dtype, k, q, n, d, pos, acc, m, c);
            add_dim(dtype, k, q, n, d + 1, pos, acc, m, c);
        }
        UNROLL
        for (int r = 0; r < m; r++) {
            UNROLL
            for (int j = 0; j < c; j++)
                _mm256_storeu_ps(s + r * LD_S + pos + 8 * (size_t)j, acc[r][j]);
        }
    }
}

/* 2^x: a polynomial over the fraction in -1/2..1/2, exact at 0; relative error 1e-8. 0 below -126, so that nothing
 * denormal slows what follows. x <= 0. */
INLINE __m256 exp2_ps(__m256 x)
{
    static const float coef[] = {
        0.000154531634f, 0.00133908633f, 0.00961808302f, 0.0555035695f, 0.240226507f, 0.693147182f, 1};
    const __m256 normal = _mm256_cmp_ps(x, _mm256_set1_ps(-126), _CMP_NLT_UQ);
    const __m256 whole = _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m256 r = _mm256_sub_ps(x, whole);
    __m256 p = _mm256_set1_ps(coef[0]);

    UNROLL
    for (int i = 1; i < 7; i++)
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(coef[i]));
    return _mm256_and_ps(normal, _mm256_mul_ps(p, power_of_2(_mm256_cvtps_epi32(whole))));
}

INLINE float exp2_of(float x)
{
    return _mm256_cvtss_f32(exp2_ps(_mm256_set1_ps(x)));
}

/* Lanes whose bit is set. */
INLINE __m256 lanes_of(uint32_t bits)
{
    const __m256i bit = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32((int)bits), bit), bit));
}

/* Scores of query r -> weights, their maximum and sum. Those that it does not see may hold anything: selected away. */
static void softmax(const struct work *w, struct panel *p, uint32_t r)
{
    float *s = w->w->s[r];
    __m256 max = _mm256_set1_ps(-__builtin_inff()), sum = _mm256_setzero_ps();

    for (uint32_t i = p->block * SK_KV_BLOCK; i < p->end_block * SK_KV_BLOCK; i += 8) {
        const __m256 sees = lanes_of(seen(i, p->lo[r], p->hi[r]));
        max = _mm256_blendv_ps(max, _mm256_max_ps(max, _mm256_loadu_ps(s + i)), sees);
    }
    p->max[r] = max_lane(max);
    /* Where all are -Inf, all weights are 0: 2^(-Inf - 0). */
    max = _mm256_set1_ps(p->max[r] == -__builtin_inff() ? 0 : p->max[r]);
    for (uint32_t i = p->block * SK_KV_BLOCK; i < p->end_block * SK_KV_BLOCK; i += 8) {
        const __m256 sees = lanes_of(seen(i, p->lo[r], p->hi[r]));
        const __m256 e = _mm256_and_ps(sees, exp2_ps(_mm256_sub_ps(_mm256_loadu_ps(s + i), max)));
        _mm256_storeu_ps(s + i, e);
        sum = _mm256_add_ps(sum, e);
    }
    p->sum[r] = sum_ps(sum);
}

/* acc[r][j] += p[r][i] V[i], for c vectors of columns from d. Where some rows see less than the block (`sees` is not
 * NULL), those keep what they have, for 0 * NaN would not be nothing. Bit i of sees[r]: row r sees entry i. */
INLINE void add_position(const enum sk_dtype dtype, struct side v, const float *p, size_t n, size_t i, size_t d,
                         const uint32_t *sees, __m256 acc[][4], const int m, const int c)
{
    __m256 vi[4];

    UNROLL
    for (int j = 0; j < c; j++)
        vi[j] = load_value(dtype, v, n, i, d + 8 * (size_t)j);
    UNROLL
    for (int r = 0; r < m; r++) {
        const __m256 pr = _mm256_set1_ps(p[(size_t)r * LD_S + i]);
        if (sees != NULL && !(sees[r] >> i & 1))
            continue;
        UNROLL
        for (int j = 0; j < c; j++)
            acc[r][j] = _mm256_fmadd_ps(pr, vi[j], acc[r][j]);
    }
}

/* Joins maximum and sum of query i with (max, sum) of positions after it: weights of the two. */
INLINE void fold(struct sk_attn_part *into, uint32_t i, float max, float sum, float *ret_keep, float *ret_take)
{
    const bool first = into->sum[i] == 0;
    const float high = first || max > into->max[i] ? max : into->max[i];
    *ret_keep = first ? 0 : exp2_of(into->max[i] - high);
    *ret_take = exp2_of(max - high);
    into->sum[i] = (first ? 0 : into->sum[i] * *ret_keep) + sum * *ret_take;
    into->max[i] = high;
}

/* 8 columns of an output: what was there, and what this split adds. */
INLINE void fold_columns(float *out, __m256 add, float keep, float take, bool old)
{
    const __m256 was = old ? _mm256_loadu_ps(out) : _mm256_setzero_ps();
    _mm256_storeu_ps(out, _mm256_fmadd_ps(was, _mm256_set1_ps(keep), _mm256_mul_ps(add, _mm256_set1_ps(take))));
}

/* 8 c columns of the outputs from d. */
INLINE void sum_columns(const struct work *w, const enum sk_dtype dtype, const struct panel *p, size_t d, const int m,
                        const int c)
{
    const size_t n = w->t->kv->head_stride;
    __m256 acc[PANEL][4];

    UNROLL
    for (int r = 0; r < m; r++) {
        UNROLL
        for (int j = 0; j < c; j++)
            acc[r][j] = _mm256_setzero_ps();
    }
    for (uint32_t b = p->block; b < p->end_block; b++) {
        const float *weights = w->w->s[0] + (size_t)b * SK_KV_BLOCK;
        const struct side v = values_of(w, dtype, b);
        if (all_seen(p, b)) {
            for (size_t i = 0; i < SK_KV_BLOCK; i += 2) {
                add_position(dtype, v, weights, n, i, d, NULL, acc, m, c);
                add_position(dtype, v, weights, n, i + 1, d, NULL, acc, m, c);
            }
        } else {
            uint32_t sees[PANEL];
            for (int r = 0; r < m; r++)
                sees[r] = seen(b * SK_KV_BLOCK, p->lo[r], p->hi[r]);
            for (size_t i = 0; i < SK_KV_BLOCK; i++)
                add_position(dtype, v, weights, n, i, d, sees, acc, m, c);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        if ((uint32_t)r == p->n)
            break;
        UNROLL
        for (int j = 0; j < c; j++)
            fold_columns(w->into->out + (p->at + (size_t)r) * n + d + 8 * (size_t)j, acc[r][j], p->keep[r], p->take[r],
                         p->old[r]);
    }
}

INLINE void run_panel(const struct work *w, const enum sk_dtype dtype, struct panel *p, const int m)
{
    const uint32_t n = w->t->kv->head_stride;
    const int c = m <= 3 ? 4 : 2;
    uint32_t d = 0;

    for (uint32_t b = p->block; b < p->end_block; b++)
        scores(w, dtype, w->w->q[0] + (size_t)p->at * n, b, w->w->s[0] + (size_t)b * SK_KV_BLOCK, m);
    for (uint32_t r = 0; r < p->n; r++) {
        softmax(w, p, r);
        p->old[r] = w->into->sum[p->at + r] != 0;
        fold(w->into, p->at + r, p->max[r], p->sum[r], &p->keep[r], &p->take[r]);
    }
    for (; d + 8 * (uint32_t)c <= n; d += 8 * (uint32_t)c)
        sum_columns(w, dtype, p, d, m, c);
    if (d < n)
        sum_columns(w, dtype, p, d, m, 2);
}

/* A panel of each height is a function of its own: its sums are registers. */
INLINE void run_height(const struct work *w, const enum sk_dtype dtype, struct panel *p)
{
    switch (panel_height[p->n]) {
// clang-format off
#define HEIGHT(m) case m: run_panel(w, dtype, p, m); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(6)
#undef HEIGHT
        // clang-format on
    }
}

static void load_q(const struct sk_attn_tile *t, float *q)
{
    const __m256 scale = _mm256_set1_ps(t->scale * 1.44269504f);
    const size_t n = (size_t)t->n_row * t->n_head * t->kv->head_stride;

    for (size_t i = 0; i < n; i += 8)
        _mm256_storeu_ps(q + i, _mm256_mul_ps(_mm256_loadu_ps(t->q + i), scale));
}

INLINE void run(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                void *scratch, const enum sk_dtype dtype)
{
    struct work w = {.t = t, .w = scratch, .into = into};

    load_q(t, w.w->q[0]);
    for (uint32_t s = split; s < split + n_split; s++) {
        struct panel p;
        if (!span_of(t, s, &w.span))
            continue;
        for (uint32_t at = w.span.row * t->n_head; at < w.span.end_row * t->n_head; at += PANEL) {
            panel_of(t, &w.span, at, &p);
            run_height(&w, dtype, &p);
        }
    }
}

static void attn_f32(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                     void *scratch)
{
    run(t, split, n_split, into, scratch, SK_F32);
}

static void attn_bf16(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                      void *scratch)
{
    run(t, split, n_split, into, scratch, SK_BF16);
}

static void attn_q8(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                    void *scratch)
{
    run(t, split, n_split, into, scratch, SK_Q8);
}

static void attn_merge(struct sk_attn_part *into, const struct sk_attn_part *p, uint32_t n, uint32_t head_stride)
{
    for (uint32_t i = 0; i < n; i++) {
        float keep, take, *out = into->out + (size_t)i * head_stride;
        const float *add = p->out + (size_t)i * head_stride;
        const bool old = into->sum[i] != 0;
        if (p->sum[i] == 0)
            continue; /* nothing seen: p->out is not set */
        fold(into, i, p->max[i], p->sum[i], &keep, &take);
        for (uint32_t d = 0; d < head_stride; d += 8)
            fold_columns(out + d, _mm256_loadu_ps(add + d), keep, take, old);
    }
}

static void attn_out(const struct sk_attn_part *p, uint32_t i, uint32_t head_stride, float *out)
{
    const __m256 inv = _mm256_set1_ps(1 / p->sum[i]);
    for (uint32_t d = 0; d < head_stride; d += 8)
        _mm256_storeu_ps(out + d, _mm256_mul_ps(_mm256_loadu_ps(p->out + (size_t)i * head_stride + d), inv));
}

void sk_attn_avx2(struct sk_ktab *t)
{
    sk_ktab_put_attn(t, SK_F32, attn_f32);
    sk_ktab_put_attn(t, SK_BF16, attn_bf16);
    sk_ktab_put_attn(t, SK_Q8, attn_q8);
    t->attn_merge = attn_merge;
    t->attn_out = attn_out;
}
