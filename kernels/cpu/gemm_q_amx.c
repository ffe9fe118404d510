/* GEMM on q8, q4 and q4s weights, whole tiles of 16 rows, with AMX products of bytes: the bits of the level below,
 * which serves lower tiles, because a block's products are summed in int32 there, too, and the f32 operations after
 * that are the same in the same order. Tiles, and what is rounded: kernels/cpu/gemm_q.h.
 *
 * The weights of some blocks are widened to bytes once, in a scratch that the first-level cache holds, for all tiles.
 */
#include "kernels/cpu/gemm_avx512.h"
#include "kernels/cpu/gemm_q.h"
#include "kernels/cpu/tile_amx.h"

enum {
    WEIGHT_BYTES = SK_QBLOCK * SK_PANEL, /* of a block of a panel */
    CHUNK_BLOCKS = 16,                   /* 8 KiB of weights and 10 KiB of activations in L1 */
    PASS_TILES = 64
};
enum { DOT = 0, X = 4, W = 6 }; /* tile registers */

struct scratch {
    uint8_t weight[CHUNK_BLOCKS][WEIGHT_BYTES];
    float sum[PASS_TILES][SK_TILE_ROWS][SK_PANEL];
    int32_t dot[SK_TILE_ROWS][SK_PANEL];
};
_Static_assert(sizeof(struct scratch) <= SK_CPU_WORKER_BYTES, "a worker's scratch");

/* Kernels of the level below, the same for every table. */
static const struct sk_gemm_kernel *lower[SK_DTYPE_COUNT];

static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

INLINE void widen(enum sk_dtype dtype, const uint8_t *w, uint8_t *ret)
{
    const __m512i low = _mm512_set1_epi8(15);

    UNROLL
    for (int i = 0; i < 8; i++) {
        __m512i v = _mm512_loadu_si512(w + 64 * (dtype == SK_Q8 ? i : i % 4));
        if (dtype != SK_Q8)
            v = _mm512_and_si512(i < 4 ? v : _mm512_srli_epi16(v, 4), low);
        _mm512_store_si512(ret + 64 * i, v);
    }
}

/* Blocks of a panel, widened into scratch->weight, that a tile of rows meets. */
struct chunk {
    struct scratch *scratch;
    const uint8_t *scales;
    uint32_t n_blk;
    bool first; /* of the matrix */
};

/* x: the first block of the tile. */
INLINE void add_chunk(enum sk_dtype dtype, const struct chunk *c, const uint8_t *x, float sum[SK_TILE_ROWS][SK_PANEL])
{
    struct scratch *s = c->scratch;
    __m512 acc[SK_TILE_ROWS];

    UNROLL
    for (int r = 0; r < SK_TILE_ROWS; r++)
        acc[r] = c->first ? _mm512_setzero_ps() : _mm512_load_ps(sum[r]);
    for (uint32_t b = 0; b < c->n_blk; b++, x += SK_TILE_ROWS * TILE_BLOCK_BYTES) {
        const uint8_t *dx = x + SK_TILE_ROWS * SK_QBLOCK, *offset = dx + 4 * SK_TILE_ROWS;
        const uint8_t *scales = c->scales + (size_t)b * (dtype == SK_Q4 ? 64 : 32);
        const __m512 d = load_f16(scales), m = dtype == SK_Q4 ? load_f16(scales + 32) : d;

        amx_zero(DOT);
        amx_load(X, x, SK_QBLOCK);
        amx_load(W, s->weight[b], AMX_ROW_BYTES);
        amx_dp_su8(DOT, X, W);
        amx_store(DOT, s->dot, AMX_ROW_BYTES);
        UNROLL
        for (int r = 0; r < SK_TILE_ROWS; r++) {
            __m512i dot = _mm512_load_si512(s->dot[r]);
            if (dtype != SK_Q4)
                dot = _mm512_add_epi32(dot, _mm512_set1_epi32(load_i32(offset + 4 * r)));
            const __m512 scale = _mm512_mul_ps(d, _mm512_set1_ps(load_f32(dx + 4 * r)));
            acc[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), scale, acc[r]);
            if (dtype == SK_Q4)
                acc[r] = _mm512_fmadd_ps(m, _mm512_set1_ps(load_f32(offset + 4 * r)), acc[r]);
        }
    }
    UNROLL
    for (int r = 0; r < SK_TILE_ROWS; r++)
        _mm512_store_ps(sum[r], acc[r]);
}

/* One panel, at most PASS_TILES whole tiles. */
struct pass {
    const struct sk_gemm *g;
    struct scratch *scratch;
    uint32_t panel, row, n_tile;
};

INLINE void multiply_pass(enum sk_dtype dtype, const struct pass *t)
{
    const struct sk_pack *p = t->g->pack;
    const uint32_t n_blk = p->slab_k / SK_QBLOCK, bytes = dtype == SK_Q8 ? 512 : 256,
                   scale_bytes = dtype == SK_Q4 ? 64 : 32;
    const size_t tile_bytes = SK_TILE_ROWS * tile_row_bytes(p);
    const uint8_t *x = (const uint8_t *)t->g->x + t->row * tile_row_bytes(p);
    struct chunk c = {.scratch = t->scratch, .first = true};

    for (uint32_t slab = 0; slab < p->n_slab; slab++) {
        const uint8_t *w = t->g->weight + slab * p->slab_stride + t->panel * p->panel_stride;
        for (uint32_t b = 0; b < n_blk; b += c.n_blk, c.first = false) {
            c.n_blk = min_of(n_blk - b, CHUNK_BLOCKS);
            c.scales = w + (size_t)n_blk * bytes + (size_t)b * scale_bytes;
            for (uint32_t i = 0; i < c.n_blk; i++) {
                const uint8_t *next = w + (size_t)(b + i + CHUNK_BLOCKS) * (bytes + scale_bytes);
                for (uint32_t at = 0; at < bytes + scale_bytes; at += 64) /* a panel as a whole is one stretch */
                    _mm_prefetch((const char *)next + at, _MM_HINT_T0);
                widen(dtype, w + (size_t)(b + i) * bytes, t->scratch->weight[i]);
            }
            for (uint32_t i = 0; i < t->n_tile; i++)
                add_chunk(dtype, &c, x + i * tile_bytes, t->scratch->sum[i]);
            x += (size_t)c.n_blk * SK_TILE_ROWS * TILE_BLOCK_BYTES;
        }
    }
}

static void finish_pass(const struct pass *t)
{
    const struct sk_gemm *g = t->g;
    const size_t column = (size_t)t->panel * SK_PANEL;
    const __m512 bias = bias_of(g, column);

    for (uint32_t r = 0; r < t->n_tile * SK_TILE_ROWS; r++)
        put_sum(g->out + (t->row + r) * g->ld_out + column,
                _mm512_load_ps(t->scratch->sum[r / SK_TILE_ROWS][r % SK_TILE_ROWS]), bias, g->add);
}

static void run_pass(const struct pass *t)
{
    switch (t->g->pack->dtype) {
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

static void configure(void)
{
    struct amx_config c = {.palette = 1};

    c.rows[DOT] = c.rows[X] = AMX_ROWS;
    c.rows[W] = SK_QBLOCK / 4;
    c.colsb[DOT] = c.colsb[W] = AMX_ROW_BYTES;
    c.colsb[X] = SK_QBLOCK;
    amx_config(&c);
}

static void run(const struct sk_gemm *g, uint32_t panel, uint32_t n_panel, uint32_t row, uint32_t n_row, void *scratch)
{
    const uint32_t n_tile = n_row / SK_TILE_ROWS, n_low = n_row % SK_TILE_ROWS;

    if (n_tile > 0) {
        configure();
        for (uint32_t i = 0; i < n_tile; i += PASS_TILES)
            for (uint32_t c = 0; c < n_panel; c++)
                run_pass(&(struct pass){.g = g,
                                        .scratch = scratch,
                                        .panel = panel + c,
                                        .row = row + i * SK_TILE_ROWS,
                                        .n_tile = min_of(n_tile - i, PASS_TILES)});
        amx_release();
    }
    if (n_low > 0)
        lower[g->pack->dtype]->run(g, panel, n_panel, row + n_row - n_low, n_low, scratch);
}

static void tile(const struct sk_pack *p, const float *x, size_t ld, uint32_t n_row, uint32_t from, uint32_t n,
                 void *ret_tile)
{
    lower[p->dtype]->tile(p, x, ld, n_row, from, n, ret_tile);
}

void sk_gemm_q_amx(struct sk_ktab *t)
{
    static const struct sk_gemm_kernel kernel = {tile_row_bytes, tile, run};
    static const enum sk_dtype dtypes[] = {SK_Q8, SK_Q4, SK_Q4S};

    for (unsigned i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        lower[dtypes[i]] = t->gemm[SK_CLASS_DECODE][dtypes[i]];
        sk_ktab_put_gemm(t, dtypes[i], &kernel);
    }
}
