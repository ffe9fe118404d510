/* Questions to the replicas, answered between their steps. A survey asks them all; their views come as one. */
#include "comm/base/mem.h"
#include "server/job/engine.h"

struct survey {
    uint32_t n_open, n_view;
    struct sk_wire_view sum;
    struct sk_buf seqs;
    void (*done)(void *arg, const struct sk_wire_view *v); /* NULL = nobody wants to know any more */
    void *arg;
};

enum { MAX_VIEW_BYTES = SK_FRAME_MAX / 2 };

static struct peek *find(struct sk_engine *e, uint64_t number)
{
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        if (e->peeks[i].number == number)
            return &e->peeks[i];
    }
    return NULL;
}

/* --- a survey --- */

static void add(struct survey *s, const struct sk_wire_view *v)
{
    struct sk_wire_stats *to = &s->sum.stats;
    s->n_view++;
    s->sum.n_seq += v->n_seq;
    sk_buf_add(&s->seqs, sk_wire_view_seqs(v), v->n_seq * sizeof *sk_wire_view_seqs(v));
    to->running += v->stats.running;
    to->waiting += v->stats.waiting;
    to->blk_total += v->stats.blk_total;
    to->blk_free += v->stats.blk_free;
    to->blk_cached += v->stats.blk_cached;
}

static void finish(struct survey *s)
{
    struct sk_buf b;
    sk_buf_init(&b, SK_FRAME_MAX);
    bool ok = s->n_view > 0 && !s->seqs.failed &&
              sk_wire_put_view(&b, &s->sum, (const struct sk_wire_view_seq *)(const void *)s->seqs.p) == 0;
    if (s->done)
        s->done(s->arg, ok ? (const struct sk_wire_view *)(const void *)b.p : NULL);
    sk_buf_done(&b);
    sk_buf_done(&s->seqs);
    sk_free(s);
}

static void answer_part(struct survey *s, const struct sk_wire_view *v)
{
    if (v)
        add(s, v);
    if (--s->n_open == 0)
        finish(s);
}

/* --- a question --- */

static void answer(struct peek *p, const struct sk_wire_view *v)
{
    struct peek was = *p;
    *p = (struct peek){0}; /* first: `done` may peek again */
    if (was.survey)
        answer_part(was.survey, v);
    else
        was.done(was.arg, v);
}

/* `what`: whose it is. */
static int ask(struct replica *r, const int32_t *tok, uint32_t n_tok, uint64_t salt, const struct peek *what)
{
    struct sk_engine *e = r->engine;
    struct sk_link *link = sk_replica_link(r);
    struct peek *p = find(e, 0);
    if (!p || sk_link_pending(link) > ENGINE_MAX_PENDING_BYTES)
        return -SK_EBUSY;
    int rc = sk_wire_put_peek(sk_link_out(link), e->peek_number + 1, salt, tok, n_tok);
    if (rc != 0)
        return rc;
    *p = *what;
    p->number = ++e->peek_number;
    p->replica = r;
    sk_link_flush(link);
    return 0;
}

/* Those that cannot be asked have no part in it. It holds a part itself until all were asked, since a flush that fails
 * answers at once. */
static int survey(struct sk_engine *e, void (*done)(void *arg, const struct sk_wire_view *v), void *arg)
{
    struct survey *s = sk_calloc(1, sizeof *s);
    uint32_t n_asked = 0;
    int rc = -SK_EUNAVAIL;
    if (!s)
        return -SK_ENOMEM;
    *s = (struct survey){.n_open = 1, .done = done, .arg = arg};
    sk_buf_init(&s->seqs, MAX_VIEW_BYTES);
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct replica *r = &e->replicas[i];
        if (!sk_replica_link(r))
            continue;
        s->n_open++;
        rc = ask(r, NULL, 0, 0, &(struct peek){.survey = s});
        s->n_open -= rc != 0;
        n_asked += rc == 0;
    }
    if (n_asked == 0)
        s->done = NULL;
    answer_part(s, NULL);
    return n_asked > 0 ? 0 : rc;
}

int sk_engine_peek(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt,
                   void (*done)(void *arg, const struct sk_wire_view *v), void *arg)
{
    if (n_tok == 0 && e->n_replica > 1)
        return survey(e, done, arg);
    struct replica *r = sk_route_find_for(e, tok, n_tok, salt);
    return r ? ask(r, tok, n_tok, salt, &(struct peek){.done = done, .arg = arg}) : -SK_EUNAVAIL;
}

void sk_engine_unpeek(struct sk_engine *e, void *arg)
{
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        struct peek *p = &e->peeks[i];
        if (p->number && p->survey && p->survey->arg == arg)
            p->survey->done = NULL;
        else if (p->number && !p->survey && p->arg == arg)
            *p = (struct peek){0};
    }
}

void sk_peek_take(struct sk_engine *e, const struct sk_wire_view *v)
{
    struct peek *p = v->number ? find(e, v->number) : NULL;
    if (p)
        answer(p, v);
}

void sk_peek_lost(const struct replica *r)
{
    struct sk_engine *e = r->engine;
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        if (e->peeks[i].number && e->peeks[i].replica == r)
            answer(&e->peeks[i], NULL);
    }
}
