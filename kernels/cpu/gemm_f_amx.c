/* GEMM on AMX tiles of bf16: both classes of bf16 weights, the prompt class of q8, q4 and q4s. Activations are rounded
 * to bf16 (nearest even) when a tile is made. Weights of q8, q4 and q4s are computed in f32 (one rounding) and rounded
 * to bf16; those of bf16 are what they are. Products are exact; sums are f32, step after step of 32 inputs, inside a
 * step in TDPBF16PS's own order (kernels/cpu/tile_amx.h); denormals are read and written as 0.
 *
 * A tile of rows: [n_step][16][32] bf16, each slab padded with zeros to whole steps. Rows above the tile's height hold
 * what was there before: they give sums of their own, which nobody reads.
 *
 * One block of steps after the other, panels in pairs meet all rows, two tiles of 16 at a time: the weights of a block
 * are expanded once, into a scratch that the first-level cache holds, and serve all rows; the activations of the block
 * stay in the second-level cache while all pairs of panels pass, and so do the sums. */
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/tile_amx.h"

enum {
    STEP = 32,       /* inputs that one product of tiles sums over */
    BLOCK_STEPS = 8, /* 16 KiB of weights and as many of activations, so that each is read from L1 */
    PASS_TILES = 64, /* of rows; the weights are expanded again for the next 1,024 rows */
    PASS_PAIRS = 8   /* of panels: a megabyte of sums, half of one of activations */
};
enum { X0 = 4, X1 = 5, W0 = 6, W1 = 7 }; /* tile registers; the sums of tile t and panel c are in 2 t + c */

struct scratch {
    uint8_t weight[2][BLOCK_STEPS][AMX_TILE_BYTES];
    float sum[PASS_PAIRS][PASS_TILES][2][SK_TILE_ROWS][SK_PANEL];
};
_Static_assert(sizeof(struct scratch) <= SK_CPU_WORKER_BYTES, "a worker's scratch");

static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static uint32_t slab_steps(const struct sk_pack *p)
{
    return (p->slab_k + STEP - 1) / STEP;
}

static size_t row_bytes(const struct sk_pack *p)
{
    return (size_t)p->n_slab * slab_steps(p) * AMX_ROW_BYTES;
}

/* At most STEP values, zeros after them. */
INLINE __m512i to_bf16(const float *x, uint32_t n)
{
    const __mmask16 low = lanes_below(n), high = lanes_below(n < 16 ? 0 : n - 16);
    return (__m512i)_mm512_cvtne2ps_pbh(_mm512_maskz_loadu_ps(high, x + 16), _mm512_maskz_loadu_ps(low, x));
}

/* Slabs may begin and end inside a stretch, anywhere. */
static void tile(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile)
{
    uint32_t n_here;

    for (uint32_t i = from, end = from + n; i < end; i += n_here, x += n_here) {
        const uint32_t k = i % p->slab_k, at = k % STEP;
        n_here = min_of(min_of(STEP - at, p->slab_k - k), end - i);
        const bool pad = k + n_here == p->slab_k;
        const __mmask32 written = (pad ? UINT32_MAX : (uint32_t)((1ull << n_here) - 1)) & UINT32_MAX >> at;
        uint8_t *to =
            (uint8_t *)ret_tile + (size_t)(i / p->slab_k * slab_steps(p) + k / STEP) * AMX_TILE_BYTES + 2 * at;
        for (uint32_t r = 0; r < n_row; r++)
            _mm512_mask_storeu_epi16(to + (size_t)r * AMX_ROW_BYTES, written, to_bf16(x + r * ld, n_here));
    }
}

/* What stored bits mean: put below the exponent of 1 they are 1 + stored / 16 (4 bits) or / 256, so that a
 * multiplication and an addition make the weight of them. */
struct meaning {
    __m512 scale, offset;
};

INLINE struct meaning meaning(enum sk_dtype dtype, const uint8_t *scales)
{
    const __m512 d = load_f16(scales), size = _mm512_mul_ps(d, _mm512_set1_ps(dtype == SK_Q8 ? 256 : 16));

    if (dtype == SK_Q4)
        return (struct meaning){size, _mm512_sub_ps(load_f16(scales + 2 * SK_PANEL), size)};
    return (struct meaning){size, _mm512_mul_ps(d, _mm512_set1_ps(dtype == SK_Q8 ? -(256 + 128) : -(16 + 8)))};
}

/* The weights whose lowest bit is bit `bit` of each word. */
INLINE __m512 weights(__m512i v, const int bit, const int n_bit, const struct meaning *m)
{
    const int left = 23 - n_bit - bit;
    const __m512i at = left >= 0 ? _mm512_slli_epi32(v, (unsigned)(left >= 0 ? left : 0))
                                 : _mm512_srli_epi32(v, (unsigned)(left >= 0 ? 0 : -left));
    const __m512i mask = _mm512_set1_epi32(((1 << n_bit) - 1) << (23 - n_bit)), one = _mm512_set1_epi32(0x3f800000);
    const __m512i f = _mm512_ternarylogic_epi32(at, mask, one, 0xea); /* (at & mask) | one */
    return _mm512_fmadd_ps(_mm512_castsi512_ps(f), m->scale, m->offset);
}

/* Rows of a B tile from words of 4 inputs, of which the stored bits begin at bit `bit` of each byte. */
INLINE void expand_words(const uint8_t *w, const int bit, const int n_bit, const struct meaning *m, uint8_t *ret)
{
    const __m512i v = _mm512_loadu_si512(w),
                  in_pairs = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22,
                                              6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);

    UNROLL
    for (int pair = 0; pair < 2; pair++) {
        const __m512 even = weights(v, 16 * pair + bit, n_bit, m), odd = weights(v, 16 * pair + 8 + bit, n_bit, m);
        _mm512_store_si512(ret + pair * AMX_ROW_BYTES,
                           _mm512_permutexvar_epi16(in_pairs, (__m512i)_mm512_cvtne2ps_pbh(odd, even)));
    }
}

INLINE void expand_step(enum sk_dtype dtype, const uint8_t *w, const uint8_t *scales, uint8_t *ret)
{
    const struct meaning m = meaning(dtype, scales);

    UNROLL
    for (int i = 0; i < 8; i++) {
        if (dtype == SK_Q8)
            expand_words(w + 64 * i, 0, 8, &m, ret + 2 * i * AMX_ROW_BYTES);
        else
            expand_words(w + 64 * (i % 4), i / 4 * 4, 4, &m, ret + 2 * i * AMX_ROW_BYTES);
    }
}

/* A bf16 panel is B tiles already: they are moved to where weights do not compete for cache sets, and the last step of
 * the slab is filled up. */
INLINE void copy_step(const uint8_t *w, uint32_t n_pair, uint8_t *ret)
{
    for (uint32_t k = 0; k < n_pair; k++)
        _mm512_store_si512(ret + k * AMX_ROW_BYTES, _mm512_loadu_si512(w + (size_t)k * AMX_ROW_BYTES));
    for (uint32_t k = n_pair; k < AMX_ROWS; k++)
        _mm512_store_si512(ret + k * AMX_ROW_BYTES, _mm512_setzero_si512());
}

/* Steps step..step + n_step - 1 of a slab, and the tiles of rows that they meet. */
struct block {
    const struct sk_pack *pack;
    const uint8_t *x; /* of the first tile, from `step` on */
    size_t tile_bytes;
    uint32_t step, n_step, n_tile;
    bool first; /* of the matrix */
};

/* Of a panel; and a wish for the next block. */
INLINE void expand(enum sk_dtype dtype, const struct block *b, const uint8_t *panel, uint8_t (*ret)[AMX_TILE_BYTES])
{
    const uint32_t slab_k = b->pack->slab_k;
    const uint32_t bytes = dtype == SK_BF16 ? 1024 : dtype == SK_Q8 ? 512 : 256, scale_bytes = dtype == SK_Q4 ? 64 : 32;
    const uint32_t all_bytes = dtype == SK_BF16 ? bytes : bytes + scale_bytes; /* a panel as a whole is one stretch */
    const uint8_t *scales = panel + (size_t)slab_k / SK_QBLOCK * bytes;

    for (uint32_t i = b->step; i < b->step + b->n_step; i++, ret++) {
        const uint8_t *w = panel + (size_t)i * bytes, *next = panel + (size_t)(i + BLOCK_STEPS) * all_bytes;
        for (uint32_t at = 0; at < all_bytes; at += 64)
            _mm_prefetch((const char *)next + at, _MM_HINT_T0);
        if (dtype == SK_BF16)
            copy_step(w, min_of(slab_k - i * STEP, STEP) / 2, *ret);
        else
            expand_step(dtype, w, scales + (size_t)i * scale_bytes, *ret);
    }
}

INLINE void get_sum(const int i, const float (*sum)[SK_PANEL], bool first)
{
    if (first)
        amx_zero(i);
    else
        amx_load(i, sum, AMX_ROW_BYTES);
}

/* n_t tiles of rows from tile t times n_c panels, whose weights are expanded. */
INLINE void multiply(const struct block *b, uint32_t t, const uint8_t (*weight)[BLOCK_STEPS][AMX_TILE_BYTES],
                     const int n_t, const int n_c, float (*sum)[2][SK_TILE_ROWS][SK_PANEL])
{
    const uint8_t *x = b->x + t * b->tile_bytes;

    get_sum(0, sum[t][0], b->first);
    if (n_c == 2)
        get_sum(1, sum[t][1], b->first);
    if (n_t == 2)
        get_sum(2, sum[t + 1][0], b->first);
    if (n_t == 2 && n_c == 2)
        get_sum(3, sum[t + 1][1], b->first);
    for (uint32_t k = 0; k < b->n_step; k++, x += AMX_TILE_BYTES) {
        amx_load(X0, x, AMX_ROW_BYTES);
        amx_load(W0, weight[0][k], AMX_ROW_BYTES);
        amx_dp_bf16(0, X0, W0);
        if (n_c == 2) {
            amx_load(W1, weight[1][k], AMX_ROW_BYTES);
            amx_dp_bf16(1, X0, W1);
        }
        if (n_t == 2) {
            amx_load(X1, x + b->tile_bytes, AMX_ROW_BYTES);
            amx_dp_bf16(2, X1, W0);
        }
        if (n_t == 2 && n_c == 2)
            amx_dp_bf16(3, X1, W1);
    }
    amx_store(0, sum[t][0], AMX_ROW_BYTES);
    if (n_c == 2)
        amx_store(1, sum[t][1], AMX_ROW_BYTES);
    if (n_t == 2)
        amx_store(2, sum[t + 1][0], AMX_ROW_BYTES);
    if (n_t == 2 && n_c == 2)
        amx_store(3, sum[t + 1][1], AMX_ROW_BYTES);
}

/* n_c panels; w: the first one in the block's slab. */
INLINE void panels(enum sk_dtype dtype, const struct block *b, const uint8_t *w, const int n_c,
                   uint8_t (*weight)[BLOCK_STEPS][AMX_TILE_BYTES], float (*sum)[2][SK_TILE_ROWS][SK_PANEL])
{
    uint32_t t = 0;

    for (int c = 0; c < n_c; c++)
        expand(dtype, b, w + (size_t)c * b->pack->panel_stride, weight[c]);
    for (; t + 2 <= b->n_tile; t += 2)
        multiply(b, t, weight, 2, n_c, sum);
    if (t < b->n_tile)
        multiply(b, t, weight, 1, n_c, sum);
}

/* At most PASS_PAIRS pairs of panels and PASS_TILES tiles of rows. */
struct pass {
    const struct sk_gemm *g;
    struct scratch *scratch;
    uint32_t panel, n_panel, row, n_row;
};

INLINE void multiply_pass(enum sk_dtype dtype, const struct pass *t)
{
    const struct sk_pack *p = t->g->pack;
    const uint32_t n_step = slab_steps(p);
    struct scratch *s = t->scratch;
    struct block b = {.pack = p,
                      .x = (const uint8_t *)t->g->x + t->row * row_bytes(p),
                      .tile_bytes = SK_TILE_ROWS * row_bytes(p),
                      .n_tile = (t->n_row + SK_TILE_ROWS - 1) / SK_TILE_ROWS,
                      .first = true};

    for (uint32_t slab = 0; slab < p->n_slab; slab++) {
        const uint8_t *w = t->g->weight + slab * p->slab_stride + t->panel * p->panel_stride;
        for (b.step = 0; b.step < n_step; b.step += b.n_step) {
            uint32_t c = 0;
            b.n_step = min_of(n_step - b.step, BLOCK_STEPS);
            for (; c + 2 <= t->n_panel; c += 2)
                panels(dtype, &b, w + c * p->panel_stride, 2, s->weight, s->sum[c / 2]);
            if (c < t->n_panel)
                panels(dtype, &b, w + c * p->panel_stride, 1, s->weight, s->sum[c / 2]);
            b.x += (size_t)b.n_step * AMX_TILE_BYTES;
            b.first = false;
        }
    }
}

static void finish_pass(const struct pass *t)
{
    const struct sk_gemm *g = t->g;

    for (uint32_t r = 0; r < t->n_row; r++) {
        for (uint32_t c = 0; c < t->n_panel; c++) {
            const size_t column = (size_t)(t->panel + c) * SK_PANEL;
            float *out = g->out + (t->row + r) * g->ld_out + column;
            __m512 v = _mm512_load_ps(t->scratch->sum[c / 2][r / SK_TILE_ROWS][c % 2][r % SK_TILE_ROWS]);
            if (g->bias != NULL)
                v = _mm512_add_ps(v, _mm512_loadu_ps(g->bias + column));
            if (g->add)
                v = _mm512_add_ps(_mm512_loadu_ps(out), v);
            _mm512_storeu_ps(out, v);
        }
    }
}

static void run_pass(const struct pass *t)
{
    switch (t->g->pack->dtype) {
    case SK_BF16:
        multiply_pass(SK_BF16, t);
        break;
    case SK_Q8:
        multiply_pass(SK_Q8, t);
        break;
    case SK_Q4:
        multiply_pass(SK_Q4, t);
        break;
    default:
        multiply_pass(SK_Q4S, t);
    }
    finish_pass(t);
}

static void run(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row, void *scratch)
{
    const uint32_t max_row = PASS_TILES * SK_TILE_ROWS, max_panel = 2 * PASS_PAIRS;

    amx_config_whole();
    for (uint32_t r = 0; r < n_row; r += max_row)
        for (uint32_t c = 0; c < n_panel; c += max_panel)
            run_pass(&(struct pass){.g = g,
                                    .scratch = scratch,
                                    .panel = panel + c,
                                    .n_panel = min_of(n_panel - c, max_panel),
                                    .row = row + r,
                                    .n_row = min_of(n_row - r, max_row)});
    amx_release();
}

void sk_gemm_f_amx(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel kernel = {row_bytes, tile, run};

    sk_ktab_put_gemm(t, SK_BF16, &kernel);
    t->gemm[SK_CLASS_PROMPT][SK_Q8] = &kernel;
    t->gemm[SK_CLASS_PROMPT][SK_Q4] = &kernel;
    t->gemm[SK_CLASS_PROMPT][SK_Q4S] = &kernel;
}
