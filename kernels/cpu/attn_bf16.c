/* Attention with VDPBF16PS over caches of bf16, and of q8 turned into bf16 block by block. Rounded to bf16: the query
 * times scale and log2(e); scale * int8 of q8; the weights 2^(s - max) of a split, whose sum is that of the rounded
 * ones. Sums are f32, pairs of products at a time, in the order of dimensions (scores) and of positions (outputs). */
#include "kernels/cpu/ktab.h"

enum { PANEL = 12 };
#include "kernels/cpu/attn_bf16.h"

/* s[r][0..31] = q[r] . K, for the 32 positions of a block. A low panel (decoding) waits for memory: it asks for the
 * keys of the next block, and for the values of this one, which are needed last, into the second-level cache. */
INLINE void scores(const struct work *w, const uint16_t *q, uint32_t b, float *s, const int m)
{
    const size_t n = w->t->kv->head_stride;
    const char *k = w->k[b], *next = w->k[b + 1 < w->span.end_block ? b + 1 : b], *v = w->v[b];
    __m512 acc[PANEL][2];

    UNROLL
    for (int r = 0; r < m; r++)
        acc[r][0] = acc[r][1] = _mm512_setzero_ps();
    for (size_t d = 0; d < n; d += 2) {
        const __m512i k0 = _mm512_loadu_si512(k + d * 64), k1 = _mm512_loadu_si512(k + d * 64 + 64);
        if (m <= 4) {
            UNROLL
            for (size_t i = 0; i < 128; i += 64) {
                _mm_prefetch(next + d * 64 + i, _MM_HINT_T0);
                _mm_prefetch(v + d * 64 + i, _MM_HINT_T1);
            }
        }
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512i qr = _mm512_set1_epi32(load_i32(q + (size_t)r * n + d));
            acc[r][0] = dot(acc[r][0], qr, k0);
            acc[r][1] = dot(acc[r][1], qr, k1);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        _mm512_storeu_ps(s + r * LD_S, acc[r][0]);
        _mm512_storeu_ps(s + r * LD_S + 16, acc[r][1]);
    }
}

/* acc[r] += p[r] . V of a block: c vectors of columns, where every row sees the whole block. */
INLINE void values(const uint16_t *p, const char *v, size_t line, __m512 acc[][4], const int m, const int c)
{
    for (size_t i = 0; i < SK_KV_BLOCK / 2; i++) {
        __m512i vi[4];
        UNROLL
        for (int j = 0; j < c; j++)
            vi[j] = _mm512_loadu_si512(v + i * line + (size_t)j * 64);
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512i pr = _mm512_set1_epi32(load_i32(p + (size_t)r * LD_P + 2 * i));
            UNROLL
            for (int j = 0; j < c; j++)
                acc[r][j] = dot(acc[r][j], pr, vi[j]);
        }
    }
}

/* The same where some rows see less: for them what they do not see is 0, for 0 * NaN would not be nothing. Bit i of
 * sees[r]: row r sees entry i. */
INLINE void values_masked(const uint16_t *p, const char *v, size_t line, const uint32_t *sees, __m512 acc[][4],
                          const int m, const int c)
{
    for (size_t i = 0; i < SK_KV_BLOCK / 2; i++) {
        UNROLL
        for (int r = 0; r < m; r++) {
            const __m512i pr = _mm512_set1_epi32(load_i32(p + (size_t)r * LD_P + 2 * i));
            const __mmask32 both = (sees[r] >> (2 * i) & 3) * 0x55555555u;
            UNROLL
            for (int j = 0; j < c; j++)
                acc[r][j] = dot(acc[r][j], pr, _mm512_maskz_loadu_epi16(both, v + i * line + (size_t)j * 64));
        }
    }
}

INLINE const uint16_t *weights_of(const struct work *w, uint32_t b)
{
    return w->w->p[0] + (size_t)b * SK_KV_BLOCK;
}

#include "kernels/cpu/attn_panels.h"

INLINE void run(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                void *scratch, const bool q8)
{
    struct work w = {.t = t, .w = scratch, .into = into};

    load_q(t, w.w->q[0], t->kv->head_stride);
    for (uint32_t s = split; s < split + n_split; s++) {
        struct panel p;
        if (!span_of(t, s, &w.span))
            continue;
        load_kv(&w, q8);
        for (uint32_t at = w.span.row * t->n_head; at < w.span.end_row * t->n_head; at += PANEL) {
            panel_of(t, &w.span, at, &p);
            run_height(&w, &p);
        }
    }
}

static void attn_bf16(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                      void *scratch)
{
    run(t, split, n_split, into, scratch, false);
}

static void attn_q8(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                    void *scratch)
{
    run(t, split, n_split, into, scratch, true);
}

void sk_attn_bf16(struct sk_ktab *t)
{
    sk_ktab_put_attn(t, SK_BF16, attn_bf16);
    sk_ktab_put_attn(t, SK_Q8, attn_q8);
}
