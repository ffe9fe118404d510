/* In: one TOKENS frame. What it says goes into the journal first, then to the owner. */
#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "server/job/engine.h"

static int journal_add(struct choice *c, int32_t id)
{
    if (c->n_tok == c->cap) {
        uint32_t cap = c->cap ? 2 * c->cap : 32;
        int32_t *p = sk_realloc(c->tok, cap * sizeof *p);
        if (!p)
            return -SK_ENOMEM;
        c->tok = p;
        c->cap = cap;
    }
    c->tok[c->n_tok++] = id;
    c->job->engine->journal_tok++;
    return 0;
}

static int journal_entry(struct choice *c, const struct sk_wire_entry *entry)
{
    const struct sk_wire_item *it = entry->n_item ? sk_wire_item_first(entry) : NULL;
    int rc = 0;
    for (uint32_t i = 0; i < entry->n_item && rc == 0; i++, it = i < entry->n_item ? sk_wire_item_next(it) : NULL) {
        if (it->flags & SK_ITEM_PROMPT)
            c->n_prompt_items++;
        else
            rc = journal_add(c, it->id);
    }
    return rc;
}

/* After a restart the engine makes prompt log-probs again from the first; those delivered before are taken out. Returns
 * the entry without them (in e->scratch), or NULL when out of memory. */
static const struct sk_wire_entry *without_delivered(struct choice *c, const struct sk_wire_entry *entry)
{
    struct sk_buf *b = &c->job->engine->scratch;
    struct sk_wire_entry head = *entry;
    const struct sk_wire_item *it = sk_wire_item_first(entry);
    uint32_t n_drop = 0;
    size_t at;
    for (const struct sk_wire_item *k = it; n_drop < entry->n_item && n_drop < c->skip && (k->flags & SK_ITEM_PROMPT);
         k = sk_wire_item_next(k))
        n_drop++;
    c->skip -= n_drop;
    head.n_item -= n_drop;
    sk_buf_clear(b);
    sk_wire_tokens_begin(b, &at, 0);
    sk_wire_tokens_entry(b, &head);
    for (uint32_t i = 0; i < entry->n_item; i++) {
        if (i >= n_drop)
            sk_wire_tokens_item(b, it, sk_wire_item_top(it));
        if (i + 1 < entry->n_item)
            it = sk_wire_item_next(it);
    }
    return sk_wire_tokens_end(b, at, 1, 0) == 0 ? sk_wire_first((const struct sk_wire_tokens *)(const void *)b->p)
                                                : NULL;
}

static void note_tokens(struct choice *c, const struct sk_wire_entry *entry, uint32_t n_new, uint64_t now)
{
    struct sk_job *j = c->job;
    struct sk_fair *f = &j->engine->fair;
    c->now = (struct cost){.cpu_us = entry->cpu_us, .blk_us = entry->blk_us, .n_preempt = entry->n_preempt};
    sk_fair_spend(f, &c->fair, n_new, entry->n_cached);
    if (c->fair.suspect && c->fair.n_here >= SK_SEQ_PROBATION)
        sk_fair_clear(f, &c->fair);
    if (n_new == 0)
        return;
    sk_route_tokens(sk_send_replica(c), c);
    j->last_us = now;
    if (j->first_us)
        return;
    j->first_us = now;
    sk_metric_observe(j->engine->conf.metrics, SK_METRIC_PREFILL_TIME, (double)(now - j->sent_us) / 1e6);
}

static void take_entry(struct choice *c, const struct sk_wire_entry *entry, uint64_t now)
{
    struct sk_job *j = c->job;
    uint32_t n_before = c->n_tok;
    if (c->skip > 0 && entry->n_item > 0)
        entry = without_delivered(c, entry);
    if (!entry || journal_entry(c, entry) != 0) {
        sk_choice_end(c, SK_ENOMEM);
        return;
    }
    note_tokens(c, entry, c->n_tok - n_before, now);
    if (entry->finish != SK_FINISH_NONE)
        sk_choice_over(c);
    else if (entry->n_item == 0)
        return;
    const struct sk_job_event ev = {.choice = entry->choice, .entry = entry};
    j->cb(j->arg, j, &ev); /* may free j, or any other job */
}

/* Of a sequence that was cancelled, made room or ran in an engine before, only the end counts. */
void sk_take_tokens(struct replica *r, const struct sk_wire_tokens *t)
{
    struct sk_engine *e = r->engine;
    uint64_t now = sk_clock_us();
    r->n_held = t->n_waiting;
    for (const struct sk_wire_entry *entry = sk_wire_first(t); entry; entry = sk_wire_next(t, entry)) {
        struct sending *s = sk_send_find(e, entry->job);
        if (s && s->replica != r)
            continue;
        struct sk_job *j = s ? s->job : NULL;
        uint32_t i = entry->choice;
        if (s && entry->finish != SK_FINISH_NONE)
            sk_send_finished(s);
        if (j && i < j->n_choice && j->choice[i].state == CHOICE_SENT && &e->sendings[j->choice[i].sending] == s)
            take_entry(&j->choice[i], entry, now);
    }
}
