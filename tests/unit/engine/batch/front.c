#include "tests/unit/engine/batch/front.h"

#include <string.h>

#include "comm/base/mem.h"

static void feed(struct front *f)
{
    struct sk_err err = {0};
    for (size_t at = 0; at < f->in.n;) {
        const struct sk_frame *fr = (const struct sk_frame *)(f->in.p + at);
        sk_assert(sk_wire_check(fr) == 0);
        sk_assert(sk_loop_frame(f->loop, fr, &f->out, &err) == 0);
        at += fr->bytes;
    }
    sk_buf_clear(&f->in);
}

void front_init(struct front *f, struct sk_loop *loop)
{
    *f = (struct front){.loop = loop, .seqs = sk_calloc(FRONT_MAX_SEQS, sizeof *f->seqs)};
    sk_assert(f->seqs);
    sk_buf_init(&f->in, SK_FRAME_MAX);
    sk_buf_init(&f->out, 4 * sk_loop_max_out(loop));
    sk_assert(sk_buf_reserve(&f->out, f->out.max) == 0);
    struct sk_wire_hello h = {.magic = SK_WIRE_MAGIC, .version = SK_WIRE_VERSION};
    sk_assert(sk_wire_put_hello(&f->in, &h) == 0);
    feed(f);
}

void front_done(struct front *f)
{
    for (uint32_t i = 0; i < f->n_seq; i++)
        sk_free(f->seqs[i].items);
    sk_free(f->seqs);
    sk_free(f->view);
    sk_buf_done(&f->in);
    sk_buf_done(&f->out);
}

uint32_t front_submit(struct front *f, const struct front_req *r)
{
    uint64_t job = ++f->last_job;
    uint32_t first = f->n_seq;
    sk_assert(sk_wire_put_prompt(&f->in, job, r->n_choice, r->prompt, r->n_prompt) == 0);
    for (uint32_t c = 0; c < r->n_choice; c++) {
        struct sk_wire_seq s = {.job = job,
                                .choice = c,
                                .n_list = (uint32_t)sk_params_list_len(&r->params),
                                .n_done = r->n_done,
                                .flags = (r->suspect ? SK_SEQ_SUSPECT : 0) | (r->urgent ? SK_SEQ_URGENT : 0),
                                .params = r->params};
        sk_assert(sk_wire_put_seq(&f->in, &s, r->list, r->done) == 0);
        sk_assert(f->n_seq < FRONT_MAX_SEQS);
        struct front_seq *q = &f->seqs[f->n_seq++];
        *q = (struct front_seq){.job = job, .choice = c, .items = sk_calloc(FRONT_MAX_ITEMS, sizeof *q->items)};
        sk_assert(q->items);
        f->n_open++;
    }
    feed(f);
    return first;
}

void front_cancel(struct front *f, uint32_t seq)
{
    sk_assert(sk_wire_put_cancel(&f->in, f->seqs[seq].job, f->seqs[seq].choice) == 0);
    feed(f);
}

void front_peek(struct front *f, const int32_t *tok, uint32_t n_tok, uint64_t salt)
{
    front_drain(f);
    sk_free(f->view);
    f->view = NULL;
    sk_assert(sk_wire_put_peek(&f->in, ++f->last_peek, salt, tok, n_tok) == 0);
    feed(f);
    sk_assert(f->out.n <= sk_loop_max_out(f->loop));
    front_drain(f);
    sk_assert(f->view && f->view->number == f->last_peek);
}

static struct front_seq *find(struct front *f, const struct sk_wire_entry *e)
{
    for (uint32_t i = 0; i < f->n_seq; i++)
        if (f->seqs[i].job == e->job && f->seqs[i].choice == e->choice)
            return &f->seqs[i];
    return NULL;
}

static void take(struct front *f, const struct sk_wire_entry *e)
{
    struct front_seq *q = find(f, e);
    sk_assert(q && q->finish == SK_FINISH_NONE); /* nothing after the last entry */
    const struct sk_wire_item *it = sk_wire_item_first(e);
    for (uint32_t i = 0; i < e->n_item; i++, it = sk_wire_item_next(it)) {
        sk_assert(q->n_item < FRONT_MAX_ITEMS && it->n_top <= SK_MAX_TOP);
        struct front_item *to = &q->items[q->n_item++];
        to->it = *it;
        memcpy(to->top, sk_wire_item_top(it), it->n_top * sizeof to->top[0]);
    }
    q->finish = e->finish;
    q->reason = e->reason;
    q->n_cached = e->n_cached;
    q->n_preempt = e->n_preempt;
    sk_assert(e->cpu_us >= q->cpu_us && e->blk_us >= q->blk_us);
    q->cpu_us = e->cpu_us;
    q->blk_us = e->blk_us;
    f->n_open -= e->finish != SK_FINISH_NONE;
}

static void keep_view(struct front *f, const struct sk_frame *fr)
{
    sk_free(f->view);
    f->view = sk_malloc(fr->bytes);
    sk_assert(f->view);
    memcpy(f->view, fr, fr->bytes);
}

void front_drain(struct front *f)
{
    for (size_t at = 0; at < f->out.n;) {
        const struct sk_frame *fr = (const struct sk_frame *)(f->out.p + at);
        sk_assert(sk_wire_check(fr) == 0);
        at += fr->bytes;
        if (fr->kind == SK_FRAME_VIEW)
            keep_view(f, fr);
        if (fr->kind != SK_FRAME_TOKENS)
            continue;
        const struct sk_wire_tokens *t = (const void *)fr;
        f->n_frame++;
        f->n_waiting = t->n_waiting;
        for (const struct sk_wire_entry *e = sk_wire_first(t); e; e = sk_wire_next(t, e))
            take(f, e);
    }
    sk_buf_clear(&f->out);
}

bool front_step(struct front *f)
{
    struct sk_err err = {0};
    if (!sk_loop_busy(f->loop))
        return false;
    sk_assert(sk_loop_step(f->loop, &f->out, &err) == 0);
    sk_assert(f->out.n <= sk_loop_max_out(f->loop));
    front_drain(f);
    return true;
}

void front_run(struct front *f)
{
    front_drain(f);
    while (front_step(f))
        ;
    sk_assert(f->n_open == 0);
}

uint32_t front_answer(const struct front_seq *s, int32_t *ret_ids)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_item; i++)
        if (!(s->items[i].it.flags & SK_ITEM_PROMPT))
            ret_ids[n++] = s->items[i].it.id;
    return n;
}
