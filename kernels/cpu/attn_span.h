/* Which positions of a split the queries of a tile see, for kernels that take queries in panels. The including file
 * defines PANEL, the most queries of a panel. All is static: it is built for the instruction set of that file. */
#ifndef SK_ATTN_SPAN_H
#define SK_ATTN_SPAN_H
#include "kernels/cpu/attn.h"

enum { SPLIT_BLOCKS = SK_SPLIT_TOK / SK_KV_BLOCK };

/* What a tile sees of one split. */
struct span {
    uint32_t begin;            /* the split's first position */
    uint32_t row, end_row;     /* rows that see any of it */
    uint32_t block, end_block; /* blocks of the split that they see */
};

/* Positions lo..hi of the split that the row at `pos` sees: lo > hi if none. */
static inline void row_range(const struct sk_attn_tile *t, uint32_t begin, uint32_t pos, uint32_t *ret_lo,
                             uint32_t *ret_hi)
{
    const uint32_t lo = t->window > 0 && pos + 1 > t->window ? pos + 1 - t->window : 0;
    *ret_lo = lo > begin ? lo - begin : 0;
    if (pos < begin) {
        *ret_lo = 1;
        *ret_hi = 0;
    } else {
        *ret_hi = pos - begin < SK_SPLIT_TOK ? pos - begin : SK_SPLIT_TOK - 1;
    }
}

/* Later rows see later positions: those that see any of the split are neighbours. False if none does. */
static inline bool span_of(const struct sk_attn_tile *t, uint32_t split, struct span *ret)
{
    uint32_t lo = 0, hi = 0, row = 0, end = t->n_row;

    ret->begin = split * SK_SPLIT_TOK;
    for (;; row++) {
        if (row == end)
            return false;
        row_range(t, ret->begin, t->pos + row, &lo, &hi);
        if (lo <= hi)
            break;
    }
    ret->row = row;
    ret->block = lo / SK_KV_BLOCK;
    do {
        row_range(t, ret->begin, t->pos + --end, &lo, &hi);
    } while (lo > hi);
    ret->end_row = end + 1;
    ret->end_block = hi / SK_KV_BLOCK + 1;
    return true;
}

/* Which of positions from..from+31 lie in lo..hi, as bits. */
static inline uint32_t seen(uint32_t from, uint32_t lo, uint32_t hi)
{
    if (lo >= from + 32 || hi < from)
        return 0;
    const uint32_t bits = lo > from ? UINT32_MAX << (lo - from) : UINT32_MAX;
    return hi - from < 31 ? bits & (UINT32_MAX >> (31 - (hi - from))) : bits;
}

/* Queries at..at + n - 1 of a tile. */
struct panel {
    uint32_t at, n;
    uint32_t lo[PANEL], hi[PANEL]; /* what each sees of the split */
    uint32_t block, end_block;
    float max[PANEL], sum[PANEL];   /* of this split */
    float keep[PANEL], take[PANEL]; /* weights of what was there and of this split */
    bool old[PANEL];                /* was anything there? Not before a row's first split */
};

static inline void panel_of(const struct sk_attn_tile *t, const struct span *span, uint32_t at, struct panel *ret)
{
    const uint32_t left = span->end_row * t->n_head - at;

    ret->at = at;
    ret->n = left < PANEL ? left : PANEL;
    for (uint32_t i = 0; i < ret->n; i++)
        row_range(t, span->begin, t->pos + (at + i) / t->n_head, &ret->lo[i], &ret->hi[i]);
    for (uint32_t i = ret->n; i < PANEL; i++) {
        ret->lo[i] = 1;
        ret->hi[i] = 0;
    }
    ret->block = ret->lo[0] / SK_KV_BLOCK;
    ret->end_block = ret->hi[ret->n - 1] / SK_KV_BLOCK + 1;
}

/* Does every query see all of block b? */
static inline bool all_seen(const struct panel *p, uint32_t b)
{
    return p->lo[p->n - 1] <= b * SK_KV_BLOCK && p->hi[0] >= b * SK_KV_BLOCK + SK_KV_BLOCK - 1;
}

#endif
