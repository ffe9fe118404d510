#include "engine/model/vote.h"

#include "engine/model/scratch.h"

struct sizes {
    uint64_t room, said, heard;
};

static uint64_t align64(uint64_t n)
{
    return (n + 63) & ~(uint64_t)63;
}

static struct sizes sizes_of(const struct sk_backend *be, uint32_t n_rank, uint32_t n_vocab)
{
    uint32_t words = 0;
    for (enum sk_vote_round r = 0; r < SK_VOTE_NONE; r++)
        words = sk_vote_words(r) > words ? sk_vote_words(r) : words;
    const uint64_t said = (uint64_t)SK_HEAD_SLICE * words * sizeof(uint32_t);
    return (struct sizes){align64(be->vote_bytes(be, SK_HEAD_SLICE, n_vocab)), align64(said), align64(n_rank * said)};
}

uint64_t sk_vote_bytes(const struct sk_backend *be, uint32_t n_rank, uint32_t n_vocab)
{
    const struct sizes s = sizes_of(be, n_rank, n_vocab);
    return s.room + s.said + s.heard;
}

int sk_vote_open(struct sk_vote *v, struct sk_backend *be, struct sk_group *group, uint32_t n_vocab)
{
    const struct sizes s = sizes_of(be, (uint32_t)group->size, n_vocab);
    *v = (struct sk_vote){.be = be, .group = group, .bytes = s.room + s.said + s.heard};
    v->room = be->alloc(be, v->bytes);
    if (!v->room.a)
        return -SK_ENOMEM;
    v->said = sk_dev_at(v->room, s.room);
    v->heard = sk_dev_at(v->said, s.said);
    return 0;
}

void sk_vote_close(struct sk_vote *v)
{
    if (v->room.a)
        v->be->free(v->be, v->room, v->bytes);
    *v = (struct sk_vote){0};
}

int sk_vote_run(struct sk_vote *v, const struct sk_op_logits *op, const struct sk_samp *samp)
{
    struct sk_op_vote vote = {.logits = op,
                              .rank = (uint32_t)v->group->rank,
                              .n_rank = (uint32_t)v->group->size,
                              .heard_round = SK_VOTE_NONE,
                              .heard = v->heard,
                              .said = v->said,
                              .room = v->room};
    uint32_t rounds = 0;
    for (uint32_t i = 0; i < op->n_row; i++)
        rounds |= sk_vote_rounds(&samp[i]);
    for (vote.said_round = 0; vote.said_round < SK_VOTE_NONE; vote.said_round++) {
        if (!(rounds >> vote.said_round & 1))
            continue;
        v->be->vote(v->be, &vote);
        const size_t n = (size_t)op->n_row * sk_vote_words(vote.said_round);
        int rc = v->group->all_gather(v->group, v->be, v->heard.a, v->said.a, n);
        if (rc)
            return rc;
        vote.heard_round = vote.said_round;
    }
    v->be->vote(v->be, &vote);
    return 0;
}
