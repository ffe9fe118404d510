/* GEMM on q8, q4 and q4s weights in registers of 256 bits. Tiles, and what is rounded: kernels/cpu/gemm_q.h. A body
 * that is built once per way to multiply bytes; the including file defines first, for lanes i = 0..7 and bytes
 * j = 0..3, all of it exact:
 *   dot_q4(acc, w, x)  adds w[4i + j] * x[4i + j] to what end_q4 makes of acc; w in 0..15, x in -127..127; good for
 *                      8 calls from zero
 *   end_q4(acc)        the sum of each lane, as int32
 *   dot_q8(acc, w, x)  acc[i] + sum of w[4i + j] * x[4i + j], w in 0..255; w - 128 in its stead where Q8_SIGNED */
#ifndef SK_GEMM_Q_AVX2_H
#define SK_GEMM_Q_AVX2_H
#include "kernels/cpu/gemm_ahead.h"
#include "kernels/cpu/gemm_q.h"
#include "kernels/cpu/simd_avx2.h"

enum {
    AHEAD_BYTES = 12 << 10, /* how far ahead of its use a weight is asked for */
    MAX_HEIGHT = 6          /* rows at once: their sums are 12 of the 16 registers */
};

/* Low or high ones of each byte. */
INLINE __m256i nibbles(__m256i v, int high)
{
    return _mm256_and_si256(high ? _mm256_srli_epi16(v, 4) : v, _mm256_set1_epi8(15));
}

/* Rows first..first + m - 1 of a tile `height` rows high. */
struct piece {
    const struct sk_gemm *g;
    const uint8_t *x; /* the tile */
    uint32_t row, height, first;
};

/* One block of a panel for m rows; x is the tile's block. Both halves of the panel at once: an input is fetched for
 * both. */
INLINE void block(const enum sk_dtype dtype, const uint8_t *w, const uint8_t *scales, const uint8_t *x,
                  const struct piece *t, __m256 acc[][2], const int m)
{
    const uint8_t *q = x + SK_QBLOCK * t->first;
    const float *scale = (const float *)(x + SK_QBLOCK * t->height) + t->first, *offset = scale + t->height;
    const int n_group = dtype == SK_Q8 ? 8 : 4, n_part = dtype == SK_Q8 ? 1 : 2; /* of 4 inputs; nibbles of a byte */
    __m256i dot[MAX_HEIGHT][2];

    UNROLL
    for (int r = 0; r < m; r++)
        dot[r][0] = dot[r][1] = _mm256_setzero_si256();
    UNROLL
    for (int g = 0; g < n_group; g++) {
        UNROLL
        for (int part = 0; part < n_part; part++) {
            const __m256i *at = (const __m256i *)(w + 4 * SK_PANEL * g);
            __m256i v[2] = {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
            if (dtype != SK_Q8) {
                v[0] = nibbles(v[0], part);
                v[1] = nibbles(v[1], part);
            }
            UNROLL
            for (int r = 0; r < m; r++) {
                const __m256i xr = _mm256_set1_epi32(load_i32(q + SK_QBLOCK * r + 16 * part + 4 * g));
                dot[r][0] = dtype == SK_Q8 ? dot_q8(dot[r][0], v[0], xr) : dot_q4(dot[r][0], v[0], xr);
                dot[r][1] = dtype == SK_Q8 ? dot_q8(dot[r][1], v[1], xr) : dot_q4(dot[r][1], v[1], xr);
            }
        }
    }
    UNROLL
    for (int r = 0; r < m; r++) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            const __m256 d = load_f16(scales + 16 * h), dx = _mm256_set1_ps(scale[r]);
            __m256i sum = dtype == SK_Q8 ? dot[r][h] : end_q4(dot[r][h]);
            if (dtype == SK_Q4S || (dtype == SK_Q8 && !Q8_SIGNED))
                sum = _mm256_add_epi32(sum, _mm256_set1_epi32(load_i32(&offset[r])));
            acc[r][h] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_mul_ps(d, dx), acc[r][h]);
            if (dtype == SK_Q4)
                acc[r][h] = _mm256_fmadd_ps(load_f16(scales + 32 + 16 * h), _mm256_set1_ps(offset[r]), acc[r][h]);
        }
    }
}

INLINE void put_rows(const struct piece *t, uint32_t panel, __m256 acc[][2], const int m)
{
    const struct sk_gemm *g = t->g;
    const size_t column = (size_t)panel * SK_PANEL;
    float *out = g->out + (t->row + t->first) * g->ld_out + column;

    UNROLL
    for (int r = 0; r < m; r++, out += g->ld_out) {
        UNROLL
        for (int h = 0; h < 2; h++) {
            __m256 v = acc[r][h];
            if (g->bias != NULL)
                v = _mm256_add_ps(v, _mm256_loadu_ps(g->bias + column + 8 * (size_t)h));
            if (g->add)
                v = _mm256_add_ps(_mm256_loadu_ps(out + 8 * h), v);
            _mm256_storeu_ps(out + 8 * h, v);
        }
    }
}

INLINE void one_panel(const enum sk_dtype dtype, const struct piece *t, uint32_t panel, const int m)
{
    const struct sk_pack *p = t->g->pack;
    const uint32_t n_blk = p->slab_k / SK_QBLOCK;
    const size_t block_bytes = dtype == SK_Q8 ? 512 : 256, scale_bytes = dtype == SK_Q4 ? 64 : 32;
    const uint8_t *x = t->x;
    __m256 acc[MAX_HEIGHT][2];

    UNROLL
    for (int r = 0; r < m; r++)
        acc[r][0] = acc[r][1] = _mm256_setzero_ps();
    for (uint32_t s = 0; s < p->n_slab; s++) {
        const uint8_t *w = t->g->weight + s * p->slab_stride + panel * p->panel_stride;
        const uint8_t *scales = w + n_blk * block_bytes, *next = weights_ahead(t->g, panel, 1, s, AHEAD_BYTES);
        for (uint32_t b = 0; b < n_blk; b++) {
            UNROLL
            for (size_t i = 0; i < block_bytes + scale_bytes; i += 64)
                _mm_prefetch((const char *)next + i, _MM_HINT_T0);
            block(dtype, w, scales, x, t, acc, m);
            next += block_bytes + scale_bytes;
            w += block_bytes;
            scales += scale_bytes;
            x += t->height * TILE_BLOCK_BYTES;
        }
    }
    put_rows(t, panel, acc, m);
}

/* A piece of each height is a function of its own: its sums are registers. */
INLINE void one_piece(const enum sk_dtype dtype, const struct piece *t, uint32_t at, uint32_t m)
{
    switch (m) {
// clang-format off
#define HEIGHT(m) case m: one_panel(dtype, t, at, m); break;
        HEIGHT(1) HEIGHT(2) HEIGHT(3) HEIGHT(4) HEIGHT(5) HEIGHT(6)
#undef HEIGHT
        // clang-format on
    }
}

/* A tile in pieces of about the same height: a panel stays in cache for all of them. */
INLINE void run(const enum sk_dtype dtype, const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row,
                uint32_t n_row)
{
    for (uint32_t end = row + n_row; row < end; row += SK_TILE_ROWS) {
        const uint32_t height = end - row < SK_TILE_ROWS ? end - row : SK_TILE_ROWS;
        const uint32_t n_piece = (height + MAX_HEIGHT - 1) / MAX_HEIGHT;
        struct piece t = {
            .g = g, .x = (const uint8_t *)g->x + row * tile_row_bytes(g->pack), .row = row, .height = height};
        for (uint32_t i = 0; i < n_panel; i++) {
            for (uint32_t j = 0; j < n_piece; j++) {
                t.first = height * j / n_piece;
                one_piece(dtype, &t, panel + i, height * (j + 1) / n_piece - t.first);
            }
        }
    }
}

static void run_q8(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    run(SK_Q8, g, panel, n_panel, row, n_row);
}

static void run_q4(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                   void *scratch)
{
    run(SK_Q4, g, panel, n_panel, row, n_row);
}

static void run_q4s(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row,
                    void *scratch)
{
    run(SK_Q4S, g, panel, n_panel, row, n_row);
}

/* A block of one row; returns the sum of ret_q. int8 knows no NaN: the scale carries it into every output of the
 * row. */
INLINE int32_t quant_block(const float *x, uint8_t *ret_q, float *ret_scale)
{
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7); /* packs work on halves */
    __m256 v[4], nan = _mm256_setzero_ps(), max = nan;
    __m256i q[4];

    UNROLL
    for (int i = 0; i < 4; i++) {
        v[i] = _mm256_loadu_ps(x + 8 * i);
        max = _mm256_max_ps(max, abs_ps(v[i]));
        nan = _mm256_or_ps(nan, _mm256_cmp_ps(v[i], v[i], _CMP_UNORD_Q));
    }
    const float top = max_lane(max), scale = top / 127, inv = scale >= 0x1p-126f ? 127 / top : 0;
    UNROLL
    for (int i = 0; i < 4; i++)
        q[i] = _mm256_cvtps_epi32(_mm256_mul_ps(v[i], _mm256_set1_ps(inv)));
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    _mm256_storeu_si256((__m256i *)ret_q, _mm256_permutevar8x32_epi32(bytes, order));
    *ret_scale = _mm256_movemask_ps(nan) ? __builtin_nanf("") : scale;
    return sum_epi32(_mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3])));
}

static void tile(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile)
{
    uint8_t *to = (uint8_t *)ret_tile + (size_t)from / SK_QBLOCK * n_row * TILE_BLOCK_BYTES;

    for (uint32_t i = 0; i < n; i += SK_QBLOCK, to += n_row * TILE_BLOCK_BYTES) {
        float *scale = (float *)(to + SK_QBLOCK * n_row);
        for (uint32_t r = 0; r < n_row; r++) {
            const int32_t sum = quant_block(x + r * ld + i, to + SK_QBLOCK * r, &scale[r]);
            const uint32_t offset = (uint32_t)weight_zero(p->dtype) * -(uint32_t)sum; /* anything where x is NaN */
            if (p->dtype == SK_Q4)
                scale[n_row + r] = scale[r] * (float)sum;
            else
                memcpy(&scale[n_row + r], &offset, sizeof offset);
        }
    }
}

static const struct sk_gemm_kernel kernel_q8 = {tile_row_bytes, tile, run_q8},
                                   kernel_q4 = {tile_row_bytes, tile, run_q4},
                                   kernel_q4s = {tile_row_bytes, tile, run_q4s};

static void put_kernels(struct sk_ktab *t)
{
    sk_ktab_put_gemm(t, SK_Q8, &kernel_q8);
    sk_ktab_put_gemm(t, SK_Q4, &kernel_q4);
    sk_ktab_put_gemm(t, SK_Q4S, &kernel_q4s);
}

#endif
