/* The transformer, straight down: comm/dir/desc.h in code. Enqueues ops, reads nothing back. */
#ifndef SK_DECODER_H
#define SK_DECODER_H
#include <stdatomic.h>
#include "engine/model/kv.h"
#include "engine/model/model.h"
#include "engine/model/scratch.h"

struct sk_timeline;

struct sk_decoder_watch {       /* what a run tells others, each NULL where nobody looks */
    _Atomic uint64_t *progress; /* counted up with every half of a layer */
    struct sk_timeline *timeline;
};

/* Rows through the layers of this rank's stage: the first one looks up what goes in, the others find it in s->x. Leaves
 * the residual stream in s->x and keys and values in the cache. 0 or -SK_EIO (a rank was lost). */
int sk_decoder_run(const struct sk_model *m, const struct sk_kv *kv, const struct sk_scratch *s,
                   const struct sk_rows *rows, const struct sk_decoder_watch *watch);

/* The last stage's: final norm and head of n_row <= SK_HEAD_SLICE rows of s->x, picked by `index` (int32 [n_row]), the
 * first n_prompt_row of prompt class: logits of shard.vocab in s->logits. */
void sk_decoder_head(const struct sk_model *m, const struct sk_scratch *s, struct sk_dev index, uint32_t n_row,
                     uint32_t n_prompt_row);

#endif
