/* Attention of a tile of query rows over one split of positions. Both products, scores = q K and out = p V, are sums
 * over an outer index of (one number per row) x (32 neighbours), so that every load of K and V serves all rows of the
 * tile. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

/* Row strides in floats: off a power of two, so that the rows of a tile fall into different cache sets. */
enum { LD_Q = SK_ATTN_MAX_HEAD_DIM + 16, LD_S = SK_SPLIT_TOK + 16 };

struct tile {
    const struct sk_attn_tile *t;
    uint32_t n;                                         /* rows that count, of `height` computed */
    int height;                                         /* 1, 2, 3, 4, 6, 8 or 12 */
    uint32_t first, last;                               /* positions of the split that some row sees: first..last */
    uint32_t lo[SK_ATTN_TILE], hi[SK_ATTN_TILE];        /* row r sees lo[r]..hi[r]; none if lo > hi */
    float q[SK_ATTN_TILE][LD_Q], s[SK_ATTN_TILE][LD_S]; /* scaled queries; scores, then their exponentials */
};

INLINE __m512 load_kv(const void *p, size_t i, const bool half)
{
    if (half)
        return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)p + i)));
    return _mm512_loadu_ps((const float *)p + i);
}

/* Keys of the block that holds position pos; the values follow SK_KV_BLOCK * head_stride elements later. */
static const void *block_of(const struct sk_attn_tile *t, uint32_t pos)
{
    const struct sk_kv_layer *kv = t->kv;
    const uint64_t head_bytes = (uint64_t)2 * SK_KV_BLOCK * kv->head_stride * (kv->dtype == SK_F16 ? 2 : 4);
    const char *base = (const char *)(uintptr_t)kv->data.a; // NOLINT(performance-no-int-to-ptr)
    return base + (uint64_t)t->table[pos / SK_KV_BLOCK] * kv->block_bytes + t->kv_head * head_bytes;
}

/* s[r][0..31] = q[r] . K, for the 32 positions of a block. A low tile (decoding) waits for memory: it asks for the keys
 * of the next block, and for the values of this one, which are needed last, into the second-level cache. */
INLINE void scores(const struct tile *t, const void *k, const void *next_k, float *s, const int m, const bool half)
{
    const uint32_t line = SK_KV_BLOCK * (half ? 2 : 4), block = line * t->t->kv->head_stride; /* bytes */
    __m512 acc[SK_ATTN_TILE][2];

    UNROLL
    for (int r = 0; r < m; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (uint32_t d = 0; d < t->t->kv->head_dim; d++) {
        __m512 k0 = load_kv(k, d * SK_KV_BLOCK, half), k1 = load_kv(k, d * SK_KV_BLOCK + 16, half);
        if (m <= 4) {
            UNROLL
            for (uint32_t i = 0; i < line; i += 64) {
                _mm_prefetch((const char *)next_k + d * line + i, _MM_HINT_T0);
                _mm_prefetch((const char *)k + block + d * line + i, _MM_HINT_T1);
            }
        }
        UNROLL
        for (int r = 0; r < m; r++) {
            __m512 q = _mm512_set1_ps(t->q[r][d]);
            acc[r][0] = _mm512_fmadd_ps(q, k0, acc[r][0]);
            acc[r][1] = _mm512_fmadd_ps(q, k1, acc[r][1]);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        _mm512_storeu_ps(s + r * LD_S, acc[r][0]);
        _mm512_storeu_ps(s + r * LD_S + 16, acc[r][1]);
    }
}

/* acc[r] += p[r] . V[from..to), w vectors of columns, where every row sees all of from..to. */
INLINE void values(const float *p, const void *v, size_t ld, uint32_t from, uint32_t to, __m512 acc[][2], const int m,
                   const int w, const bool half)
{
    for (uint32_t i = from; i < to; i++) {
        UNROLL
        for (int c = 0; c < w; c++) {
            __m512 vc = load_kv(v, i * ld + 16 * (size_t)c, half);
            UNROLL
            for (int r = 0; r < m; r++)
                acc[r][c] = _mm512_fmadd_ps(_mm512_set1_ps(p[r * LD_S + i]), vc, acc[r][c]);
        }
    }
}

/* The same where some rows see less: those keep what they have, for 0 * NaN would not be nothing. Bit i of sees[r]: row
 * r sees entry i. */
INLINE void values_masked(const float *p, const void *v, size_t ld, const uint32_t *sees, uint32_t from, uint32_t to,
                          __m512 acc[][2], const int m, const int w, const bool half)
{
    for (uint32_t i = from; i < to; i++) {
        UNROLL
        for (int c = 0; c < w; c++) {
            __m512 vc = load_kv(v, i * ld + 16 * (size_t)c, half);
            UNROLL
            for (int r = 0; r < m; r++) {
                const __mmask16 k = (__mmask16)(0 - ((sees[r] >> i) & 1));
                acc[r][c] = _mm512_mask3_fmadd_ps(_mm512_set1_ps(p[r * LD_S + i]), vc, acc[r][c], k);
            }
        }
    }
}

/* Which of positions pos..pos+31 lie in lo..hi, as bits. */
static uint32_t seen(uint32_t pos, uint32_t lo, uint32_t hi)
{
    if (lo > hi || lo >= pos + 32 || hi < pos)
        return 0;
    uint32_t bits = lo > pos ? UINT32_MAX << (lo - pos) : UINT32_MAX;
    return hi - pos < 31 ? bits & (UINT32_MAX >> (31 - (hi - pos))) : bits;
}

/* What each of the tile's rows sees of the block at pos, all of it within *ret_from..*ret_to - 1. Returns true if all
 * see the same. */
static bool block_range(const struct tile *t, uint32_t pos, uint32_t *sees, uint32_t *ret_from, uint32_t *ret_to)
{
    uint32_t any = 0, all = UINT32_MAX;

    for (int r = 0; r < t->height; r++) {
        sees[r] = seen(pos, t->lo[r], t->hi[r]);
        any |= sees[r];
        all &= sees[r];
    }
    *ret_from = any != 0 ? (uint32_t)__builtin_ctz(any) : 0;
    *ret_to = any != 0 ? 32 - (uint32_t)__builtin_clz(any) : 0;
    return any == all;
}

/* ret->out[r][d..d + 16 w) of all rows. */
INLINE void sum_columns(const struct tile *t, struct sk_attn_part *ret, size_t d, const int m, const int w,
                        const bool half)
{
    const size_t ld = t->t->kv->head_stride;
    __m512 acc[SK_ATTN_TILE][2];

    UNROLL
    for (int r = 0; r < m; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (uint32_t b = t->first / SK_KV_BLOCK; b <= t->last / SK_KV_BLOCK; b++) {
        uint32_t sees[SK_ATTN_TILE], from, to;
        const float *p = t->s[0] + b * SK_KV_BLOCK % SK_SPLIT_TOK;
        const void *v = (const char *)block_of(t->t, b * SK_KV_BLOCK) + (SK_KV_BLOCK * ld + d) * (half ? 2 : 4);
        if (block_range(t, b * SK_KV_BLOCK, sees, &from, &to))
            values(p, v, ld, from, to, acc, m, w, half);
        else
            values_masked(p, v, ld, sees, from, to, acc, m, w, half);
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        if ((uint32_t)r == t->n)
            break;
        float *out = ret->out[t->t->part_row + (uint32_t)r] + d;
        _mm512_storeu_ps(out, acc[r][0]);
        if (w == 2)
            _mm512_storeu_ps(out + 16, acc[r][1]);
    }
}

INLINE void sum_values(const struct tile *t, struct sk_attn_part *ret, const int m, const bool half)
{
    const uint32_t n = t->t->kv->head_stride;
    uint32_t d = 0;

    for (; d + 32 <= n; d += 32)
        sum_columns(t, ret, d, m, 2, half);
    if (d < n)
        sum_columns(t, ret, d, m, 1, half);
}

/* Scores of one row -> exponentials, maximum and sum. Positions that the row does not see may hold anything: selected
 * away. */
static void softmax(struct tile *t, uint32_t r, struct sk_attn_part *ret)
{
    const uint32_t base = t->first / SK_SPLIT_TOK * SK_SPLIT_TOK;
    const uint32_t from = t->first / SK_KV_BLOCK * SK_KV_BLOCK, to = (t->last / SK_KV_BLOCK + 1) * SK_KV_BLOCK;
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i lo = _mm512_set1_epi32((int)t->lo[r]), hi = _mm512_set1_epi32((int)t->hi[r]);
    __m512 max = _mm512_set1_ps(-__builtin_inff()), sum = _mm512_setzero_ps();
    float *s = t->s[r];

    for (uint32_t p = from; p < to; p += 16) {
        __m512i pos = _mm512_add_epi32(_mm512_set1_epi32((int)p), lane);
        __mmask16 k = _mm512_cmple_epi32_mask(lo, pos) & _mm512_cmple_epi32_mask(pos, hi);
        __m512 v = _mm512_mask_blend_ps(k, _mm512_set1_ps(-__builtin_inff()), _mm512_loadu_ps(s + (p - base)));
        _mm512_storeu_ps(s + (p - base), v);
        max = _mm512_max_ps(max, v);
    }
    const float max_lane = _mm512_reduce_max_ps(max);
    /* A row of -Inf only (nothing to see) sums to 0: e^(-Inf - 0). */
    const __m512 m = _mm512_set1_ps(max_lane == -__builtin_inff() ? 0 : max_lane);
    for (uint32_t p = from; p < to; p += 16) {
        __m512 e = exp_ps(_mm512_sub_ps(_mm512_loadu_ps(s + (p - base)), m));
        _mm512_storeu_ps(s + (p - base), e);
        sum = _mm512_add_ps(sum, e);
    }
    ret->max[t->t->part_row + r] = max_lane;
    ret->sum[t->t->part_row + r] = sum_ps(sum);
}

INLINE void run(struct tile *t, struct sk_attn_part *ret, const int m, const bool half)
{
    const void *k = block_of(t->t, t->first), *next = k;

    for (uint32_t pos = t->first / SK_KV_BLOCK * SK_KV_BLOCK; pos <= t->last; pos += SK_KV_BLOCK, k = next) {
        if (pos + SK_KV_BLOCK <= t->last)
            next = block_of(t->t, pos + SK_KV_BLOCK);
        scores(t, k, next, t->s[0] + pos % SK_SPLIT_TOK, m, half);
    }
    for (uint32_t r = 0; r < t->n; r++)
        softmax(t, r, ret);
    sum_values(t, ret, m, half);
}

/* A tile of each height is a function of its own: its accumulators are registers. */
INLINE void run_height(struct tile *t, struct sk_attn_part *ret, const bool half)
{
    switch (t->height) {
// clang-format off
#define HEIGHT(m) case m: run(t, ret, m, half); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(6) HEIGHT(8) HEIGHT(12)
#undef HEIGHT
        // clang-format on
    }
}

static void load_q(struct tile *t)
{
    const struct sk_attn_tile *from = t->t;
    const __m512 scale = _mm512_set1_ps(from->scale);
    const uint32_t n = from->kv->head_stride;

    for (uint32_t r = 0; r < t->n; r++) {
        const float *q = from->q + r / from->n_head * from->ld_q + (size_t)(r % from->n_head) * n;
        for (uint32_t i = 0; i < n; i += 16)
            _mm512_storeu_ps(t->q[r] + i, _mm512_mul_ps(_mm512_loadu_ps(q + i), scale));
    }
    for (uint32_t r = t->n; r < (uint32_t)t->height; r++)
        memcpy(t->q[r], t->q[0], n * sizeof(float));
}

/* Positions that each row sees of the split; false if none sees any. */
static bool load_ranges(struct tile *t, uint32_t split)
{
    const uint32_t begin = split * SK_SPLIT_TOK, end = begin + SK_SPLIT_TOK - 1;

    t->first = UINT32_MAX;
    t->last = 0;
    for (uint32_t r = 0; r < (uint32_t)t->height; r++) {
        const uint32_t pos = t->t->pos + (r < t->n ? r / t->t->n_head : 0), window = t->t->window;
        uint32_t lo = window > 0 && pos + 1 > window ? pos + 1 - window : 0;
        t->lo[r] = lo > begin ? lo : begin;
        t->hi[r] = pos < end ? pos : end;
        if (t->lo[r] > t->hi[r]) {
            t->lo[r] = 1;
            t->hi[r] = 0;
            continue;
        }
        t->first = t->lo[r] < t->first ? t->lo[r] : t->first;
        t->last = t->hi[r] > t->last ? t->hi[r] : t->last;
    }
    return t->first <= t->last;
}

static void attn_split(const struct sk_attn_tile *at, uint32_t split, struct sk_attn_part *ret)
{
    static const uint8_t heights[SK_ATTN_TILE + 1] = {1, 1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12};
    struct tile t;

    t.t = at;
    t.n = at->n_row * at->n_head;
    t.height = heights[t.n];
    if (!load_ranges(&t, split)) {
        for (uint32_t r = 0; r < t.n; r++)
            ret->sum[at->part_row + r] = 0;
        return;
    }
    load_q(&t);
    if (at->kv->dtype == SK_F16)
        run_height(&t, ret, true);
    else
        run_height(&t, ret, false);
}

static void attn_merge(struct sk_attn_part *into, const struct sk_attn_part *p, uint32_t n_row, uint32_t head_stride)
{
    for (uint32_t r = 0; r < n_row; r++) {
        if (p->sum[r] == 0)
            continue; /* nothing seen: p->out is not set */
        const bool first = into->sum[r] == 0;
        const float max = first || p->max[r] > into->max[r] ? p->max[r] : into->max[r];
        const float wa = first ? 0 : _mm512_cvtss_f32(exp_ps(_mm512_set1_ps(into->max[r] - max)));
        const float wb = _mm512_cvtss_f32(exp_ps(_mm512_set1_ps(p->max[r] - max)));
        into->sum[r] = (first ? 0 : into->sum[r] * wa) + p->sum[r] * wb;
        into->max[r] = max;
        for (uint32_t i = 0; i < head_stride; i += 16) {
            __m512 b = _mm512_mul_ps(_mm512_loadu_ps(p->out[r] + i), _mm512_set1_ps(wb));
            if (!first)
                b = _mm512_fmadd_ps(_mm512_loadu_ps(into->out[r] + i), _mm512_set1_ps(wa), b);
            _mm512_storeu_ps(into->out[r] + i, b);
        }
    }
}

static void attn_out(const struct sk_attn_part *p, uint32_t r, uint32_t head_stride, float *out)
{
    const __m512 inv = _mm512_set1_ps(1 / p->sum[r]);
    for (uint32_t i = 0; i < head_stride; i += 16)
        _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_loadu_ps(p->out[r] + i), inv));
}

void sk_attn_avx512(struct sk_ktab *t)
{
    t->attn_split = attn_split;
    t->attn_merge = attn_merge;
    t->attn_out = attn_out;
}
