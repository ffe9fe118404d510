/* GEMM on f32, f16 and bf16 weights: f32 multiply-adds on f32 activations, one chain per output, in the order of the
 * inputs. Nothing is rounded but the sums.
 *
 * A tile of n_row rows is [n_in][n_row] f32: rows side by side, for rows apart would share cache sets where their
 * stride is a power of two. */
#include "kernels/cpu/gemm_avx512.h"

enum { AHEAD_BYTES = 1024 }; /* prefetch distance, in each panel */

INLINE __m512 load_w(enum sk_dtype dtype, const uint8_t *w, size_t k)
{
    if (dtype == SK_F32)
        return _mm512_loadu_ps((const float *)w + k * SK_PANEL);
    return load_f16(w + k * SK_PANEL * 2);
}

/* Inputs k and k + 1 of 16 outputs, in pairs: a bf16 is the upper half of a float. */
INLINE void load_w2(enum sk_dtype dtype, const uint8_t *w, size_t k, __m512 ret[2])
{
    if (dtype == SK_BF16) {
        __m512i v = _mm512_loadu_si512(w + k * SK_PANEL * 2);
        ret[0] = _mm512_castsi512_ps(_mm512_slli_epi32(v, 16));
        ret[1] = _mm512_castsi512_ps(_mm512_and_si512(v, _mm512_set1_epi32((int)0xffff0000)));
    } else {
        ret[0] = load_w(dtype, w, k);
        ret[1] = load_w(dtype, w, k + 1);
    }
}

/* x: m rows of a tile ld_x rows high. */
INLINE void slab(enum sk_dtype dtype, const uint8_t *w, size_t panel_stride, const float *x, size_t ld_x, uint32_t n_k,
                 const int m, const int n, __m512 *acc)
{
    uint32_t k = 0;

    for (; k + 2 <= n_k; k += 2, x += 2 * ld_x) {
        UNROLL
        for (int c = 0; c < n; c++) {
            const uint8_t *wc = w + c * panel_stride;
            __m512 v[2];
            load_w2(dtype, wc, k, v);
            _mm_prefetch((const char *)wc + k * (dtype == SK_F32 ? 64 : 32) + AHEAD_BYTES, _MM_HINT_T0);
            UNROLL
            for (int r = 0; r < m; r++) {
                acc[c * m + r] = _mm512_fmadd_ps(v[0], _mm512_set1_ps(x[r]), acc[c * m + r]);
                acc[c * m + r] = _mm512_fmadd_ps(v[1], _mm512_set1_ps(x[ld_x + (size_t)r]), acc[c * m + r]);
            }
        }
    }
    if (k < n_k) { /* not bf16: its slabs are even */
        UNROLL
        for (int c = 0; c < n; c++) {
            __m512 v = load_w(dtype, w + c * panel_stride, k);
            UNROLL
            for (int r = 0; r < m; r++)
                acc[c * m + r] = _mm512_fmadd_ps(v, _mm512_set1_ps(x[r]), acc[c * m + r]);
        }
    }
}

/* Rows of a tile from `first`. */
struct piece {
    const struct sk_gemm *g;
    const float *x; /* the tile */
    uint32_t row, height, first;
};

INLINE void piece_panels(enum sk_dtype dtype, const struct piece *t, uint32_t panel, const int m, const int n)
{
    const struct sk_gemm *g = t->g;
    const struct sk_pack *p = g->pack;
    __m512 acc[SK_TILE_ROWS];

    UNROLL
    for (int i = 0; i < m * n; i++)
        acc[i] = _mm512_setzero_ps();
    for (uint32_t s = 0; s < p->n_slab; s++) {
        const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
        slab(dtype, w, p->panel_stride, t->x + (size_t)s * p->slab_k * t->height + t->first, t->height, p->slab_k, m, n,
             acc);
    }
    const uint32_t row = t->row + t->first;
    UNROLL
    for (int c = 0; c < n; c++) {
        const size_t column = (size_t)(panel + (uint32_t)c) * SK_PANEL;
        const __m512 bias = bias_of(g, column);
        UNROLL
        for (int r = 0; r < m; r++)
            put_sum(g->out + (row + (uint32_t)r) * g->ld_out + column, acc[c * m + r], bias, g->add);
    }
}

/* Panels n at a time, then one by one. */
INLINE void piece(enum sk_dtype dtype, const struct piece *t, uint32_t panel, uint32_t n_panel, const int m,
                  const int n)
{
    uint32_t end = panel + n_panel;

    for (; panel + (uint32_t)n <= end; panel += (uint32_t)n)
        piece_panels(dtype, t, panel, m, n);
    for (; panel < end; panel++)
        piece_panels(dtype, t, panel, m, 1);
}

/* A tile in pieces of 16, 8, 4, 2, 1 rows: low ones take several panels at once, so that chains enough hide the latency
 * of a multiply-add. */
INLINE void one_tile(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row,
                     uint32_t n_row)
{
    struct piece t = {.g = g, .x = (const float *)g->x + (size_t)row * g->pack->n_in, .row = row, .height = n_row};

    if (n_row == SK_TILE_ROWS) {
        piece(dtype, &t, panel, n_panel, SK_TILE_ROWS, 1);
        return;
    }
    if (n_row & 8) {
        piece(dtype, &t, panel, n_panel, 8, 2);
        t.first += 8;
    }
    if (n_row & 4) {
        piece(dtype, &t, panel, n_panel, 4, 4);
        t.first += 4;
    }
    if (n_row & 2) {
        piece(dtype, &t, panel, n_panel, 2, 4);
        t.first += 2;
    }
    if (n_row & 1)
        piece(dtype, &t, panel, n_panel, 1, 4);
}

INLINE void tiles(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row,
                  uint32_t n_row)
{
    for (; n_row > SK_TILE_ROWS; row += SK_TILE_ROWS, n_row -= SK_TILE_ROWS)
        one_tile(dtype, g, panel, n_panel, row, SK_TILE_ROWS);
    one_tile(dtype, g, panel, n_panel, row, n_row);
}

static size_t row_bytes(const struct sk_pack *p)
{
    return (size_t)p->n_in * sizeof(float);
}

static void tile(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile)
{
    float *to = (float *)ret_tile + (size_t)from * n_row;
    for (uint32_t i = 0; i < n; i++)
        for (uint32_t r = 0; r < n_row; r++)
            *to++ = x[r * ld + i];
}

static void run_f32(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                    void *scratch)
{
    tiles(SK_F32, g, panel, n_panel, row, n_row);
}

static void run_f16(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                    void *scratch)
{
    tiles(SK_F16, g, panel, n_panel, row, n_row);
}

static void run_bf16(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                     void *scratch)
{
    tiles(SK_BF16, g, panel, n_panel, row, n_row);
}

void sk_gemm_f_avx512(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel f32 = {row_bytes, tile, run_f32}, f16 = {row_bytes, tile, run_f16},
                                       bf16 = {row_bytes, tile, run_bf16};
    sk_ktab_put_gemm(t, SK_F32, &f32);
    sk_ktab_put_gemm(t, SK_F16, &f16);
    sk_ktab_put_gemm(t, SK_BF16, &bf16);
}
