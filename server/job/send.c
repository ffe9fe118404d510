/* Out: what waits goes on board while there are places. A place is one of a replica's max_seqs sequences; a cancelled
 * one has lost it, but holds its credit until the replica has said that it ended. What a replica lets wait itself
 * (preempted, short of blocks) holds back everything that would go there, so that the order is ours. */
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/conf.h"
#include "comm/base/mem.h"
#include "server/job/engine.h"

enum { MAX_SENDING_BYTES = SK_FRAME_MAX / 2 };

/* --- sendings --- */

uint64_t sk_send_id(const struct sk_engine *e, uint32_t sending)
{
    return (uint64_t)e->sendings[sending].generation << 32 | sending;
}

struct sending *sk_send_find(const struct sk_engine *e, uint64_t id)
{
    uint32_t i = (uint32_t)id;
    if (i >= e->n_sending || e->sendings[i].n_seq == 0 || sk_send_id(e, i) != id)
        return NULL;
    return &e->sendings[i];
}

static int new_sending(struct sk_engine *e, uint32_t *ret)
{
    for (uint32_t k = 0; k < e->n_sending; k++) {
        uint32_t i = (e->sending_hint + k) % e->n_sending;
        if (e->sendings[i].n_seq == 0) {
            e->sending_hint = i + 1;
            e->sendings[i].generation++;
            *ret = i;
            return 0;
        }
    }
    uint32_t n = e->n_sending ? 2 * e->n_sending : 64; /* bounded by the replicas' credit */
    struct sending *p = sk_realloc(e->sendings, n * sizeof *p);
    if (!p)
        return -SK_ENOMEM;
    memset(p + e->n_sending, 0, (n - e->n_sending) * sizeof *p);
    *ret = e->n_sending;
    p[*ret].generation = 1;
    e->sendings = p;
    e->n_sending = n;
    return 0;
}

static void detach(struct sending *s)
{
    if (s->job)
        s->job->n_sending--;
    s->job = NULL;
}

struct replica *sk_send_replica(const struct choice *c)
{
    return c->job->engine->sendings[c->sending].replica;
}

void sk_send_finished(struct sending *s)
{
    s->replica->n_sent--;
    if (--s->n_seq == 0)
        detach(s);
}

/* Each choice knows the last sending it went with; only one that has made room may be in others before that. */
void sk_send_forget(struct sk_engine *e, const struct sk_job *j)
{
    for (uint32_t i = 0; i < j->n_choice && j->n_sending > 0; i++) {
        const struct choice *c = &j->choice[i];
        if (c->was_sent && e->sendings[c->sending].job == j)
            detach(&e->sendings[c->sending]);
    }
    for (uint32_t i = 0; i < e->n_sending && j->n_sending > 0; i++) {
        if (e->sendings[i].job == j)
            detach(&e->sendings[i]);
    }
}

void sk_send_forget_replica(struct replica *r)
{
    struct sk_engine *e = r->engine;
    for (uint32_t i = 0; i < e->n_sending; i++) {
        if (e->sendings[i].replica != r)
            continue;
        e->sendings[i].n_seq = 0;
        detach(&e->sendings[i]);
    }
    r->n_sent = r->n_held = 0;
}

/* --- frames --- */

void sk_send_cancel(const struct choice *c)
{
    struct sk_link *link = sk_replica_link(sk_send_replica(c));
    if (link)
        sk_wire_put_cancel(sk_link_out(link), sk_send_id(c->job->engine, c->sending), c->index);
}

static void put_seq(const struct choice *c, uint64_t id, bool urgent, struct sk_buf *out)
{
    const struct sk_job *j = c->job;
    struct sk_wire_seq seq = {
        .job = id, .choice = c->index, .n_list = j->n_list, .n_done = c->n_tok, .params = j->params};
    seq.flags = (c->fair.suspect ? SK_SEQ_SUSPECT : 0) | (urgent ? SK_SEQ_URGENT : 0);
    if (c->n_tok)
        seq.params.n_prompt_logprobs = -1; /* delivered already */
    sk_wire_put_seq(out, &seq, j->list, c->tok);
}

static size_t seq_bytes(const struct choice *c)
{
    return sizeof(struct sk_wire_seq) + 4 * ((size_t)c->job->n_list + c->n_tok) + 16;
}

static void note_sent(struct sk_job *j)
{
    if (j->sent_us)
        return;
    j->sent_us = sk_clock_us();
    sk_metric_observe(j->engine->conf.metrics, SK_METRIC_QUEUE_TIME, (double)(j->sent_us - j->submit_us) / 1e6);
}

/* The choice goes to that replica, and with it those of its job that are next in turn: they share the prompt's frame,
 * and its tokens in the prefix cache, so that the first alone may be urgent. */
static int send_with_siblings(struct replica *r, struct choice *c)
{
    struct sk_job *j = c->job;
    struct sk_engine *e = r->engine;
    struct sk_buf *out = sk_link_out(sk_replica_link(r));
    const struct choice *urgent =
        !c->fair.suspect && sk_fair_is_urgent(&e->fair, c->fair.share, e->hello.max_seqs) ? c : NULL;
    uint32_t s = 0, n = 0;
    size_t bytes = 0;
    int rc = new_sending(e, &s);
    if (rc != 0)
        return rc;
    e->sendings[s].replica = r;
    do {
        bytes += seq_bytes(c);
        sk_metric_add(e->conf.metrics, SK_METRIC_READMISSIONS, c->fair.lost, NULL, NULL);
        sk_choice_sent(c, s);
        r->n_sent++;
        if (n++ == 0)
            sk_route_note(r, j);
        if (c->fair.suspect || !sk_replica_has_place(r))
            break;
        c = (struct choice *)sk_fair_next(&e->fair, e->hello.max_seqs);
    } while (c && c->job == j && !c->fair.suspect && bytes + seq_bytes(c) <= MAX_SENDING_BYTES);
    e->sendings[s].job = j;
    e->sendings[s].n_seq = n;
    j->n_sending++;
    note_sent(j);
    uint64_t id = sk_send_id(e, s);
    sk_wire_put_prompt(out, id, n, j->prompt, j->n_prompt);
    for (uint32_t i = 0; i < j->n_choice; i++) {
        if (j->choice[i].state == CHOICE_SENT && j->choice[i].sending == s)
            put_seq(&j->choice[i], id, &j->choice[i] == urgent, out);
    }
    return 0;
}

/* --- making room --- */

static void put_back(struct sk_engine *e, struct sk_fair_seq *q)
{
    struct choice *c = (struct choice *)q;
    struct replica *r = sk_send_replica(c);
    if (q->n_here == 0 && r->n_held > 0)
        r->n_held--; /* the youngest without a token: if any wait there, it does */
    sk_send_cancel(c);
    sk_choice_wait_again(c, false);
    sk_metric_add(e->conf.metrics, SK_METRIC_YIELDS, 1, NULL, NULL);
}

/* For a hungry tenant prompts of others that have no token yet go behind its own (the prefix cache keeps what is
 * computed of them; without one, a step's worth may be half done and stays), and a place is taken from one that has
 * more than its share. While an engine lets sequences wait for blocks, the place frees some: one at a time, until it
 * has said what that did. */
static void make_room(struct sk_engine *e, const struct sk_fair_seq *next)
{
    uint64_t keep_tok = e->conf.conf->prefix_cache ? 0 : (uint64_t)e->conf.conf->max_step_tokens;
    uint32_t n_sent = sk_engine_n_sent(e);
    struct sk_fair_seq *q;
    if (next->suspect || n_sent >= e->hello.credit || !sk_fair_is_hungry(&e->fair, next->share, e->hello.max_seqs))
        return;
    while ((q = sk_fair_early(&e->fair, next, keep_tok, sk_engine_n_held(e))))
        put_back(e, q);
    bool full = e->fair.n_board >= e->hello.max_seqs, held = sk_engine_n_held(e) > 0 && n_sent == e->fair.n_board;
    if ((full || held) && !sk_route_find(e, (const struct choice *)next) &&
        (q = sk_fair_victim(&e->fair, next, e->hello.max_seqs)))
        put_back(e, q);
}

static bool can_send(const struct sk_engine *e)
{
    bool any = false;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        const struct replica *r = &e->replicas[i];
        any |= sk_replica_link(r) && !r->is_drained && sk_link_pending(sk_replica_link(r)) < ENGINE_MAX_PENDING_BYTES;
    }
    return any;
}

static void flush_all(struct sk_engine *e)
{
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct sk_link *link = sk_replica_link(&e->replicas[i]);
        if (link)
            sk_link_flush(link);
    }
}

void sk_send_pump(struct sk_engine *e)
{
    struct sk_fair_seq *next;
    struct replica *r;
    if (!e->in_callbacks) {
        while (can_send(e) && (next = sk_fair_next(&e->fair, e->hello.max_seqs))) {
            make_room(e, next);
            r = sk_route_find(e, (const struct choice *)next);
            if (!r || send_with_siblings(r, (struct choice *)next) != 0)
                break;
        }
        flush_all(e);
    }
    sk_engine_publish(e);
}
