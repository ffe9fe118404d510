/* Attention in f32; caches of bf16 and q8 are widened block by block, exactly (bf16) or to scale * int8 rounded once.
 * Nothing else is rounded to less than f32: products and sums are fused, in the order of dimensions (scores) and of
 * positions (outputs). */
#include "kernels/cpu/ktab.h"

enum { PANEL = 12 };
#include "kernels/cpu/attn_avx512.h"

struct scratch {
    float q[SK_ATTN_TILE + PANEL][SK_ATTN_MAX_HEAD_DIM];        /* in use: rows of head_stride */
    float s[PANEL][LD_S];                                       /* scores, then weights */
    float wide[2][SK_SPLIT_TOK * (size_t)SK_ATTN_MAX_HEAD_DIM]; /* keys and values that are not f32 */
};
_Static_assert(sizeof(struct scratch) <= SK_ATTN_SCRATCH_BYTES, "attention's scratch");

/* One tile at work. */
struct work {
    const struct sk_attn_tile *t;
    struct scratch *w;
    struct span span;
    const char *k[SPLIT_BLOCKS], *v[SPLIT_BLOCKS]; /* where its blocks lie */
    struct sk_attn_part *into;
};

/* s[r][0..31] = q[r] . K, for the 32 positions of a block. A low panel (decoding) waits for memory: it asks for the
 * keys of the next block, and for the values of this one, which are needed last, into the second-level cache. */
INLINE void scores(const struct work *w, const float *q, uint32_t b, float *s, const int m)
{
    const size_t n = w->t->kv->head_stride;
    const char *k = w->k[b], *next = w->k[b + 1 < w->span.end_block ? b + 1 : b], *v = w->v[b];
    __m512 acc[PANEL][2];

    UNROLL
    for (int r = 0; r < m; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < n; d++) {
        const __m512 k0 = _mm512_loadu_ps(k + d * 128), k1 = _mm512_loadu_ps(k + d * 128 + 64);
        if (m <= 4) {
            UNROLL
            for (size_t i = 0; i < 128; i += 64) {
                _mm_prefetch(next + d * 128 + i, _MM_HINT_T0);
                _mm_prefetch(v + d * 128 + i, _MM_HINT_T1);
            }
        }
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512 qr = _mm512_set1_ps(q[(size_t)r * n + d]);
            acc[r][0] = _mm512_fmadd_ps(qr, k0, acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(qr, k1, acc[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        _mm512_storeu_ps(s + r * LD_S, acc[r][0]);
        _mm512_storeu_ps(s + r * LD_S + 16, acc[r][1]);
    }
}

/* Scores of query r -> weights, their maximum and sum. Those that it does not see may hold anything: selected away. */
static void softmax(const struct work *w, struct panel *p, uint32_t r)
{
    float *s = w->w->s[r];
    __m512 max = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();

    for (uint32_t i = p->block * SK_KV_BLOCK; i < p->end_block * SK_KV_BLOCK; i += 16) {
        const __mmask16 sees = (__mmask16)seen(i, p->lo[r], p->hi[r]);
        max = _mm512_mask_max_ps(max, sees, max, _mm512_loadu_ps(s + i));
    }
    p->max[r] = _mm512_reduce_max_ps(max);
    /* Where all are -Inf, all weights are 0: 2^(-Inf - 0). */
    max = _mm512_set1_ps(p->max[r] == -__builtin_inff() ? 0 : p->max[r]);
    for (uint32_t i = p->block * SK_KV_BLOCK; i < p->end_block * SK_KV_BLOCK; i += 16) {
        const __mmask16 sees = (__mmask16)seen(i, p->lo[r], p->hi[r]);
        const __m512 e = _mm512_maskz_mov_ps(sees, exp2_ps(_mm512_sub_ps(_mm512_loadu_ps(s + i), max), 6));
        _mm512_storeu_ps(s + i, e);
        sum = _mm512_add_ps(sum, e);
    }
    p->sum[r] = sum_ps(sum);
}

/* acc[r] += p[r] . V of a block: c vectors of columns, where every row sees the whole block. */
INLINE void values(const float *p, const char *v, size_t line, __m512 acc[][4], const int m, const int c)
{
    for (size_t i = 0; i < SK_KV_BLOCK; i++) {
        __m512 vi[4];
        UNROLL
        for (int j = 0; j < c; j++)
            vi[j] = _mm512_loadu_ps(v + i * line + (size_t)j * 64);
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512 pr = _mm512_set1_ps(p[(size_t)r * LD_S + i]);
            UNROLL
            for (int j = 0; j < c; j++)
                acc[r][j] = _mm512_fmadd_ps(pr, vi[j], acc[r][j]);
        }
    }
}

/* The same where some rows see less: those keep what they have, for 0 * NaN would not be nothing. Bit i of sees[r]: row
 * r sees entry i. */
INLINE void values_masked(const float *p, const char *v, size_t line, const uint32_t *sees, __m512 acc[][4],
                          const int m, const int c)
{
    for (size_t i = 0; i < SK_KV_BLOCK; i++) {
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512 pr = _mm512_set1_ps(p[(size_t)r * LD_S + i]);
            const __mmask16 k = (__mmask16)(0 - (sees[r] >> i & 1));
            UNROLL
            for (int j = 0; j < c; j++)
                acc[r][j] = _mm512_mask3_fmadd_ps(pr, _mm512_loadu_ps(v + i * line + (size_t)j * 64), acc[r][j], k);
        }
    }
}

INLINE const float *weights_of(const struct work *w, uint32_t b)
{
    return w->w->s[0] + (size_t)b * SK_KV_BLOCK;
}

#include "kernels/cpu/attn_panels.h"

static void load_q(const struct sk_attn_tile *t, float *q)
{
    const __m512 scale = _mm512_set1_ps(t->scale * 1.44269504f);
    const size_t n = (size_t)t->n_row * t->n_head * t->kv->head_stride;

    for (size_t i = 0; i < n; i += 16)
        _mm512_storeu_ps(q + i, _mm512_mul_ps(_mm512_loadu_ps(t->q + i), scale));
}

/* 16 pairs of neighbours as f32: the first of each, the second of each. */
INLINE void pairs_of_bf16(const char *from, __m512 *ret_first, __m512 *ret_second)
{
    const __m512i x = _mm512_loadu_si512(from);
    *ret_first = _mm512_castsi512_ps(_mm512_slli_epi32(x, 16));
    *ret_second = _mm512_castsi512_ps(_mm512_and_si512(x, _mm512_set1_epi32((int)0xffff0000)));
}

INLINE void pairs_of_q8(const char *from, __m512 *ret_first, __m512 *ret_second)
{
    const __m512i x = _mm512_cvtepi16_epi32(_mm256_loadu_si256((const __m256i *)from));
    *ret_first = _mm512_cvtepi32_ps(_mm512_srai_epi32(_mm512_slli_epi32(x, 24), 24));
    *ret_second = _mm512_cvtepi32_ps(_mm512_srai_epi32(x, 8));
}

/* Keys of a block, [n/2][32][2] -> [n][32]. scale: [ceil(n/32)][32]. */
INLINE void widen_keys(const char *k, const float *scale, uint32_t n, float *to, const bool q8)
{
    for (uint32_t d = 0; d < n; d += 2) {
        for (uint32_t i = 0; i < SK_KV_BLOCK; i += 16) {
            const char *from = k + ((size_t)d * SK_KV_BLOCK + 2 * (size_t)i) * (q8 ? 1 : 2);
            __m512 a, b;
            if (q8) {
                const __m512 s = _mm512_loadu_ps(scale + (size_t)d / SK_QBLOCK * SK_KV_BLOCK + i);
                pairs_of_q8(from, &a, &b);
                a = _mm512_mul_ps(a, s);
                b = _mm512_mul_ps(b, s);
            } else {
                pairs_of_bf16(from, &a, &b);
            }
            _mm512_storeu_ps(to + (size_t)d * SK_KV_BLOCK + i, a);
            _mm512_storeu_ps(to + ((size_t)d + 1) * SK_KV_BLOCK + i, b);
        }
    }
}

/* Values, [16][n][2] -> [32][n]. */
INLINE void widen_values(const char *v, const float *scale, uint32_t n, float *to, const bool q8)
{
    for (uint32_t i = 0; i < SK_KV_BLOCK; i += 2) {
        for (uint32_t d = 0; d < n; d += 16) {
            const char *from = v + ((size_t)i * n + 2 * (size_t)d) * (q8 ? 1 : 2);
            __m512 a, b;
            if (q8) {
                const float *s = scale + (size_t)d / SK_QBLOCK * SK_KV_BLOCK + i;
                pairs_of_q8(from, &a, &b);
                a = _mm512_mul_ps(a, _mm512_set1_ps(s[0]));
                b = _mm512_mul_ps(b, _mm512_set1_ps(s[1]));
            } else {
                pairs_of_bf16(from, &a, &b);
            }
            _mm512_storeu_ps(to + (size_t)i * n + d, a);
            _mm512_storeu_ps(to + ((size_t)i + 1) * n + d, b);
        }
    }
}

INLINE void load_kv(struct work *w, const enum sk_dtype dtype)
{
    const struct sk_attn_tile *t = w->t;
    const uint32_t n = t->kv->head_stride;
    const size_t side = sk_attn_side_bytes(dtype, n);

    for (uint32_t b = w->span.block; b < w->span.end_block; b++) {
        const char *k = sk_attn_block(t->kv, t->table[w->span.begin / SK_KV_BLOCK + b], t->kv_head), *v = k + side;
        if (dtype != SK_F32) {
            const float *scale = (const float *)(v + side);
            float *to = w->w->wide[0] + (size_t)b * SK_KV_BLOCK * n, *to_v = to + SK_SPLIT_TOK * (size_t)n;
            widen_keys(k, scale, n, to, dtype == SK_Q8);
            widen_values(v, scale + (size_t)sk_attn_scales(n) * SK_KV_BLOCK, n, to_v, dtype == SK_Q8);
            k = (const char *)to;
            v = (const char *)to_v;
        }
        w->k[b] = k;
        w->v[b] = v;
    }
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
        load_kv(&w, dtype);
        for (uint32_t at = w.span.row * t->n_head; at < w.span.end_row * t->n_head; at += PANEL) {
            panel_of(t, &w.span, at, &p);
            run_height(&w, &p);
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
        if (p->sum[i] == 0)
            continue; /* nothing seen: p->out is not set */
        const bool old = into->sum[i] != 0;
        fold(into, i, p->max[i], p->sum[i], &keep, &take);
        for (uint32_t d = 0; d < head_stride; d += 16)
            fold_columns(out + d, _mm512_loadu_ps(add + d), keep, take, old);
    }
}

static void attn_out(const struct sk_attn_part *p, uint32_t i, uint32_t head_stride, float *out)
{
    const __m512 inv = _mm512_set1_ps(1 / p->sum[i]);
    for (uint32_t d = 0; d < head_stride; d += 16)
        _mm512_storeu_ps(out + d, _mm512_mul_ps(_mm512_loadu_ps(p->out + (size_t)i * head_stride + d), inv));
}

void sk_attn_avx512(struct sk_ktab *t)
{
    sk_ktab_put_attn(t, SK_F32, attn_f32);
    sk_ktab_put_attn(t, SK_BF16, attn_bf16);
    sk_ktab_put_attn(t, SK_Q8, attn_q8);
    t->attn_merge = attn_merge;
    t->attn_out = attn_out;
}
