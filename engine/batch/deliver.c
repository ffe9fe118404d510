/* Result rows -> tokens of sequences, blocks of the prefix tree, entries of the TOKENS frame. */
#include "engine/batch/loop.h"

static struct sk_wire_entry entry_of(const struct sk_seq *q)
{
    return (struct sk_wire_entry){.job = q->job->id,
                                  .choice = q->choice,
                                  .n_cached = q->n_cached,
                                  .n_preempt = q->n_preempt,
                                  .cpu_us = q->cpu_us,
                                  .blk_us = q->blk_us};
}

static void put_item(struct sk_buf *out, const struct sk_result_row *row, uint16_t flags)
{
    struct sk_wire_item it = {
        .id = row->id, .logprob = row->logprob, .rank = row->rank, .n_top = (uint16_t)row->n_top, .flags = flags};
    struct sk_wire_top top[SK_MAX_TOP];
    for (uint32_t i = 0; i < row->n_top; i++)
        top[i] = (struct sk_wire_top){.id = row->top[i].id, .logprob = row->top[i].logprob};
    sk_wire_tokens_item(out, &it, top);
}

static bool is_in(const int32_t *ids, uint32_t n, int32_t id)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* What the drawn token does: ends the sequence without being part of it, or joins it and perhaps ends it by its length.
 */
static enum sk_finish take_token(const struct sk_loop *l, struct sk_seq *q, int32_t id)
{
    if (sk_seq_n_gen(q) >= q->params.min_tokens) {
        if (!(q->params.flags & SK_PARAMS_IGNORE_EOS) && is_in(l->conf.eos, l->conf.n_eos, id))
            return SK_FINISH_EOS;
        if (is_in(q->list, q->params.n_stop_ids, id))
            return SK_FINISH_STOP_ID;
    }
    q->tok[q->n_tok++] = id;
    if (l->sched.n_stage == 1)
        q->n_tok_sent = q->n_tok; /* the ranks drew it; of several stages the last one did, and the first needs it */
    return sk_seq_n_gen(q) == q->max_gen ? SK_FINISH_LENGTH : SK_FINISH_NONE;
}

/* Takes what the rows of a run drew, from the first on: each counts while the draft before it is the token that was
 * drawn there. *ret_n rows counted, one that ended the sequence among them. */
static enum sk_finish take_tokens(const struct sk_loop *l, const struct sk_sched_run *r,
                                  const struct sk_result_row *rows, uint32_t *ret_n)
{
    struct sk_seq *q = r->seq;
    enum sk_finish finish;
    uint32_t n = 0;
    bool right;
    do {
        finish = take_token(l, q, rows[n].id);
        right = n < r->n_draft && rows[n].id == q->draft[n];
        n++;
    } while (right && finish == SK_FINISH_NONE);
    *ret_n = n;
    return finish;
}

static void count_drafts(struct sk_loop *l, const struct sk_sched_run *r, uint32_t n_right)
{
    if (r->n_draft == 0)
        return;
    sk_draft_learn(&r->seq->draft_pace, r->n_draft, n_right);
    l->stats.draft_tok += r->n_draft;
    l->stats.accept_tok += n_right;
}

/* Blocks that became full are final: they may be shared from now on. Then those behind a window are given up. */
static void settle_blocks(struct sk_loop *l, struct sk_seq *q)
{
    const struct sk_kvpool_conf *c = &l->conf.kv;
    struct sk_kv_text text = sk_seq_text(q);
    while ((q->n_entered + 1) * c->block_tok <= q->n_computed) {
        int32_t blk[SK_MAX_GROUPS];
        for (uint32_t g = 0; g < c->n_group; g++)
            blk[g] = q->n_entered >= q->first[g] ? q->blk[g][q->n_entered] : SK_KV_NONE;
        if (sk_kvpool_enter(l->pool, q->node, &text, q->n_entered, blk, &q->node))
            break; /* no node is free: it is tried again with the next block */
        q->n_entered++;
    }
    for (uint32_t g = 0; g < c->n_group; g++)
        for (uint32_t first = sk_kvpool_first(c, g, q->n_computed); q->first[g] < first; q->first[g]++)
            sk_kvpool_put(l->pool, g, q->blk[g][q->first[g]]);
}

/* Its rows come too late; it ends when it has nothing more under way. */
static void drop_cancelled(struct sk_loop *l, struct sk_seq *q)
{
    if (q->n_plan > 0)
        return;
    sk_apply_leave(l, q);
    sk_seq_end(l->seqs, q, SK_FINISH_CANCEL, 0);
}

/* One run's rows: prompt log-probs, then the drawn tokens. */
static void deliver_run(struct sk_loop *l, const struct sk_sched_run *r, const struct sk_result_row *rows,
                        struct sk_buf *out, uint32_t *n_entry)
{
    struct sk_seq *q = r->seq;
    bool sample = r->want & SK_RUN_SAMPLE;
    uint32_t n_score = r->n_result - (sample ? 1 + r->n_draft : 0), n_drawn = 0;

    q->n_plan--;
    if (q->cancelled) {
        drop_cancelled(l, q);
        return;
    }
    sk_seq_count_held(q, l->now_us);
    q->urgent = q->urgent && !sample;
    q->n_computed = r->pos + r->n;
    if (r->want & SK_RUN_PROMPT_LOGPROBS)
        q->n_scored = q->n_computed;
    if (r->pos < q->n_prompt)
        l->stats.prompt_tok += r->n;

    struct sk_wire_entry e = entry_of(q);
    enum sk_finish finish = SK_FINISH_NONE;
    if (sample)
        finish = take_tokens(l, r, rows + n_score, &n_drawn);
    else if (q->max_gen == 0 && q->n_computed == q->n_prompt)
        finish = SK_FINISH_LENGTH;
    bool ends = finish == SK_FINISH_EOS || finish == SK_FINISH_STOP_ID; /* the token is not of the answer */
    e.finish = finish;
    e.reason = ends ? rows[n_score + n_drawn - 1].id : 0;
    e.n_item = n_score + n_drawn - ends;
    l->stats.decode_tok += n_drawn - ends;
    if (sample) {
        q->probation -= q->probation < n_drawn ? q->probation : n_drawn;
        q->n_computed -= r->n_draft + 1 - n_drawn; /* what was computed of wrong drafts is written over */
        count_drafts(l, r, n_drawn - 1);
        q->n_planned = q->n_computed;
    }

    if (e.n_item > 0 || finish != SK_FINISH_NONE) {
        sk_wire_tokens_entry(out, &e);
        for (uint32_t i = 0; i < e.n_item; i++)
            put_item(out, &rows[i], i < n_score ? SK_ITEM_PROMPT : 0);
        ++*n_entry;
    }
    settle_blocks(l, q);
    if (sample && n_drawn <= r->n_draft && finish == SK_FINISH_NONE)
        sk_apply_trim(l, q);
    if (finish != SK_FINISH_NONE) {
        sk_apply_leave(l, q);
        sk_seq_end(l->seqs, q, finish, e.reason);
        sk_seq_free(l->seqs, q);
    }
}

bool sk_deliver_may(const struct sk_loop *l, const struct sk_crew_result *res)
{
    const struct sk_loop_sent *sent = &l->sent[l->first_sent];
    if (res->step != sent->step || res->n != sent->n_result)
        return false;
    for (uint32_t i = 0; i < res->n; i++) {
        const struct sk_result_row *row = &res->rows[i];
        if (row->id < 0 || (uint32_t)row->id >= l->conf.n_vocab || row->n_top > SK_MAX_TOP)
            return false;
    }
    return true;
}

void sk_deliver_rows(struct sk_loop *l, const struct sk_crew_result *res, struct sk_buf *out, uint32_t *n_entry)
{
    const struct sk_loop_sent *sent = &l->sent[l->first_sent];
    const struct sk_result_row *rows = res->rows;
    l->first_sent = (l->first_sent + 1) % l->depth;
    l->seqs->n_plan--;
    for (uint32_t i = 0; i < sent->n_run; i++) {
        const struct sk_sched_run *r = &sent->run[i];
        r->seq->cpu_us += l->step_cpu_us * r->n / sent->n_row;
        deliver_run(l, r, rows, out, n_entry);
        rows += r->n_result;
    }
}

void sk_deliver_ended(struct sk_loop *l, struct sk_buf *out, uint32_t *n_entry)
{
    for (uint32_t n = 0; n < SK_LOOP_MAX_ENDED && l->seqs->ended.first; n++) {
        struct sk_seq *q = l->seqs->ended.first;
        struct sk_wire_entry e = entry_of(q);
        e.finish = q->finish;
        e.reason = q->reason;
        sk_wire_tokens_entry(out, &e);
        ++*n_entry;
        sk_seq_free(l->seqs, q);
    }
}
