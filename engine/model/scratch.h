/* The memory of one step, taken once and reused layer after layer. What attention, the MLP and the head need at
 * different times shares one region. */
#ifndef SK_SCRATCH_H
#define SK_SCRATCH_H
#include "engine/model/shard.h"
#include "kernels/kernels.h"

enum { SK_HEAD_SLICE = 32 }; /* rows that go through the head at once: bounds the logits, whatever the chunk */

struct sk_scratch {
    struct sk_backend *be;
    struct sk_dev mem;
    uint64_t bytes;
    /* f32 [max_row][ld] */
    struct sk_dev x, partial; /* residual stream; partial sums (groups of more than one) */
    struct sk_dev qkv, attn;
    struct sk_dev up;   /* gate, up */
    struct sk_dev wire; /* bf16 rows to or from another stage, [max_row][ld_x] */
    /* f32 [SK_HEAD_SLICE][ld] */
    struct sk_dev head_x;       /* ld_x */
    struct sk_dev logits, work; /* ld_logits */
    uint32_t ld_x, ld_qkv, ld_attn, ld_up, ld_logits;
};
/* Bytes that a step of max_row rows takes on that rank. */
uint64_t sk_scratch_bytes(const struct sk_desc *d, const struct sk_shard *s, uint32_t max_row);
int sk_scratch_open(struct sk_scratch *sc, const struct sk_desc *d, const struct sk_shard *s, uint32_t max_row,
                    struct sk_backend *be); /* -SK_ENOMEM */
void sk_scratch_close(struct sk_scratch *sc);

#endif
