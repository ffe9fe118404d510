/* GEMM on q8, q4 and q4s weights with 512-bit vectors: a panel of 16 outputs is a vector. A body that is built once per
 * way to multiply bytes; the including file defines first
 *   dot4(acc, w, x): acc[i] + sum of w[4i + j] * x[4i + j] for j = 0..3, w unsigned bytes, x signed ones, exactly.
 * Tiles, and what is rounded: kernels/cpu/gemm_q.h. */
#ifndef SK_GEMM_Q_AVX512_H
#define SK_GEMM_Q_AVX512_H
#include "kernels/cpu/gemm_ahead.h"
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_q.h"

/* How far ahead of its use a weight is asked for: found by measuring; more would crowd the first-level cache. Weights
 * come from memory once a step, and the hardware's prefetchers stop at every 4 KiB. */
enum { AHEAD_BYTES = 12 << 10 };
enum { ROWS_TOGETHER = 2 }; /* whose sums are interleaved: one sum's additions wait for one another */

/* Of gemm_q_avx512.c, for all bodies. */
void sk_gemm_q_tile_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from,
                           uint32_t n, void *ret_tile);

INLINE void prefetch(const uint8_t *p, int bytes)
{
    UNROLL
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + i, _MM_HINT_T0);
}

/* A block of a panel as operands of dot4: inputs 4i..4i + 3 in the i-th. */
INLINE void load_weights(const uint8_t *w, const enum sk_dtype dtype, __m512i ret[8])
{
    const __m512i low = _mm512_set1_epi8(15);

    UNROLL
    for (int i = 0; i < 8; i++) {
        if (dtype == SK_Q8)
            ret[i] = _mm512_loadu_si512(w + 64 * i);
        else if (i < 4)
            ret[i] = _mm512_and_si512(_mm512_loadu_si512(w + 64 * i), low);
        else
            ret[i] = _mm512_and_si512(_mm512_srli_epi16(_mm512_loadu_si512(w + 64 * (i - 4)), 4), low);
    }
}

/* One block of a tile of m rows against one of a panel. */
INLINE void block(const uint8_t *w, const uint8_t *scales, const uint8_t *x, const int m, const enum sk_dtype dtype,
                  __m512 *acc)
{
    const uint8_t *dx = x + SK_QBLOCK * m, *offset = dx + 4 * m;
    __m512i v[8];

    load_weights(w, dtype, v);
    const __m512 d = load_f16(scales);
    UNROLL
    for (int from = 0; from < m; from += ROWS_TOGETHER) {
        const int n = m - from < ROWS_TOGETHER ? m - from : ROWS_TOGETHER;
        __m512i dot[ROWS_TOGETHER];
        UNROLL
        for (int r = 0; r < n; r++)
            dot[r] = dtype == SK_Q4 ? _mm512_setzero_si512() : _mm512_set1_epi32(load_i32(offset + 4 * (from + r)));
        UNROLL
        for (int i = 0; i < 8; i++) {
            UNROLL
            for (int r = 0; r < n; r++)
                dot[r] = dot4(dot[r], v[i], _mm512_set1_epi32(load_i32(x + SK_QBLOCK * (from + r) + 4 * i)));
        }
        UNROLL
        for (int r = 0; r < n; r++) {
            const int row = from + r;
            __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(load_f32(dx + 4 * row)));
            acc[row] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[r]), scale, acc[row]);
            if (dtype == SK_Q4)
                acc[row] = _mm512_fmadd_ps(load_f16(scales + 32), _mm512_set1_ps(load_f32(offset + 4 * row)), acc[row]);
        }
    }
}

INLINE void panels(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, const int m,
                   const enum sk_dtype dtype)
{
    const struct sk_pack *p = g->pack;
    const uint32_t n_blk = p->slab_k / SK_QBLOCK;
    const int block_bytes = dtype == SK_Q8 ? 512 : 256, scale_bytes = dtype == SK_Q4 ? 64 : 32;
    const uint8_t *tile = (const uint8_t *)g->x + row * tile_row_bytes(p);

    for (uint32_t end = panel + n_panel; panel < end; panel++) {
        const uint8_t *x = tile;
        __m512 acc[SK_TILE_ROWS];
        UNROLL
        for (int r = 0; r < m; r++)
            acc[r] = _mm512_setzero_ps();
        for (uint32_t s = 0; s < p->n_slab; s++) {
            const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
            const uint8_t *scales = w + (size_t)n_blk * (size_t)block_bytes,
                          *next = weights_ahead(g, panel, 1, s, AHEAD_BYTES);
            for (uint32_t b = 0; b < n_blk; b++) {
                prefetch(next, block_bytes + scale_bytes);
                next += block_bytes + scale_bytes;
                block(w, scales, x, m, dtype, acc);
                w += block_bytes;
                scales += scale_bytes;
                x += m * TILE_BLOCK_BYTES;
            }
        }
        const size_t column = (size_t)panel * SK_PANEL;
        const __m512 bias = bias_of(g, column);
        float *out = g->out + row * g->ld_out + column;
        UNROLL
        for (int r = 0; r < m; r++)
            put_sum(out + (size_t)r * g->ld_out, acc[r], bias, g->add);
    }
}

/* A tile of each height is a function of its own: its accumulators are registers. */
INLINE void one_tile(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                     const enum sk_dtype dtype)
{
    switch (n_row) {
// clang-format off
#define HEIGHT(m) case m: panels(g, panel, n_panel, row, m, dtype); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6) HEIGHT(7) HEIGHT(8)
        HEIGHT(9) HEIGHT(10) HEIGHT(11) HEIGHT(12) HEIGHT(13) HEIGHT(14) HEIGHT(15) HEIGHT(16)
#undef HEIGHT
        // clang-format on
    }
}

INLINE void tiles(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                  const enum sk_dtype dtype)
{
    for (; n_row > SK_TILE_ROWS; row += SK_TILE_ROWS, n_row -= SK_TILE_ROWS)
        one_tile(g, panel, n_panel, row, SK_TILE_ROWS, dtype);
    one_tile(g, panel, n_panel, row, n_row, dtype);
}

static void run_q8(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    tiles(g, panel, n_panel, row, n_row, SK_Q8);
}

static void run_q4(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    tiles(g, panel, n_panel, row, n_row, SK_Q4);
}

static void run_q4s(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                    void *scratch)
{
    tiles(g, panel, n_panel, row, n_row, SK_Q4S);
}

static void put_kernels(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel q8 = {tile_row_bytes, sk_gemm_q_tile_avx512, run_q8};
    static const struct sk_gemm_kernel q4 = {tile_row_bytes, sk_gemm_q_tile_avx512, run_q4};
    static const struct sk_gemm_kernel q4s = {tile_row_bytes, sk_gemm_q_tile_avx512, run_q4s};

    sk_ktab_put_gemm(t, SK_Q8, &q8);
    sk_ktab_put_gemm(t, SK_Q4, &q4);
    sk_ktab_put_gemm(t, SK_Q4S, &q4s);
}

#endif
