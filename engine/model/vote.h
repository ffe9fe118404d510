/* Drawing a token where each rank of a tensor-parallel group has the logits of a span of the vocabulary: instead of
 * gathering logits, the ranks vote in rounds (kernels.h, struct sk_op_vote), and all of them end with the result rows
 * and tokens that one rank with all the logits would have. */
#ifndef SK_MODEL_VOTE_H
#define SK_MODEL_VOTE_H
#include "comm/group/group.h"
#include "kernels/kernels.h"

struct sk_vote {
    struct sk_backend *be;           /* borrowed, as the group is */
    struct sk_group *group;          /* rank order is id order: each span follows on that of the rank before */
    struct sk_dev room, said, heard; /* one piece of `bytes`, from room on */
    uint64_t bytes;
};
/* Bytes of backend memory that open takes: n_rank ranks, n_vocab ids in this one's span (0 is possible). */
uint64_t sk_vote_bytes(const struct sk_backend *be, uint32_t n_rank, uint32_t n_vocab);
/* For ops of up to SK_HEAD_SLICE rows over this span. -SK_ENOMEM. */
int sk_vote_open(struct sk_vote *v, struct sk_backend *be, struct sk_group *group, uint32_t n_vocab);
void sk_vote_close(struct sk_vote *v); /* also after a failed open; all zeros are a closed one */
/* In place of the backend's sample and top_n, after logits_process; op->first and op->n_vocab tell the span. samp: the
 * host's copy of op->samp; by it the host knows how many rounds there are. The same rows on all ranks. 0, or -SK_EIO: a
 * rank was lost. */
int sk_vote_run(struct sk_vote *v, const struct sk_op_logits *op, const struct sk_samp *samp);

#endif
