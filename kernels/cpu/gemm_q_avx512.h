/* GEMM on q8 and q4 weights; a body that is built once per way to multiply bytes. The including file defines first
 *   dot4(acc, w, x): acc[i] + sum of w[4i + j] * x[4i + j] for j = 0..3, w unsigned bytes, x signed ones, exactly.
 *
 * A tile of n_row rows is, per block of 32 inputs: q [n_row][32] int8, x / scale rounded to nearest even; scale [n_row]
 * f32 = absmax / 127; and what corrects for the weights' offset, [n_row]: q8: int32 -128 * sum(q), q4: f32 scale *
 * sum(q). Sums of products are exact; nothing else is rounded but the activations, to 8 bits a block.
 *
 * Per output and block of 32: acc = fma(float(sum of w * q), dw * dx, acc), and for q4 then acc = fma(m, dx * sum(q),
 * acc). */
#ifndef SK_GEMM_Q_AVX512_H
#define SK_GEMM_Q_AVX512_H
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/simd_avx512.h"

/* How far ahead of its use a weight is asked for: found by measuring; more would crowd the first-level cache. Weights
 * come from memory once a step, and the hardware's prefetchers stop at every 4 KiB. */
enum { AHEAD_BYTES = 12 << 10 };
enum { TILE_BLOCK_BYTES = SK_QBLOCK + 8 }; /* of one row and block */

/* Of gemm_q_avx512.c, for all bodies. */
void sk_tile_q8_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                       void *ret_tile);
void sk_tile_q4_avx512(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                       void *ret_tile);

static inline size_t row_bytes(const struct sk_pack *p)
{
    return (size_t)p->n_in / SK_QBLOCK * TILE_BLOCK_BYTES;
}

INLINE void prefetch(const uint8_t *p, int bytes)
{
    UNROLL
    for (int i = 0; i < bytes; i += 64)
        _mm_prefetch((const char *)p + AHEAD_BYTES + i, _MM_HINT_T0);
}

INLINE __m512 load_f16(const uint8_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* One block of 32 inputs of a q4 panel: the 8 operands of dot4, scales, offsets. */
INLINE void block_q4(const uint8_t *w, const uint8_t *scales, const uint8_t *x, const int m, __m512 *acc)
{
    const __m512i low = _mm512_set1_epi8(15);
    const float *dx = (const float *)(x + 32 * m), *sum = dx + m;
    __m512i lo[4], hi[4];

    UNROLL
    for (int g = 0; g < 4; g++) {
        __m512i v = _mm512_loadu_si512(w + 64 * g);
        lo[g] = _mm512_and_si512(v, low);
        hi[g] = _mm512_and_si512(_mm512_srli_epi16(v, 4), low);
    }
    __m512 d = load_f16(scales), off = load_f16(scales + 32);
    UNROLL
    for (int r = 0; r < m; r++) {
        const uint8_t *q = x + 32 * r;
        __m512i dot = _mm512_setzero_si512();
        UNROLL
        for (int g = 0; g < 4; g++) {
            dot = dot4(dot, lo[g], _mm512_set1_epi32(load_i32(q + 4 * g)));
            dot = dot4(dot, hi[g], _mm512_set1_epi32(load_i32(q + 16 + 4 * g)));
        }
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, _mm512_set1_ps(dx[r])), acc[r]);
        acc[r] = _mm512_fmadd_ps(off, _mm512_set1_ps(sum[r]), acc[r]);
    }
}

/* The same of a q8 panel, whose weights are stored + 128: the correction starts the sum. */
INLINE void block_q8(const uint8_t *w, const uint8_t *scales, const uint8_t *x, const int m, __m512 *acc)
{
    const float *dx = (const float *)(x + 32 * m);
    const uint8_t *correction = x + 36 * m;
    __m512i v[8];

    UNROLL
    for (int g = 0; g < 8; g++)
        v[g] = _mm512_loadu_si512(w + 64 * g);
    __m512 d = load_f16(scales);
    UNROLL
    for (int r = 0; r < m; r++) {
        const uint8_t *q = x + 32 * r;
        __m512i dot = _mm512_set1_epi32(load_i32(correction + 4 * r));
        UNROLL
        for (int g = 0; g < 8; g++)
            dot = dot4(dot, v[g], _mm512_set1_epi32(load_i32(q + 4 * g)));
        acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(d, _mm512_set1_ps(dx[r])), acc[r]);
    }
}

INLINE void panels(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, const int m, const bool q4)
{
    const struct sk_pack *p = g->pack;
    const uint32_t n_blk = p->slab_k / SK_QBLOCK;
    const int block_bytes = q4 ? 256 : 512, scale_bytes = q4 ? 64 : 32;
    const uint8_t *tile = (const uint8_t *)g->x + row * row_bytes(p);

    for (uint32_t end = panel + n_panel; panel < end; panel++) {
        const uint8_t *x = tile;
        __m512 acc[SK_TILE_ROWS];
        UNROLL
        for (int r = 0; r < m; r++)
            acc[r] = _mm512_setzero_ps();
        for (uint32_t s = 0; s < p->n_slab; s++) {
            const uint8_t *w = g->weight + s * p->slab_stride + panel * p->panel_stride;
            const uint8_t *scales = w + (size_t)n_blk * (size_t)block_bytes, *next = w;
            for (uint32_t b = 0; b < n_blk; b++) {
                prefetch(next, block_bytes + scale_bytes); /* a panel as a whole is one stretch */
                next += block_bytes + scale_bytes;
                if (q4)
                    block_q4(w, scales, x, m, acc);
                else
                    block_q8(w, scales, x, m, acc);
                w += block_bytes;
                scales += scale_bytes;
                x += m * TILE_BLOCK_BYTES;
            }
        }
        __m512 bias = g->bias != NULL ? _mm512_loadu_ps(g->bias + panel * SK_PANEL) : _mm512_setzero_ps();
        float *out = g->out + row * g->ld_out + panel * SK_PANEL;
        UNROLL
        for (int r = 0; r < m; r++) {
            acc[r] = _mm512_add_ps(acc[r], bias);
            if (g->add)
                acc[r] = _mm512_add_ps(_mm512_loadu_ps(out + (size_t)r * g->ld_out), acc[r]);
            _mm512_storeu_ps(out + (size_t)r * g->ld_out, acc[r]);
        }
    }
}

/* A tile of each height is a function of its own: its accumulators are registers. */
INLINE void one_tile(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                     const bool q4)
{
    switch (n_row) {
// clang-format off
#define HEIGHT(m) case m: panels(g, panel, n_panel, row, m, q4); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6) HEIGHT(7) HEIGHT(8)
        HEIGHT(9) HEIGHT(10) HEIGHT(11) HEIGHT(12) HEIGHT(13) HEIGHT(14) HEIGHT(15) HEIGHT(16)
#undef HEIGHT
        // clang-format on
    }
}

INLINE void tiles(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                  const bool q4)
{
    for (; n_row > SK_TILE_ROWS; row += SK_TILE_ROWS, n_row -= SK_TILE_ROWS)
        one_tile(g, panel, n_panel, row, SK_TILE_ROWS, q4);
    one_tile(g, panel, n_panel, row, n_row, q4);
}

static void run_q4(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    tiles(g, panel, n_panel, row, n_row, true);
}

static void run_q8(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    tiles(g, panel, n_panel, row, n_row, false);
}

static const struct sk_gemm_kernel kernel_q4 = {row_bytes, sk_tile_q4_avx512, run_q4};
static const struct sk_gemm_kernel kernel_q8 = {row_bytes, sk_tile_q8_avx512, run_q8};

#endif
