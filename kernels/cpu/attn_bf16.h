/* What the kernels of attention that compute in bf16 share: how queries, weights and q8's keys and values become bf16.
 * The including file defines PANEL (kernels/cpu/attn_span.h) and is built for AVX-512 BF16: all is static. */
#ifndef SK_ATTN_BF16_H
#define SK_ATTN_BF16_H
#include "kernels/cpu/attn_avx512.h"

enum { LD_P = SK_SPLIT_TOK + 32 };

struct scratch {
    uint16_t q[SK_ATTN_TILE + PANEL][SK_ATTN_MAX_HEAD_DIM]; /* in use: rows of the head's width */
    float s[PANEL][LD_S];
    uint16_t p[PANEL][LD_P];
    uint16_t wide[2][SK_SPLIT_TOK * SK_ATTN_MAX_HEAD_DIM]; /* q8's keys and values as bf16 */
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

INLINE __m512 dot(__m512 sum, __m512i a, __m512i b)
{
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

INLINE __m512i two_rows_to_bf16(__m512 low, __m512 high)
{
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

/* Scores of query r -> weights, their maximum and sum. Those that it does not see may hold anything: selected away. */
static void softmax(const struct work *w, struct panel *p, uint32_t r)
{
    const __m512 lowest = _mm512_set1_ps(-__builtin_inff());
    const __m512i ones = _mm512_set1_epi16(0x3f80);
    const float *s = w->w->s[r];
    __m512 max0 = lowest, max1 = lowest, sum = _mm512_setzero_ps();

    for (uint32_t b = p->block; b < p->end_block; b++) {
        const uint32_t sees = seen(b * SK_KV_BLOCK, p->lo[r], p->hi[r]);
        const float *at = s + (size_t)b * SK_KV_BLOCK;
        max0 = _mm512_mask_max_ps(max0, (__mmask16)sees, max0, _mm512_loadu_ps(at));
        max1 = _mm512_mask_max_ps(max1, (__mmask16)(sees >> 16), max1, _mm512_loadu_ps(at + 16));
    }
    p->max[r] = _mm512_reduce_max_ps(_mm512_max_ps(max0, max1));
    /* Where all are -Inf, all weights are 0: 2^(-Inf - 0). */
    const __m512 max = _mm512_set1_ps(p->max[r] == -__builtin_inff() ? 0 : p->max[r]);
    for (uint32_t b = p->block; b < p->end_block; b++) {
        const uint32_t sees = seen(b * SK_KV_BLOCK, p->lo[r], p->hi[r]);
        const float *at = s + (size_t)b * SK_KV_BLOCK;
        const __m512 e0 = exp2_ps(_mm512_sub_ps(_mm512_loadu_ps(at), max), 4),
                     e1 = exp2_ps(_mm512_sub_ps(_mm512_loadu_ps(at + 16), max), 4);
        const __m512i e = _mm512_maskz_mov_epi16(sees, two_rows_to_bf16(e0, e1));
        _mm512_storeu_si512(w->w->p[r] + (size_t)b * SK_KV_BLOCK, e);
        sum = dot(sum, e, ones);
    }
    p->sum[r] = sum_ps(sum);
}

/* Scaled queries as rows of ld, with zeros from head_stride on. */
static void load_q(const struct sk_attn_tile *t, uint16_t *q, size_t ld)
{
    const __m512 scale = _mm512_set1_ps(t->scale * 1.44269504f);
    const size_t n = t->kv->head_stride;

    for (uint32_t r = 0; r < t->n_row * t->n_head; r++, q += ld) {
        for (size_t i = 0; i < ld; i += 16) {
            const __m512 x = _mm512_maskz_loadu_ps(i < n ? 0xffff : 0, t->q + r * n + i);
            _mm256_storeu_si256((__m256i *)(q + i), (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(x, scale)));
        }
    }
}

/* 32 int8 times their scales as bf16; scale0 and scale1 belong to the first and last 16. */
INLINE void widen(const char *q, __m512 scale0, __m512 scale1, uint16_t *to)
{
    const __m512 x0 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)q))),
                 x1 = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)(q + 16))));
    _mm512_storeu_si512(to, two_rows_to_bf16(_mm512_mul_ps(x0, scale0), _mm512_mul_ps(x1, scale1)));
}

/* Keys of a q8 block, [n/2][32][2]: each scale serves two neighbours. */
static void widen_keys(const char *q, const float *scale, uint32_t n, uint16_t *to)
{
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    const __m512i high = _mm512_add_epi32(twice, _mm512_set1_epi32(8));

    for (uint32_t d = 0; d < n; d += SK_QBLOCK, scale += SK_KV_BLOCK) {
        const __m512 s0 = _mm512_loadu_ps(scale), s1 = _mm512_loadu_ps(scale + 16);
        const __m512 a = _mm512_permutexvar_ps(twice, s0), b = _mm512_permutexvar_ps(high, s0),
                     c = _mm512_permutexvar_ps(twice, s1), e = _mm512_permutexvar_ps(high, s1);
        for (uint32_t i = d; i < d + SK_QBLOCK && i < n; i += 2, q += 64, to += 64) {
            widen(q, a, b, to);
            widen(q + 32, c, e, to + 32);
        }
    }
}

/* Values, [16][n][2]: the scales of two positions alternate. */
static void widen_values(const char *q, const float *scale, uint32_t n, uint16_t *to)
{
    for (uint32_t i = 0; i < SK_KV_BLOCK; i += 2) {
        for (uint32_t d = 0; d < n; d += 16, q += 32, to += 32) {
            double pair;
            memcpy(&pair, scale + d / SK_QBLOCK * SK_KV_BLOCK + i, sizeof pair);
            const __m512 s = _mm512_castpd_ps(_mm512_set1_pd(pair));
            widen(q, s, s, to);
        }
    }
}

INLINE void load_kv(struct work *w, const bool q8)
{
    const struct sk_attn_tile *t = w->t;
    const uint32_t n = t->kv->head_stride;
    const size_t side = sk_attn_side_bytes(t->kv->dtype, n);

    for (uint32_t b = w->span.block; b < w->span.end_block; b++) {
        const char *k = sk_attn_block(t->kv, t->table[w->span.begin / SK_KV_BLOCK + b], t->kv_head), *v = k + side;
        if (q8) {
            const float *scale = (const float *)(v + side);
            uint16_t *to = w->w->wide[0] + (size_t)b * SK_KV_BLOCK * n, *to_v = to + SK_SPLIT_TOK * (size_t)n;
            widen_keys(k, scale, n, to);
            widen_values(v, scale + (size_t)sk_attn_scales(n) * SK_KV_BLOCK, n, to_v);
            k = (const char *)to;
            v = (const char *)to_v;
        }
        w->k[b] = k;
        w->v[b] = v;
    }
}

#endif
