/* Decisions -> blocks, slots, and the bytes of the plan. */
#include "engine/batch/loop.h"

/* Last block first: so that of a text whose blocks are evicted, the end goes before its beginning. */
void sk_apply_leave(struct sk_loop *l, struct sk_seq *q)
{
    sk_assert(q->n_plan == 0);
    sk_seq_count_held(q, l->now_us);
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++) {
        for (uint32_t i = q->n_blk; i-- > q->first[g];)
            sk_kvpool_put(l->pool, g, q->blk[g][i]);
        q->blk[g] = NULL;
        q->first[g] = q->drop_sent[g] = 0;
    }
    sk_kvpool_unpin(l->pool, q->node);
    q->node = SK_KV_NONE;
    q->n_blk = q->n_entered = q->n_computed = q->n_planned = q->n_tok_sent = q->n_blk_sent = 0;
    q->rejected = false;
    if (q->opened)
        l->slot_close[l->n_slot_close++] = q->slot;
    else
        l->slot_free[l->n_slot_free++] = q->slot;
    q->opened = false;
}

static void admit(struct sk_loop *l, const struct sk_sched_admit *a)
{
    struct sk_seq *q = a->seq;
    uint32_t bt = l->conf.kv.block_tok, n_group = l->conf.kv.n_group;
    q->slot = l->slot_free[--l->n_slot_free];
    for (uint32_t g = 0; g < n_group; g++) {
        q->blk[g] = l->table + ((size_t)q->slot * n_group + g) * l->max_blk;
        q->first[g] = a->hit.first[g];
    }
    sk_kvpool_share(l->pool, &a->hit, q->blk);
    sk_lookup_begin(&q->lookup, l->lookup + q->slot * sk_lookup_words(l->n_lookup), l->n_lookup,
                    q->n_prompt + q->max_gen);
    q->node = a->hit.node;
    q->n_blk = q->n_entered = a->hit.n_blk;
    q->n_computed = q->n_planned = a->hit.n_blk * bt;
    if (!q->counted && sk_seq_reads_cache(q)) {
        q->n_cached = q->n_computed < q->n_prompt ? q->n_computed : q->n_prompt;
        l->stats.cache_query_tok += q->n_prompt;
        l->stats.cache_hit_tok += q->n_cached;
    }
    q->counted = true;
    q->held_us = l->now_us;
    sk_seq_to(l->seqs, q, SK_SEQ_RUN);
}

/* These blocks were counted before: that there are too few is a mistake of ours. */
void sk_apply_grow(struct sk_loop *l, struct sk_seq *q, uint32_t n_pos)
{
    uint32_t n_blk = sk_kvpool_blocks(&l->conf.kv, n_pos);
    if (n_blk <= q->n_blk)
        return;
    sk_seq_count_held(q, l->now_us);
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++) {
        int rc = sk_kvpool_take(l->pool, g, n_blk - q->n_blk, q->blk[g] + q->n_blk);
        sk_assert(rc == 0);
    }
    q->n_blk = n_blk;
}

void sk_apply_put_open(struct sk_buf *plan, const struct sk_seq *q)
{
    struct sk_plan_open o = {.slot = q->slot,
                             .n_prompt = q->n_prompt,
                             .seq = q->id,
                             .choice = q->choice,
                             .n_list = q->n_list,
                             .params = q->params};
    sk_plan_put_open(plan, &o, q->list);
}

/* Last block first, as in sk_apply_leave. */
void sk_apply_trim(struct sk_loop *l, struct sk_seq *q)
{
    uint32_t n_blk = sk_kvpool_blocks(&l->conf.kv, q->n_tok);
    q->rejected = true;
    if (n_blk >= q->n_blk)
        return;
    sk_seq_count_held(q, l->now_us);
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++)
        for (uint32_t i = q->n_blk; i-- > n_blk;)
            sk_kvpool_put(l->pool, g, q->blk[g][i]);
    q->n_blk = q->n_blk_sent = n_blk;
}

/* What the ranks lack to run positions pos .. pos + n - 1: block numbers, and tokens up to the one after (its log-prob
 * may be asked for), then drafts. */
static void put_needs(struct sk_loop *l, const struct sk_sched_run *r)
{
    struct sk_seq *q = r->seq;
    for (uint32_t g = 0; g < l->conf.kv.n_group && q->n_blk > q->n_blk_sent; g++)
        sk_plan_put_append(&l->plan, q->slot, g, q->blk[g] + q->n_blk_sent, q->n_blk - q->n_blk_sent);
    q->n_blk_sent = q->n_blk;
    uint32_t end = r->pos + r->n < q->n_tok ? r->pos + r->n + 1 : q->n_tok;
    if (end > q->n_tok_sent) {
        sk_plan_put_tok(&l->plan, q->slot, q->n_tok_sent, q->tok + q->n_tok_sent, end - q->n_tok_sent);
        q->n_tok_sent = end;
    }
    if (r->n_draft > 0)
        sk_plan_put_tok(&l->plan, q->slot, q->n_tok, q->draft, r->n_draft);
}

/* What slots give up: drafts that were wrong, and blocks behind a window. */
static void put_less(struct sk_loop *l, struct sk_seq *q)
{
    if (q->rejected)
        sk_plan_put_trim(&l->plan, q->slot, q->n_tok);
    q->rejected = false;
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++)
        if (q->first[g] > q->drop_sent[g]) {
            sk_plan_put_drop(&l->plan, q->slot, g, q->first[g] - q->drop_sent[g]);
            q->drop_sent[g] = q->first[g];
        }
}

int sk_apply_plan(struct sk_loop *l)
{
    const struct sk_sched_out *todo = &l->todo;
    sk_plan_begin(&l->plan, l->step);
    while (l->n_slot_close > 0) {
        uint32_t slot = l->slot_close[--l->n_slot_close];
        sk_plan_put_close(&l->plan, slot);
        l->slot_free[l->n_slot_free++] = slot;
    }
    for (struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        put_less(l, q);

    /* All hits are taken before any block is: what one sequence takes must not evict what another was promised. */
    for (uint32_t i = 0; i < todo->n_admit; i++)
        admit(l, &todo->admit[i]);
    for (uint32_t i = 0; i < todo->n_admit; i++) {
        sk_apply_put_open(&l->plan, todo->admit[i].seq);
        todo->admit[i].seq->opened = true;
    }
    for (uint32_t i = 0; i < todo->n_run; i++)
        sk_apply_grow(l, todo->run[i].seq, todo->run[i].pos + todo->run[i].n);
    sk_draft_extend(l); /* of what is left when everyone has theirs */
    for (uint32_t i = 0; i < todo->n_run; i++)
        put_needs(l, &todo->run[i]);
    /* Who was admitted in a step of another kind: later it would come on top of what another step's plan may hold. */
    for (uint32_t i = 0; i < todo->n_admit; i++) {
        struct sk_seq *q = todo->admit[i].seq;
        if (q->n_tok_sent == 0)
            put_needs(l, &(struct sk_sched_run){.seq = q, .pos = q->n_computed});
    }
    for (uint32_t i = 0; i < todo->n_run; i++) {
        const struct sk_sched_run *r = &todo->run[i];
        sk_plan_put_run(&l->plan, r->seq->slot, r->pos, r->n, r->want, r->n_draft);
        r->seq->n_planned = r->pos + r->n;
    }
    return sk_plan_end(&l->plan, todo->n_row, todo->n_result);
}
