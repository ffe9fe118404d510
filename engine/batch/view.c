/* What the engine holds, for people: an answer to PEEK. Reads everything and changes nothing, the order in which cached
 * blocks are evicted included. */
#include "engine/batch/loop.h"

static struct sk_wire_view_seq view_of(const struct sk_seq *q)
{
    return (struct sk_wire_view_seq){.job = q->job->id,
                                     .choice = q->choice,
                                     .state = q->state == SK_SEQ_RUN ? SK_VIEW_RUNNING : SK_VIEW_WAITING,
                                     .n_prompt = q->n_prompt,
                                     .n_tok = q->n_tok,
                                     .n_computed = q->n_computed,
                                     .n_cached = q->n_cached,
                                     .n_blk = sk_seq_n_held(q),
                                     .n_preempt = q->n_preempt};
}

/* As admission would find it: the last token is always computed. */
static uint32_t cached_tokens(const struct sk_loop *l, const struct sk_wire_peek *p)
{
    const struct sk_kv_text text = {.salt = p->salt, .tok = sk_wire_peek_tok(p), .n_prompt = p->n_tok};
    uint32_t bt = l->conf.kv.block_tok, max_blk = p->n_tok > 0 ? (p->n_tok - 1) / bt : 0;
    return sk_kvpool_find(l->pool, &text, max_blk).n_blk * bt;
}

void sk_view_put(struct sk_loop *l, const struct sk_wire_peek *p, struct sk_buf *out)
{
    const struct sk_seq_list *const lists[] = {&l->seqs->run, &l->seqs->wait};
    struct sk_wire_view v = {.number = p->number, .n_cached = cached_tokens(l, p)};
    for (int i = 0; i < 2; i++)
        for (const struct sk_seq *q = lists[i]->first; q; q = q->next)
            l->view[v.n_seq++] = view_of(q);
    sk_loop_stats(l, &v.stats);
    sk_wire_put_view(out, &v, l->view);
}
