/* How a model is cut over a grid of ranks: arithmetic, no tensor is looked at. Heads, inner MLP columns and words are
 * each divided as evenly as their units allow, for all ranks of a stage wait for one another after each half of a layer
 * and after the head: the rank with the most of one thing is the time that it takes. Only which rank gets what is left
 * over is free: query heads go to the lower ranks, the rest to whoever has the fewest weights so far. */
#ifndef SK_SHARD_H
#define SK_SHARD_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/desc.h"

struct sk_span {
    uint32_t first, n;
};

struct sk_shard_place {
    uint32_t tp, n_tp; /* rank of its stage, and how many there are */
    uint32_t pp, n_pp; /* stage */
};

/* What tensors say: cuts of query heads and of inner MLP columns fall on multiples of these; where stages are made, the
 * bytes of a layer and of the head. */
struct sk_shard_units {
    uint32_t head, ffn;
    uint64_t layer_bytes, head_bytes;
};
enum { SK_SHARD_VOCAB_UNIT = 16 };

/* What of the model a rank holds. */
struct sk_shard {
    uint32_t rank, size;  /* over which layers, embedding and head are cut */
    bool first, last;     /* the stage has the embedding; the final norm and the head */
    struct sk_span layer; /* of the model */
    struct sk_span head, kv_head;
    uint32_t head_ratio, head_at; /* as in struct sk_op_attention */
    struct sk_span ffn, vocab;
};

/* KV heads: all that the rank's query heads need, so that some are on two ranks or more (9 query and 3 KV heads over 2
 * ranks: 5 + 4 and 2 + 2). Layers: contiguous, so that the stage that costs most costs as little as can be; the head
 * counts as a quarter of its bytes, since a prefill runs it for few of its rows and decoding for all. -SK_EUNSUP: more
 * ranks than units or stages than layers, with the numbers. */
int sk_shard_init(struct sk_shard *s, const struct sk_desc *d, const struct sk_shard_place *place,
                  const struct sk_shard_units *unit, struct sk_err *err);

#endif
