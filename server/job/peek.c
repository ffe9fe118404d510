/* Questions to the engine, answered between its steps. */
#include "server/job/engine.h"

static struct peek *find(struct sk_engine *e, uint64_t number)
{
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        if (e->peeks[i].number == number)
            return &e->peeks[i];
    }
    return NULL;
}

static void answer(struct peek *p, const struct sk_wire_view *v)
{
    struct peek was = *p;
    *p = (struct peek){0}; /* first: `done` may peek again */
    was.done(was.arg, v);
}

int sk_engine_peek(struct sk_engine *e, const int32_t *tok, uint32_t n_tok, uint64_t salt,
                   void (*done)(void *arg, const struct sk_wire_view *v), void *arg)
{
    struct sk_link *link = sk_super_link(e->super);
    struct peek *p = find(e, 0);
    if (!link)
        return -SK_EUNAVAIL;
    if (!p || sk_link_pending(link) > ENGINE_MAX_PENDING_BYTES)
        return -SK_EBUSY;
    int rc = sk_wire_put_peek(sk_link_out(link), e->peek_number + 1, salt, tok, n_tok);
    if (rc != 0)
        return rc;
    *p = (struct peek){.number = ++e->peek_number, .done = done, .arg = arg};
    sk_link_flush(link);
    return 0;
}

void sk_engine_unpeek(struct sk_engine *e, void *arg)
{
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        if (e->peeks[i].number && e->peeks[i].arg == arg)
            e->peeks[i] = (struct peek){0};
    }
}

void sk_peek_take(struct sk_engine *e, const struct sk_wire_view *v)
{
    struct peek *p = v->number ? find(e, v->number) : NULL;
    if (p)
        answer(p, v);
}

void sk_peek_lost(struct sk_engine *e)
{
    for (uint32_t i = 0; i < SK_ENGINE_MAX_PEEKS; i++) {
        if (e->peeks[i].number)
            answer(&e->peeks[i], NULL);
    }
}
