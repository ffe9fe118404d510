/* Attention of prompt rows on AMX tiles, over caches of bf16, and of q8 turned into bf16 block by block. Rounded to
 * bf16: the query times scale and log2(e); scale * int8 of q8; the weights 2^(s - max) of a split, whose sum is that of
 * the rounded ones. Sums are f32, 32 products at a time in TDPBF16PS's own order (kernels/cpu/tile_amx.h), in the order
 * of dimensions (scores) and of positions (outputs).
 *
 * Keys and values in the cache are B tiles as they lie. A tile sums over all 32 positions of a block, with a weight of
 * 0 for those that a row does not see: what nobody has stored yet must not be NaN and is read from a copy with zeros. A
 * value that was stored as NaN reaches the earlier rows of its tile, too: only then does a row depend on its tile. */
#include "kernels/cpu/ktab.h"

enum { PANEL = 32 };
#include "kernels/cpu/attn_bf16.h"
#include "kernels/cpu/tile_amx.h"

enum { STEP = 32 /* dimensions or positions that one product of tiles sums over */, COLUMNS = 32 /* of two sums */ };
/* Tile registers: sums of rows 16 i.. and columns 16 j.. are S00 + 2 i + j. */
enum { S00, S01, S10, S11, A0, A1, B0, B1 };

struct room {
    struct scratch s;
    uint8_t last_keys[SPLIT_BLOCKS][2 * AMX_TILE_BYTES]; /* of the last, half step of a head: zeros behind them */
    uint8_t last_values[2 * SK_KV_BLOCK * SK_ATTN_MAX_HEAD_DIM];
    float out[PANEL][COLUMNS];
};
_Static_assert(sizeof(struct room) <= SK_ATTN_SCRATCH_BYTES, "attention's scratch");

/* Sums += A B of n_tile tiles of rows and n_column of columns: rows of a are ld_a apart, those of b ld_b, all bytes. */
INLINE void product(const void *a, size_t ld_a, const void *b, size_t ld_b, const int n_tile, const int n_column)
{
    amx_load(A0, a, ld_a);
    amx_load(B0, b, ld_b);
    amx_dp_bf16(S00, A0, B0);
    if (n_column == 2) {
        amx_load(B1, (const char *)b + AMX_ROW_BYTES, ld_b);
        amx_dp_bf16(S01, A0, B1);
    }
    if (n_tile == 2) {
        amx_load(A1, (const char *)a + AMX_ROWS * ld_a, ld_a);
        amx_dp_bf16(S10, A1, B0);
        if (n_column == 2)
            amx_dp_bf16(S11, A1, B1);
    }
}

INLINE void zero_sums(void)
{
    amx_zero(S00);
    amx_zero(S01);
    amx_zero(S10);
    amx_zero(S11);
}

INLINE void store_sums(float *to, size_t ld, const int n_tile)
{
    amx_store(S00, to, ld * sizeof *to);
    amx_store(S01, to + AMX_ROWS, ld * sizeof *to);
    if (n_tile == 2) {
        amx_store(S10, to + AMX_ROWS * ld, ld * sizeof *to);
        amx_store(S11, to + AMX_ROWS * ld + AMX_ROWS, ld * sizeof *to);
    }
}

static size_t query_width(const struct sk_attn_tile *t)
{
    return (t->kv->head_stride + STEP - 1) / STEP * (size_t)STEP;
}

/* Scores of the 32 positions of block b. */
INLINE void scores(const struct work *w, const struct panel *p, uint32_t b, const int n_tile)
{
    const struct room *room = (const struct room *)w->w;
    const size_t n = w->t->kv->head_stride, ld = query_width(w->t), line = (size_t)2 * AMX_ROW_BYTES;
    const uint16_t *q = w->w->q[0] + p->at * ld;

    zero_sums();
    for (size_t d = 0; d < n; d += STEP)
        product(q + d, ld * 2, d + STEP <= n ? w->k[b] + d / 2 * line : (const char *)room->last_keys[b], line, n_tile,
                2);
    store_sums(w->w->s[0] + (size_t)b * SK_KV_BLOCK, LD_S, n_tile);
}

/* Columns d..d + 16 n_column of the outputs. */
INLINE void sum_columns(const struct work *w, const struct panel *p, size_t d, const int n_tile, const int n_column)
{
    struct room *room = (struct room *)w->w;
    const size_t n = w->t->kv->head_stride;

    zero_sums();
    for (uint32_t b = p->block; b < p->end_block; b++)
        product(w->w->p[0] + (size_t)b * SK_KV_BLOCK, LD_P * 2, w->v[b] + d * 4, n * 4, n_tile, n_column);
    store_sums(room->out[0], COLUMNS, n_tile);
    for (uint32_t r = 0; r < p->n; r++) {
        for (int j = 0; j < n_column; j++)
            fold_columns(w->into->out + (p->at + (size_t)r) * n + d + 16 * (size_t)j,
                         _mm512_loadu_ps(room->out[r] + 16 * (size_t)j), p->keep[r], p->take[r], p->old[r]);
    }
}

INLINE void run_panel(const struct work *w, struct panel *p, const int n_tile)
{
    const size_t n = w->t->kv->head_stride;
    size_t d = 0;

    for (uint32_t b = p->block; b < p->end_block; b++)
        scores(w, p, b, n_tile);
    for (uint32_t r = 0; r < p->n; r++)
        softmax(w, p, r);
    fold_panel(p, w->into);
    for (; d + COLUMNS <= n; d += COLUMNS)
        sum_columns(w, p, d, n_tile, 2);
    if (d < n)
        sum_columns(w, p, d, n_tile, 1);
}

/* What tiles would read and is not there: dimensions after the last, positions after the last one stored. */
static void complete(struct work *w)
{
    struct room *room = (struct room *)w->w;
    const size_t n = w->t->kv->head_stride, half = AMX_TILE_BYTES;
    const uint32_t last = w->t->pos + w->t->n_row - 1 - w->span.begin, b = w->span.end_block - 1;

    for (uint32_t i = w->span.block; n % STEP != 0 && i < w->span.end_block; i++) {
        memcpy(room->last_keys[i], w->k[i] + n / STEP * 2 * AMX_TILE_BYTES, half);
        memset(room->last_keys[i] + half, 0, half);
    }
    if (last >= (b + 1) * SK_KV_BLOCK - 1)
        return;
    const uint32_t n_stored = last + 1 - b * SK_KV_BLOCK;
    for (uint32_t i = 0; i < SK_KV_BLOCK / 2; i++) {
        const __mmask32 stored = 2 * i + 1 < n_stored ? UINT32_MAX : 2 * i < n_stored ? 0x55555555u : 0;
        for (size_t d = 0; d < n; d += 16) {
            const size_t at = (i * n + d) * 4;
            _mm512_storeu_si512(room->last_values + at, _mm512_maskz_loadu_epi16(stored, w->v[b] + at));
        }
    }
    w->v[b] = (const char *)room->last_values;
}

INLINE void run(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                void *scratch, const bool q8)
{
    struct room *room = scratch;
    struct work w = {.t = t, .w = &room->s, .into = into};

    load_q(t, room->s.q[0], query_width(t));
    amx_config_whole();
    for (uint32_t s = split; s < split + n_split; s++) {
        struct panel p;
        if (!span_of(t, s, &w.span))
            continue;
        load_kv(&w, q8);
        complete(&w);
        for (uint32_t at = w.span.row * t->n_head; at < w.span.end_row * t->n_head; at += PANEL) {
            panel_of(t, &w.span, at, &p);
            if (p.n > AMX_ROWS)
                run_panel(&w, &p, 2);
            else
                run_panel(&w, &p, 1);
        }
    }
    amx_release();
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

void sk_attn_amx(struct sk_ktab *t)
{
    t->attn[SK_CLASS_PROMPT][SK_BF16] = attn_bf16;
    t->attn[SK_CLASS_PROMPT][SK_Q8] = attn_q8;
}
