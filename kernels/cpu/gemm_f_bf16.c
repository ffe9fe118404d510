/* GEMM on bf16 weights with VDPBF16PS. Activations are rounded to bf16 (nearest even) when a tile is made; products are
 * exact. Sums are f32, one chain per output in the order of the pairs of inputs, the two products of a pair in the
 * order of the instruction, each addition rounded to nearest even; denormals are read and written as 0.
 *
 * A tile: [n_in / 2][n_row] pairs of bf16. */
#include "kernels/cpu/gemm_avx512.h"

enum { PAIR_BYTES = 4, PAIR_WEIGHTS = SK_PANEL * PAIR_BYTES };
enum { AHEAD_BYTES = 2048 }; /* prefetch distance, in each panel */

INLINE __m512bh load_pairs(const uint8_t *p)
{
    return (__m512bh)_mm512_loadu_si512(p);
}

INLINE __m512bh same_pair(const uint8_t *p)
{
    return (__m512bh)_mm512_set1_epi32(load_i32(p));
}

/* m rows of a tile, n panels. */
INLINE void panels(const struct sk_gemm *g, uint32_t panel, uint32_t row, const int m, const int n)
{
    const struct sk_pack *p = g->pack;
    const uint8_t *x = (const uint8_t *)g->x + (size_t)row * p->n_in / 2 * PAIR_BYTES;
    __m512 acc[24];

    UNROLL
    for (int i = 0; i < m * n; i++)
        acc[i] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < p->n_slab; s++) {
        const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
        for (uint32_t k = 0; k < p->slab_k; k += 2, w += PAIR_WEIGHTS, x += m * PAIR_BYTES) {
            UNROLL
            for (int c = 0; c < n; c++) {
                const uint8_t *wc = w + (size_t)c * p->panel_stride;
                const __m512bh v = load_pairs(wc);
                _mm_prefetch((const char *)wc + AHEAD_BYTES, _MM_HINT_T0);
                UNROLL
                for (int r = 0; r < m; r++)
                    acc[c * m + r] = _mm512_dpbf16_ps(acc[c * m + r], v, same_pair(x + r * PAIR_BYTES));
            }
        }
    }
    UNROLL
    for (int c = 0; c < n; c++) {
        const size_t column = (size_t)(panel + (uint32_t)c) * SK_PANEL;
        const __m512 bias = bias_of(g, column);
        UNROLL
        for (int r = 0; r < m; r++)
            put_sum(g->out + (row + (uint32_t)r) * g->ld_out + column, acc[c * m + r], bias, g->add);
    }
}

/* Panels n at a time; n = 2 leaves at most one. */
INLINE void height(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, const int m, const int n)
{
    const uint32_t end = panel + n_panel;

    for (; panel + (uint32_t)n <= end; panel += (uint32_t)n)
        panels(g, panel, row, m, n);
    if (panel < end)
        panels(g, panel, row, m, 1);
}

/* Low tiles take two panels at once, so that chains enough hide the latency of an addition. Code for each height: its
 * sums are registers. */
static void one_tile(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row)
{
    switch (n_row) {
// clang-format off
#define HEIGHT(m, n) case m: height(g, panel, n_panel, row, m, n); break;
        HEIGHT(1, 2) HEIGHT(2, 2) HEIGHT(3, 2) HEIGHT(4, 2) HEIGHT(5, 2) HEIGHT(6, 2) HEIGHT(7, 2) HEIGHT(8, 2)
        HEIGHT(9, 2) HEIGHT(10, 2) HEIGHT(11, 2) HEIGHT(12, 2) HEIGHT(13, 1) HEIGHT(14, 1) HEIGHT(15, 1) HEIGHT(16, 1)
#undef HEIGHT
        // clang-format on
    }
}

static void run(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row, void *scratch)
{
    for (; n_row > SK_TILE_ROWS; row += SK_TILE_ROWS, n_row -= SK_TILE_ROWS)
        one_tile(g, panel, n_panel, row, SK_TILE_ROWS);
    one_tile(g, panel, n_panel, row, n_row);
}

static size_t row_bytes(const struct sk_pack *p)
{
    return (size_t)p->n_in / 2 * PAIR_BYTES;
}

/* Rows side by side: rows apart would share cache sets where their stride is a power of two. */
static void tile(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile)
{
    uint32_t *to = (uint32_t *)ret_tile + (size_t)from / 2 * n_row, pair[16];

    for (uint32_t i = 0; i < n; i += 32) {
        const uint32_t n_pair = n - i < 32 ? (n - i) / 2 : 16;
        for (uint32_t r = 0; r < n_row; r++) {
            const float *at = x + r * ld + i;
            const __mmask16 low = lanes_below(n - i), high = lanes_below(n - i < 16 ? 0 : n - i - 16);
            _mm512_storeu_si512(pair, (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, at + 16),
                                                                   _mm512_maskz_loadu_ps(low, at)));
            for (uint32_t k = 0; k < n_pair; k++)
                to[(i / 2 + k) * n_row + r] = pair[k];
        }
    }
}

void sk_gemm_f_bf16(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel kernel = {row_bytes, tile, run};
    sk_ktab_put_gemm(t, SK_BF16, &kernel);
}
