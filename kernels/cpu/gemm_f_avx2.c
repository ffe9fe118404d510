/* GEMM on f32, f16 and bf16 weights: f32 multiply-adds on f32 activations, one chain per output, in the order of the
 * inputs. Nothing is rounded but the sums.
 *
 * A tile of n_row rows is [n_in][n_row] f32: rows side by side, for rows apart would share cache sets where their
 * stride is a power of two. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx2.h"

enum {
    CHUNK = 256,        /* inputs that all rows of a tile meet before the next: weights and rows lie in L1 meanwhile */
    MAX_HEIGHT = 6,     /* rows at once: 12 sums, 2 weights, 1 input fill the 16 registers */
    MAX_WIDTH = 4,      /* panels at once */
    AHEAD_BYTES = 1024, /* prefetch distance, in each panel */
};

/* Inputs of one chunk and the panels that they meet. */
struct chunk {
    const uint8_t *w; /* first panel */
    size_t panel_stride;
    const float *x;
    size_t ld_x;
    uint32_t n_k;
};

/* Input k of 8 outputs. A bf16 is the upper half of a float; two inputs share a word. */
INLINE __m256 load_w(enum sk_dtype dtype, const uint8_t *w, size_t k, size_t half)
{
    const size_t at = k * SK_PANEL + 8 * half;

    if (dtype == SK_F32)
        return _mm256_loadu_ps((const float *)w + at);
    if (dtype == SK_F16)
        return load_f16((const uint16_t *)w + at);
    const __m256i v = _mm256_loadu_si256((const __m256i *)(w + k / 2 * SK_PANEL * 4) + half);
    return _mm256_castsi256_ps(k % 2 ? _mm256_and_si256(v, _mm256_set1_epi32((int)0xffff0000))
                                     : _mm256_slli_epi32(v, 16));
}

/* Input k of m rows and n panels. */
INLINE void add_input(enum sk_dtype dtype, const struct chunk *t, size_t k, __m256 *acc, const int m, const int n)
{
    const float *x = t->x + k * t->ld_x;
    __m256 w[2 * MAX_WIDTH];

    UNROLL
    for (int i = 0; i < 2 * n; i++)
        w[i] = load_w(dtype, t->w + (size_t)(i / 2) * t->panel_stride, k, (size_t)i % 2);
    UNROLL
    for (int r = 0; r < m; r++) {
        const __m256 xr = _mm256_set1_ps(x[r]);
        UNROLL
        for (int i = 0; i < 2 * n; i++)
            acc[i * m + r] = _mm256_fmadd_ps(w[i], xr, acc[i * m + r]);
    }
}

/* sums[(c * 2 + half) * m + r] += a chunk of row r and half a panel c. */
INLINE void add_chunk(enum sk_dtype dtype, const struct chunk *t, __m256 *sums, const int m, const int n)
{
    const size_t k_bytes = SK_PANEL * (dtype == SK_F32 ? 4 : 2);
    __m256 acc[2 * MAX_HEIGHT];
    size_t k = 0;

    UNROLL
    for (int i = 0; i < 2 * m * n; i++)
        acc[i] = sums[i];
    for (; k + 2 <= t->n_k; k += 2) {
        UNROLL
        for (int c = 0; c < n; c++) {
            const char *next = (const char *)t->w + (size_t)c * t->panel_stride + k * k_bytes + AHEAD_BYTES;
            UNROLL
            for (size_t i = 0; i < 2 * k_bytes; i += 64)
                _mm_prefetch(next + i, _MM_HINT_T0);
        }
        add_input(dtype, t, k, acc, m, n);
        add_input(dtype, t, k + 1, acc, m, n);
    }
    if (k < t->n_k) /* not bf16: its slabs are even */
        add_input(dtype, t, k, acc, m, n);
    UNROLL
    for (int i = 0; i < 2 * m * n; i++)
        sums[i] = acc[i];
}

/* Low tiles take several panels at once, so that chains enough hide the latency of a multiply-add. */
INLINE void add_piece(enum sk_dtype dtype, const struct chunk *t, __m256 *sums, uint32_t height, bool wide)
{
    switch (height) {
// clang-format off
#define HEIGHT(m, n) case m: if (wide) add_chunk(dtype, t, sums, m, n); else add_chunk(dtype, t, sums, m, 1); break;
        HEIGHT(1, 4) HEIGHT(2, 2) HEIGHT(3, 2) HEIGHT(4, 1) HEIGHT(5, 1) HEIGHT(6, 1)
#undef HEIGHT
        // clang-format on
    }
}

static uint32_t width_of(uint32_t n_row)
{
    return n_row == 1 ? MAX_WIDTH : n_row <= 3 ? 2 : 1;
}

/* Rows of one tile, in pieces of about the same height. */
struct piece {
    uint32_t first, height;
};

static uint32_t cut(uint32_t n_row, struct piece ret[3])
{
    const uint32_t n = (n_row + MAX_HEIGHT - 1) / MAX_HEIGHT;

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t first = n_row * i / n;
        ret[i] = (struct piece){first, n_row * (i + 1) / n - first};
    }
    return n;
}

static void put_piece(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t height,
                      const __m256 *sums)
{
    for (uint32_t i = 0; i < 2 * n_panel; i++) {
        const size_t column = (size_t)panel * SK_PANEL + 8 * i;
        const __m256 bias = g->bias != NULL ? _mm256_loadu_ps(g->bias + column) : _mm256_setzero_ps();
        for (uint32_t r = 0; r < height; r++) {
            float *out = g->out + (row + r) * g->ld_out + column;
            __m256 v = _mm256_add_ps(sums[i * height + r], bias);
            if (g->add)
                v = _mm256_add_ps(_mm256_loadu_ps(out), v);
            _mm256_storeu_ps(out, v);
        }
    }
}

INLINE void one_tile(enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row,
                     uint32_t n_row)
{
    const struct sk_pack *p = g->pack;
    const size_t k_bytes = SK_PANEL * (dtype == SK_F32 ? 4 : 2);
    struct piece pieces[3];
    const uint32_t n_piece = cut(n_row, pieces);

    for (uint32_t end = panel + n_panel, n; panel < end; panel += n) {
        const float *x = (const float *)g->x + (size_t)row * p->n_in;
        __m256 sums[2 * SK_TILE_ROWS];
        n = panel + width_of(n_row) <= end ? width_of(n_row) : 1;
        for (uint32_t i = 0; i < 2 * n * n_row; i++)
            sums[i] = _mm256_setzero_ps();
        for (uint32_t s = 0; s < p->n_slab; s++) {
            const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
            for (uint32_t k = 0, n_k; k < p->slab_k; k += n_k, x += (size_t)n_k * n_row) {
                n_k = p->slab_k - k < CHUNK ? p->slab_k - k : CHUNK;
                for (uint32_t i = 0; i < n_piece; i++) {
                    const struct chunk t = {w + k * k_bytes, p->panel_stride, x + pieces[i].first, n_row, n_k};
                    add_piece(dtype, &t, sums + 2 * n * pieces[i].first, pieces[i].height, n > 1);
                }
            }
        }
        for (uint32_t i = 0; i < n_piece; i++)
            put_piece(g, panel, n, row + pieces[i].first, pieces[i].height, sums + 2 * n * pieces[i].first);
    }
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

void sk_gemm_f_avx2(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel f32 = {row_bytes, tile, run_f32}, f16 = {row_bytes, tile, run_f16},
                                       bf16 = {row_bytes, tile, run_bf16};
    sk_ktab_put_gemm(t, SK_F32, &f32);
    sk_ktab_put_gemm(t, SK_F16, &f16);
    sk_ktab_put_gemm(t, SK_BF16, &bf16);
}
