#include "engine/model/scratch.h"

/* Addresses from `at` on; returns the end. */
static uint64_t take(struct sk_dev *ret, uint64_t at, uint64_t n_row, uint32_t ld)
{
    ret->a = at;
    return (at + n_row * ld * sizeof(float) + 63) & ~(uint64_t)63;
}

static uint64_t max3(uint64_t a, uint64_t b, uint64_t c)
{
    uint64_t m = a > b ? a : b;
    return m > c ? m : c;
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
    sc->ld_logits = (uint32_t)SK_ALIGN16(d->n_vocab);

    uint64_t at = take(&sc->x, base, max_row, sc->ld_x);
    at = take(&sc->partial, at, s->size > 1 ? max_row : 0, sc->ld_x);
    at = take(&sc->head_x, at, SK_HEAD_SLICE, sc->ld_x);

    uint64_t attn_end = take(&sc->attn, take(&sc->qkv, at, max_row, sc->ld_qkv), max_row, sc->ld_attn);
    uint64_t mlp_end = take(&sc->up, at, max_row, sc->ld_up);
    uint64_t head_end =
        take(&sc->work, take(&sc->logits, at, SK_HEAD_SLICE, sc->ld_logits), SK_HEAD_SLICE, sc->ld_logits);
    return max3(attn_end, mlp_end, head_end);
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
