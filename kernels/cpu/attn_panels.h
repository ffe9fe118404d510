/* How a panel of queries goes through a split, whatever its numbers are. The including file, built for AVX-512, defines
 * before it: struct work, scores, softmax, values, values_masked, and weights_of(w, b): of the panel's first query for
 * block b. All is static. */
#ifndef SK_ATTN_PANELS_H
#define SK_ATTN_PANELS_H
#include "kernels/cpu/attn_avx512.h"

/* Columns d..d + 16 c of the outputs. */
INLINE void sum_columns(const struct work *w, const struct panel *p, size_t d, const int m, const int c)
{
    const size_t n = w->t->kv->head_stride;
    __m512 acc[PANEL][4];

    UNROLL
    for (int r = 0; r < m; r++) {
        UNROLL
        for (int j = 0; j < c; j++)
            acc[r][j] = _mm512_setzero_ps();
    }
    for (uint32_t b = p->block; b < p->end_block; b++) {
        const char *v = w->v[b] + d * 4;
        if (all_seen(p, b)) {
            values(weights_of(w, b), v, n * 4, acc, m, c);
        } else {
            uint32_t sees[PANEL];
            for (int r = 0; r < m; r++)
                sees[r] = seen(b * SK_KV_BLOCK, p->lo[r], p->hi[r]);
            values_masked(weights_of(w, b), v, n * 4, sees, acc, m, c);
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        if ((uint32_t)r == p->n)
            break;
        UNROLL
        for (int j = 0; j < c; j++)
            fold_columns(w->into->out + (p->at + (size_t)r) * n + d + 16 * (size_t)j, acc[r][j], p->keep[r], p->take[r],
                         p->old[r]);
    }
}

INLINE void run_panel(const struct work *w, struct panel *p, const int m)
{
    const uint32_t n = w->t->kv->head_stride;
    uint32_t d = 0;

    for (uint32_t b = p->block; b < p->end_block; b++)
        scores(w, w->w->q[0] + (size_t)p->at * n, b, w->w->s[0] + (size_t)b * SK_KV_BLOCK, m);
    for (uint32_t r = 0; r < p->n; r++)
        softmax(w, p, r);
    fold_panel(p, w->into);
    for (; m <= 6 && d + 64 <= n; d += 64)
        sum_columns(w, p, d, m, 4);
    for (; d + 32 <= n; d += 32)
        sum_columns(w, p, d, m, 2);
    if (d < n)
        sum_columns(w, p, d, m, 1);
}

/* A panel of each height is a function of its own: its sums are registers. */
static void run_height(const struct work *w, struct panel *p)
{
    switch (panel_height(p->n)) {
// clang-format off
#define HEIGHT(m) case m: run_panel(w, p, m); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(6) HEIGHT(8) HEIGHT(12)
#undef HEIGHT
        // clang-format on
    }
}

#endif
