/* The KV cache of the x86 backend and the kernels of attention over it. All pointers are host memory.
 *
 * A block holds, per KV head, keys, then values of SK_KV_BLOCK tokens, in the order in which vectors of neighbours are
 * wanted (n is head_stride):
 *   f32   keys [n][32], values [32][n]
 *   bf16  keys [n/2][32][2], values [16][n][2]: pairs along what is summed over, as VDPBF16PS and AMX B tiles want them
 *   q8    int8 keys and values, ordered as bf16; then scales, f32, of keys [ceil(n/32)][32], of values likewise */
#ifndef SK_ATTN_H
#define SK_ATTN_H
#include "kernels/kernels.h"

/* The query heads of n_row consecutive positions of one slot that read one KV head; n_row * n_head <= SK_ATTN_TILE. */
enum { SK_ATTN_TILE = 48, SK_ATTN_MAX_HEAD_DIM = 512 };
struct sk_attn_tile {
    const float *q;                      /* [n_row][n_head][head_stride], normed and turned */
    uint32_t n_row, n_head, pos, window; /* pos: of the first row; window 0: none */
    float scale;
    const struct sk_kv_layer *kv;
    const int32_t *table; /* block numbers of the slot */
    uint32_t kv_head;
};
/* Unnormalised softmax of a tile over one split or several, merged: query i = row * n_head + head has
 * out[i] = sum of 2^(s - max[i]) V, sum[i] = sum of 2^(s - max[i]), s = scale * log2(e) * q . K. sum is 0 where the row
 * sees no position: then max and out hold nothing. */
struct sk_attn_part {
    float *max, *sum; /* [n] */
    float *out;       /* [n][head_stride] */
};
enum { SK_ATTN_SCRATCH_BYTES = 1536 << 10 };

/* How the rows of one class read a cache of one dtype; every file that has such a kernel says what is rounded where. A
 * row's result does not depend on the tile that it is in. Splits merge to the same bits whether one call runs them all
 * or each has a call and `attn_merge` joins them. */
typedef void (*sk_attn_fn)(const struct sk_attn_tile *t, uint32_t split, uint32_t n_split, struct sk_attn_part *into,
                           void *scratch);

static inline uint32_t sk_attn_scales(uint32_t head_stride) /* of a head's key or value */
{
    return (head_stride + SK_QBLOCK - 1) / SK_QBLOCK;
}
/* Bytes of a block's keys, and of its values, of one KV head; without the scales of q8. */
static inline size_t sk_attn_side_bytes(enum sk_dtype dtype, uint32_t head_stride)
{
    return (size_t)SK_KV_BLOCK * head_stride * (dtype == SK_F32 ? 4 : dtype == SK_BF16 ? 2 : 1);
}
static inline size_t sk_attn_head_bytes(enum sk_dtype dtype, uint32_t head_stride)
{
    const size_t scales = dtype == SK_Q8 ? sk_attn_scales(head_stride) * SK_KV_BLOCK * sizeof(float) : 0;
    return 2 * (sk_attn_side_bytes(dtype, head_stride) + scales);
}
/* The keys of a KV head in block `blk`. */
static inline char *sk_attn_block(const struct sk_kv_layer *kv, int32_t blk, uint32_t kv_head)
{
    char *base = (char *)(uintptr_t)kv->data.a; // NOLINT(performance-no-int-to-ptr): the handle is the address
    return base + (uint64_t)blk * kv->block_bytes + kv_head * sk_attn_head_bytes(kv->dtype, kv->head_stride);
}

#endif
