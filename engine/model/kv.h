/* The paged KV cache of a rank (Kwon et al. 2023, PagedAttention): blocks of 32 tokens, block tables by slot. Layers
 * with the same window form a group with its own block numbers: a block of a group is memory in each of its layers. */
#ifndef SK_MODEL_KV_H
#define SK_MODEL_KV_H
#include "comm/dir/desc.h"
#include "engine/model/shard.h"
#include "kernels/kernels.h"

struct sk_kv_conf {
    uint64_t bytes; /* of all blocks; what does not make a block of each group is left over */
    enum sk_dtype dtype;
    uint32_t max_slot, max_len;
    uint32_t max_row;              /* of one step: a windowed group holds a chunk besides its window */
    uint32_t n_kv_head;            /* of this rank */
    struct sk_span layer;          /* those of this rank's stage */
    uint32_t n_blk[SK_MAX_GROUPS]; /* where not 0: instead of what `bytes` gives */
};

/* How the memory divides: blocks of each group in proportion to what a sequence of max_len needs. A group without a
 * layer in this stage has numbers and tables too, but no memory. */
struct sk_kv_need {
    uint64_t layer_block;          /* bytes of a block in one layer */
    uint64_t block[SK_MAX_GROUPS]; /* bytes of a block in all of the group's layers here */
    uint32_t n_blk[SK_MAX_GROUPS];
    uint32_t seq_blk[SK_MAX_GROUPS]; /* blocks that one sequence of max_len needs */
    uint32_t ld_table;               /* entries of a slot's block table: index = position / 32 */
    uint64_t bytes, table_bytes;     /* taken */
};
/* -SK_EINVAL where a group would have no block at all; the error says how much is needed. */
int sk_kv_plan(const struct sk_desc *d, const struct sk_backend *be, const struct sk_kv_conf *conf,
               struct sk_kv_need *ret, struct sk_err *err);

struct sk_kv {
    struct sk_backend *be;
    struct sk_kv_need need;
    struct sk_dev mem, table_mem;
    struct sk_dev table[SK_MAX_GROUPS]; /* int32 [max_slot][need.ld_table] */
    struct sk_kv_layer *layer;          /* [conf.layer.n]; owned */
};
int sk_kv_open(struct sk_kv *kv, const struct sk_desc *d, struct sk_backend *be, const struct sk_kv_conf *conf,
               struct sk_err *err);
void sk_kv_close(struct sk_kv *kv); /* also after a failed open */

#endif
