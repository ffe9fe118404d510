#include "tests/unit/engine/batch/invariants.h"

#include <string.h>

#include "comm/base/mem.h"

static void check_group(const struct sk_kvpool *p, uint32_t g)
{
    const struct sk_kv_group *gr = &p->groups[g];
    uint32_t n = p->conf.n_blk[g], n_held = 0, n_idle = 0;
    uint8_t *seen = sk_calloc(n, 1);
    sk_assert(seen);
    for (uint32_t i = 0; i < gr->n_free; i++) {
        const struct sk_kv_block *b = &gr->blocks[gr->free[i]];
        sk_assert(b->refs == 0 && b->node == SK_KV_NONE && !seen[gr->free[i]]);
        seen[gr->free[i]] = 1;
    }
    int32_t prev = SK_KV_NONE;
    for (int32_t i = gr->idle_first; i != SK_KV_NONE; prev = i, i = gr->blocks[i].next, n_idle++) {
        sk_assert(gr->blocks[i].refs == 0 && gr->blocks[i].node != SK_KV_NONE && gr->blocks[i].prev == prev &&
                  !seen[i]);
        seen[i] = 1;
    }
    sk_assert(prev == gr->idle_last && n_idle == gr->n_idle);
    for (uint32_t i = 0; i < n; i++) {
        int32_t node = gr->blocks[i].node;
        sk_assert(seen[i] == (gr->blocks[i].refs == 0));
        sk_assert(node == SK_KV_NONE || p->nodes[node].blk[g] == (int32_t)i);
        n_held += gr->blocks[i].refs > 0;
    }
    sk_assert(n_held + gr->n_free + gr->n_idle == n);
    sk_free(seen);
}

/* Nodes in the buckets: each names blocks that name it, and counts its children. */
static void check_tree(const struct sk_kvpool *p)
{
    uint32_t n = 0, *child = sk_calloc(p->max_node + 1, sizeof *child);
    sk_assert(child);
    for (uint32_t b = 0; b <= p->bucket_mask; b++)
        for (int32_t i = p->buckets[b]; i != SK_KV_NONE; i = p->nodes[i].next, n++) {
            const struct sk_kv_node *nd = &p->nodes[i];
            bool needed = nd->n_child > 0 || nd->n_pin > 0;
            if (nd->parent != SK_KV_NONE)
                child[nd->parent]++;
            for (uint32_t g = 0; g < p->conf.n_group; g++) {
                needed = needed || nd->blk[g] != SK_KV_NONE;
                sk_assert(nd->blk[g] == SK_KV_NONE || p->groups[g].blocks[nd->blk[g]].node == i);
            }
            sk_assert(needed);
        }
    sk_assert(n == p->n_node);
    for (uint32_t b = 0; b <= p->bucket_mask; b++)
        for (int32_t i = p->buckets[b]; i != SK_KV_NONE; i = p->nodes[i].next)
            sk_assert(p->nodes[i].n_child == child[i]);
    for (int32_t i = p->node_free; i != SK_KV_NONE; i = p->nodes[i].next)
        n++;
    sk_assert(n == p->max_node);
    sk_free(child);
}

void invariants_pool(const struct sk_kvpool *p)
{
    for (uint32_t g = 0; g < p->conf.n_group; g++)
        check_group(p, g);
    check_tree(p);
}

/* References are exactly what the running sequences' tables say; pins, what their tails say. */
static void check_refs(const struct sk_loop *l)
{
    const struct sk_kvpool *p = l->pool;
    for (uint32_t g = 0; g < p->conf.n_group; g++) {
        uint32_t *refs = sk_calloc(p->conf.n_blk[g], sizeof *refs);
        sk_assert(refs);
        for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
            for (uint32_t i = q->first[g]; i < q->n_blk; i++)
                refs[q->blk[g][i]]++;
        for (uint32_t i = 0; i < p->conf.n_blk[g]; i++)
            sk_assert(refs[i] == p->groups[g].blocks[i].refs);
        sk_free(refs);
    }
    uint32_t *pins = sk_calloc(p->max_node + 1, sizeof *pins);
    sk_assert(pins);
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        if (q->node != SK_KV_NONE)
            pins[q->node]++;
    for (uint32_t b = 0; b <= p->bucket_mask; b++)
        for (int32_t i = p->buckets[b]; i != SK_KV_NONE; i = p->nodes[i].next)
            sk_assert(p->nodes[i].n_pin == pins[i]);
    sk_free(pins);
}

static uint32_t check_list(const struct sk_seq_list *list, enum sk_seq_state state, bool sorted)
{
    uint32_t n = 0;
    for (const struct sk_seq *q = list->first; q; q = q->next, n++) {
        sk_assert(q->state == state && (q->prev ? q->prev->next == q : list->first == q));
        sk_assert(!sorted || !q->next || sk_seq_before(q, q->next));
    }
    sk_assert(n == list->n);
    return n;
}

void invariants_check(const struct sk_loop *l)
{
    const struct sk_seqs *s = l->seqs;
    uint32_t n = 0, n_plan = 0;
    invariants_pool(l->pool);
    check_refs(l);
    n += check_list(&s->free, SK_SEQ_FREE, false);
    n += check_list(&s->ended, SK_SEQ_ENDED, false);
    n += check_list(&s->wait, SK_SEQ_WAIT, true);
    n += check_list(&s->run, SK_SEQ_RUN, true);
    for (const struct sk_seq *q = s->run.first; q; q = q->next) {
        uint32_t n_pos = q->n_planned > q->n_tok ? q->n_planned : q->n_tok;
        sk_assert(q->n_computed < q->n_tok && q->n_tok <= q->n_prompt + q->max_gen);
        sk_assert(q->n_computed <= q->n_planned && q->n_planned <= q->n_blk * l->conf.kv.block_tok);
        sk_assert(q->n_blk <= sk_kvpool_blocks(&l->conf.kv, n_pos)); /* wrong drafts' are given back */
        sk_assert(q->n_plan > 0 || (q->n_planned == q->n_computed && !q->cancelled));
        n_plan += q->n_plan;
    }
    for (uint32_t i = 0; i < s->n_plan; i++)
        n_plan -= l->sent[(l->first_sent + i) % l->depth].n_run;
    sk_assert(n_plan == 0 && s->n_plan <= l->depth);
    sk_assert(n == s->max_seq);
    sk_assert(s->run.n + l->n_slot_free + l->n_slot_close == l->conf.max_seqs);
}

void invariants_idle(const struct sk_loop *l)
{
    invariants_check(l);
    sk_assert(l->seqs->run.n == 0 && l->seqs->wait.n == 0 && l->seqs->free.n == l->seqs->max_seq);
    for (uint32_t g = 0; g < l->conf.kv.n_group; g++)
        sk_assert(sk_kvpool_avail(l->pool, g) == l->conf.kv.n_blk[g]);
    uint32_t n_job = 0;
    for (const struct sk_seq_job *j = l->seqs->jobs_free; j; j = j->next)
        n_job++;
    sk_assert(n_job == l->seqs->max_seq);
}
