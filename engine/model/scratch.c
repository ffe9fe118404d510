#include "engine/model/scratch.h"

/* Addresses from `at` on; returns the end. */
static uint64_t take(struct sk_dev *ret, uint64_t at, uint64_t n_row, uint32_t ld)
{
    ret->a = at;
    return (at + n_row * ld * sizeof(float) + 63) & ~(uint64_t)63;
}

static uint64_t max2(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* x and its slice are shared with nothing: their padding columns stay the zeros that they were born with. The
 * members of the shared region are written over their whole width before they are read. */
static uint64_t layout(struct sk_scratch *sc, const struct sk_desc *d, const struct sk_shard *s, uint32_t max_row,
                       uint64_t base)
{
    uint32_t hs = sk_desc_head_stride(d);
    sc->ld_x = (uint32_t)SK_ALIGN16(d->n_embd);
    sc->ld_qkv = (s->head.n + 2 * s->kv_head.n) * hs;
    sc->ld_attn = s->head.n * hs;
    sc->ld_up = (d->gated ? 2 : 1) * s->ffn.n;
    sc->ld_logits = (uint32_t)SK_ALIGN16(s->vocab.n);
    uint32_t n_head_row = s->last ? SK_HEAD_SLICE : 0, n_wire_row = s->first && s->last ? 0 : max_row;

    uint64_t at = take(&sc->x, base, max_row, sc->ld_x);
    at = take(&sc->partial, at, s->size > 1 ? max_row : 0, sc->ld_x);
    at = take(&sc->head_x, at, n_head_row, sc->ld_x);

    uint64_t attn_end = take(&sc->attn, take(&sc->qkv, at, max_row, sc->ld_qkv), max_row, sc->ld_attn);
    uint64_t mlp_end = take(&sc->up, at, max_row, sc->ld_up);
    uint64_t head_end = take(&sc->work, take(&sc->logits, at, n_head_row, sc->ld_logits), n_head_row, sc->ld_logits);
    uint64_t wire_end = take(&sc->wire, at, n_wire_row, sc->ld_x / 2);
    return max2(max2(attn_end, mlp_end), max2(head_end, wire_end));
}

uint64_t sk_scratch_bytes(const struct sk_desc *d, const struct sk_shard *s, uint32_t max_row)
{
    struct sk_scratch sc;
    return layout(&sc, d, s, max_row, 0);
}

int sk_scratch_open(struct sk_scratch *sc, const struct sk_desc *d, const struct sk_shard *s, uint32_t max_row,
                    struct sk_backend *be)
{
    *sc = (struct sk_scratch){.be = be, .bytes = sk_scratch_bytes(d, s, max_row)};
    sc->mem = be->alloc(be, sc->bytes);
    if (!sc->mem.a)
        return -SK_ENOMEM;
    layout(sc, d, s, max_row, sc->mem.a);
    return 0;
}

void sk_scratch_close(struct sk_scratch *sc)
{
    if (sc->mem.a)
        sc->be->free(sc->be, sc->mem, sc->bytes);
    *sc = (struct sk_scratch){0};
}
