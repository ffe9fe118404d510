#include "tests/unit/server/job/fake.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/job/engine.h"
#include "server/metrics/metrics.h"

enum { MAX_PROMPT = 8192, LEN = 100000 };

struct sk_link {
    struct sk_buf out;
};
struct sk_super {
    struct sk_super_conf conf;
    enum sk_engine_state state;
    struct sk_link link;
    struct sk_buf frame; /* the engine's; reserved, since it is not its memory that ends */
    uint64_t prompt_job;
    uint32_t prompt_n, restarts;
    int32_t prompt_first;
    uint64_t step;
    struct sk_wire_stats stats;
    uv_idle_t closing;
    void (*done)(void *arg);
    void *done_arg;
};
static struct sk_super supers[FAKE_MAX_REPLICAS];
struct fake fake;

/* --- the engine --- */

static uint32_t index_of(const struct sk_super *s)
{
    return s->conf.replica;
}

static bool is_at(const struct fake_seq *q, const struct sk_super *s)
{
    return q->replica == index_of(s);
}

static uint32_t n_uncancelled(const struct sk_super *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fake.n_seq; i++)
        n += is_at(&fake.seq[i], s) && !fake.seq[i].cancelled;
    return n;
}

static uint32_t n_taken(const struct sk_super *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fake.n_seq; i++)
        n += is_at(&fake.seq[i], s);
    return n;
}

/* A suspect is alone of its kind, at all replicas. */
static void take_seq(struct sk_super *u, const struct sk_wire_seq *s)
{
    const int32_t *done = sk_wire_seq_done(s);
    struct fake_seq q = {.job = s->job,
                         .replica = index_of(u),
                         .choice = s->choice,
                         .n_done = s->n_done,
                         .n_prompt = u->prompt_n,
                         .n_fill = u->prompt_n + s->n_done,
                         .first = u->prompt_first,
                         .params = s->params,
                         .suspect = s->flags & SK_SEQ_SUSPECT,
                         .urgent = s->flags & SK_SEQ_URGENT};
    assert_int_equal(s->job, u->prompt_job);
    for (uint32_t i = 0; i < s->n_done; i++)
        assert_int_equal(done[i], 10000 * q.first + 1000 * (int32_t)q.choice + (int32_t)i);
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        const struct fake_seq *k = &fake.seq[i];
        assert_false(q.suspect && k->suspect && !k->cancelled && k->n_probation < SK_SEQ_PROBATION);
        assert_false(!k->cancelled && k->job == q.job && k->choice == q.choice);
    }
    assert_true(n_uncancelled(u) < fake.max_seqs && n_taken(u) < 2 * fake.max_seqs && fake.n_seq < FAKE_MAX_SEQS);
    fake.seq[fake.n_seq++] = q;
    assert_true(fake.n_sent < sizeof fake.sent / sizeof fake.sent[0]);
    fake.sent[fake.n_sent++] = q.first;
}

static void take_cancel(const struct sk_super *s, const struct sk_wire_cancel *c)
{
    fake.n_cancel++;
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        struct fake_seq *q = &fake.seq[i];
        if (is_at(q, s) && q->job == c->job && (c->choice == SK_WIRE_ALL || c->choice == q->choice))
            q->cancelled = true;
    }
}

static void take_frame(struct sk_super *s, const struct sk_frame *f)
{
    const struct sk_wire_prompt *p = (const void *)f;
    assert_int_equal(sk_wire_check(f), 0);
    switch (f->kind) {
    case SK_FRAME_PROMPT:
        s->prompt_job = p->job;
        s->prompt_n = p->n_tok;
        s->prompt_first = sk_wire_prompt_tok(p)[0];
        fake.n_frame_prompt++;
        break;
    case SK_FRAME_SEQ:
        take_seq(s, (const void *)f);
        break;
    case SK_FRAME_CANCEL:
        take_cancel(s, (const void *)f);
        break;
    case SK_FRAME_PEEK:
        fake.n_peek++;
        fake.n_peeked[index_of(s)]++;
        break;
    default:
        fail_msg("frame of kind %u", f->kind);
    }
}

struct sk_buf *sk_link_out(struct sk_link *l)
{
    return &l->out;
}

size_t sk_link_pending(const struct sk_link *l)
{
    return l->out.n;
}

/* A frame that found no memory breaks the channel, and the engine is replaced. */
void sk_link_flush(struct sk_link *l)
{
    struct sk_super *s = (struct sk_super *)((char *)l - offsetof(struct sk_super, link));
    if (l->out.failed)
        return;
    for (size_t at = 0; at < l->out.n;) {
        const struct sk_frame *f = (const void *)(l->out.p + at);
        take_frame(s, f);
        at += f->bytes;
    }
    sk_buf_clear(&l->out);
}

static bool is_alone(const struct fake_seq *q)
{
    return q->suspect && q->n_probation < SK_SEQ_PROBATION;
}

/* Steps of suspects and of others take turns. */
static bool runs(const struct sk_super *s, const struct fake_seq *q, bool alone)
{
    return is_at(q, s) && !q->cancelled && is_alone(q) == alone;
}

static bool has_alone(const struct sk_super *s, bool alone)
{
    bool any = false;
    for (uint32_t i = 0; i < fake.n_seq; i++)
        any |= runs(s, &fake.seq[i], alone);
    return any;
}

static void put_entry(struct sk_super *s, struct fake_seq *q, bool drew)
{
    bool scores = q->params.n_prompt_logprobs >= 0 && q->n_items < q->n_prompt - 1;
    struct sk_wire_item it = {.rank = 1};
    struct sk_wire_entry e = {.job = q->job,
                              .choice = q->choice,
                              .n_item = drew,
                              .n_cached = fake.n_cached,
                              .cpu_us = 10 * q->n_step,
                              .blk_us = 100 * q->n_step};
    if (scores) {
        it.flags = SK_ITEM_PROMPT;
        it.id = (int32_t)q->n_items++;
    } else if (drew) {
        it.id = 10000 * q->first + 1000 * (int32_t)q->choice + (int32_t)q->n_done++;
        q->n_probation++;
        s->stats.decode_tok++;
    }
    e.finish = q->cancelled                                ? SK_FINISH_CANCEL
               : drew && q->n_done == q->params.max_tokens ? SK_FINISH_LENGTH
                                                           : SK_FINISH_NONE;
    sk_wire_tokens_entry(&s->frame, &e);
    if (drew)
        sk_wire_tokens_item(&s->frame, &it, NULL);
    if (e.finish != SK_FINISH_NONE)
        q->job = 0;
}

static uint32_t run_rows(struct sk_super *s, bool alone, uint32_t *ret_n_entry)
{
    uint32_t n_row = 0, n_running = 0, max_row = (uint32_t)fake.conf.max_step_tokens;
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        struct fake_seq *q = &fake.seq[i];
        if (!runs(s, q, alone) || n_running++ >= fake.max_running)
            continue;
        uint32_t n = q->n_fill ? q->n_fill : 1;
        n = n < max_row - n_row ? n : max_row - n_row;
        n_row += n;
        q->n_step += n > 0;
        if (q->n_fill)
            s->stats.prompt_tok += n;
        q->n_fill -= n < q->n_fill ? n : q->n_fill;
        if (n > 0 && q->n_fill == 0) {
            put_entry(s, q, true);
            ++*ret_n_entry;
        }
    }
    return n_row;
}

static void put_ended(struct sk_super *s, uint32_t *ret_n_entry)
{
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        if (is_at(&fake.seq[i], s) && fake.seq[i].cancelled) {
            put_entry(s, &fake.seq[i], false);
            ++*ret_n_entry;
        }
    }
}

static void compact(void)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        if (fake.seq[i].job)
            fake.seq[kept++] = fake.seq[i];
    }
    fake.n_seq = kept;
}

static void drop_all(const struct sk_super *s)
{
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        if (is_at(&fake.seq[i], s))
            fake.seq[i].job = 0;
    }
    compact();
}

static bool crashes(struct sk_super *s, bool alone)
{
    struct sk_board_seat seat[FAKE_MAX_SEQS];
    uint32_t n = 0;
    bool poison = false;
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        const struct fake_seq *q = &fake.seq[i];
        if (!runs(s, q, alone))
            continue;
        seat[n++] = (struct sk_board_seat){.job = q->job, .choice = q->choice};
        poison |= q->first == FAKE_POISON;
    }
    if (!poison)
        return false;
    fake.n_crash++;
    fake_down_at(index_of(s), seat, n);
    return true;
}

static void tell(struct sk_super *s)
{
    struct sk_buf *b = &s->frame;
    uint32_t n = n_uncancelled(s);
    s->stats.steps = s->step;
    s->stats.running = n < fake.max_running ? n : fake.max_running;
    s->stats.waiting = n - s->stats.running;
    if (b->n)
        s->conf.on_frame(s->conf.arg, (const void *)b->p);
    if (fake.stats && s->state == SK_ENGINE_READY) {
        sk_buf_clear(b);
        sk_wire_put_stats(b, &s->stats);
        s->conf.on_frame(s->conf.arg, (const void *)b->p);
    }
}

/* The daemon's books are the engines'. */
static void check_books(void)
{
    const struct sk_engine *e = fake.engine;
    const struct sk_fair *f = &e->fair;
    const struct sk_fair_share *s;
    uint32_t n_sent = 0, n_fresh = 0, n_board = 0;
    uint64_t unsettled_tok = 0;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        const struct replica *r = &e->replicas[i];
        assert_int_equal(r->n_sent, n_taken(&supers[i]));
        assert_int_equal(r->n_board, n_uncancelled(&supers[i]));
        assert_true(r->n_board > 0 || r->todo_tok == 0);
        n_board += r->n_board;
    }
    assert_int_equal(f->n_board, n_board);
    TAILQ_FOREACH(s, &f->shares, link)
    {
        n_sent += s->tenant->n_sent;
        n_fresh += s->n_fresh;
        unsettled_tok += s->unsettled_tok;
    }
    assert_int_equal(n_sent, f->n_board);
    assert_true(n_fresh <= n_sent && unsettled_tok <= f->fresh_tok);
    assert_true(f->n_waiting == 0 || fake.n_seq > 0); /* or nothing would ever move again */
}

static bool step(struct sk_super *s)
{
    struct sk_buf *b = &s->frame;
    size_t at;
    uint32_t n_entry = 0;
    if (s->link.out.failed) {
        fake_down_at(index_of(s), NULL, 0);
        return false;
    }
    s->step++;
    bool alone = has_alone(s, true) && (s->step % 2 || !has_alone(s, false));
    if (crashes(s, alone))
        return false;
    sk_buf_clear(b);
    sk_wire_tokens_begin(b, &at, s->step);
    put_ended(s, &n_entry);
    uint32_t n_row = run_rows(s, alone, &n_entry);
    uint64_t us = fake.base_us + n_row * fake.row_us;
    s->stats.busy_us += us;
    fake_pass(us);
    compact();
    uint32_t n = n_uncancelled(s);
    assert_int_equal(sk_wire_tokens_end(b, at, n_entry, n > fake.max_running ? n - fake.max_running : 0), 0);
    tell(s);
    check_books();
    return true;
}

bool fake_step(void)
{
    bool ok = true;
    for (uint32_t i = 0; i < fake.engine->n_replica; i++) {
        if (supers[i].state == SK_ENGINE_READY)
            ok &= step(&supers[i]);
    }
    return ok;
}

void fake_view_at(uint32_t i, uint64_t number, uint32_t n_cached)
{
    struct sk_buf b;
    const struct sk_wire_view_seq seq = {.job = 1 + i};
    const struct sk_wire_view v = {
        .number = number, .n_cached = n_cached, .n_seq = 1, .stats = {.blk_total = 100, .blk_free = 10 * i}};
    sk_buf_init(&b, 1 << 16);
    sk_wire_put_view(&b, &v, &seq);
    supers[i].conf.on_frame(supers[i].conf.arg, (const void *)b.p);
    sk_buf_done(&b);
}

void fake_view(uint64_t number, uint32_t n_cached)
{
    fake_view_at(0, number, n_cached);
}

/* --- its supervisor --- */

int sk_super_open(struct uv_loop_s *loop, const struct sk_super_conf *conf, struct sk_super **ret, struct sk_err *err)
{
    struct sk_super *s = &supers[conf->replica];
    assert_true(conf->replica < FAKE_MAX_REPLICAS);
    memset(s, 0, sizeof *s);
    s->conf = *conf;
    sk_buf_init(&s->link.out, SK_FRAME_MAX);
    sk_buf_init(&s->frame, 1 << 20);
    sk_buf_reserve(&s->frame, 1 << 20);
    uv_idle_init(loop, &s->closing);
    s->closing.data = s;
    s->state = SK_ENGINE_STARTING;
    fake.n_open[conf->replica]++;
    *ret = s;
    return 0;
}

struct sk_link *sk_super_link(struct sk_super *s)
{
    return s->state == SK_ENGINE_READY ? &s->link : NULL;
}

enum sk_engine_state sk_super_state(const struct sk_super *s)
{
    return s->state;
}

void sk_super_status(const struct sk_super *s, struct sk_engine_status *ret)
{
    ret->state = s->state;
    ret->restarts = s->restarts;
    ret->making_progress = s->state == SK_ENGINE_READY;
    snprintf(ret->text, sizeof ret->text, "pretended");
}

const struct sk_wire_rank *sk_super_ranks(const struct sk_super *s, uint32_t *ret_n)
{
    *ret_n = 0;
    return NULL;
}

int sk_super_dump_flight(struct sk_super *s, const char *why, char *ret_path, struct sk_err *err)
{
    return sk_err_set(err, SK_ENOENT, NULL, "nothing was recorded");
}

static void on_idle_closed(uv_handle_t *h)
{
    struct sk_super *s = h->data;
    sk_buf_done(&s->link.out);
    sk_buf_done(&s->frame);
    s->state = SK_ENGINE_STOPPED;
    s->done(s->done_arg);
}

void sk_super_close(struct sk_super *s, void (*done)(void *arg), void *arg)
{
    s->done = done;
    s->done_arg = arg;
    s->state = SK_ENGINE_STOPPING;
    drop_all(s);
    uv_close((uv_handle_t *)&s->closing, on_idle_closed);
}

void fake_up_at(uint32_t i)
{
    struct sk_super *s = &supers[i];
    struct sk_wire_hello h = {
        .max_len = LEN - i, .max_seqs = fake.max_seqs, .credit = 2 * fake.max_seqs, .n_group = 2, .n_blk = {70, 30}};
    snprintf(h.digest, sizeof h.digest, "%s", fake.digest ? fake.digest : "");
    snprintf(h.isa, sizeof h.isa, "%s", fake.isa[i] ? fake.isa[i] : "cpu/fake");
    s->state = SK_ENGINE_READY;
    s->step = 0;
    memset(&s->stats, 0, sizeof s->stats);
    s->conf.on_up(s->conf.arg, &h);
}

void fake_down_at(uint32_t i, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct sk_super *s = &supers[i];
    s->state = SK_ENGINE_BACKOFF;
    drop_all(s);
    s->restarts++;
    sk_buf_clear(&s->link.out);
    s->conf.on_state(s->conf.arg);
    s->conf.on_lost(s->conf.arg, seat, n_seat);
}

void fake_hopeless_at(uint32_t i)
{
    supers[i].conf.on_hopeless(supers[i].conf.arg);
}

void fake_up(void)
{
    fake_up_at(0);
}

void fake_down(const struct sk_board_seat *seat, uint32_t n_seat)
{
    fake_down_at(0, seat, n_seat);
}

void fake_hopeless(void)
{
    fake_hopeless_at(0);
}

/* --- the daemon's side --- */

static void on_step(void *arg)
{
    fake.n_step_cb++;
}

static int open_all(uint32_t n_replica)
{
    memset(&fake, 0, sizeof fake);
    struct sk_err err;
    sk_log_init("test", SK_LOG_ERROR);
    sk_log_level_set(-1); /* a refused request is said aloud */
    sk_conf_defaults(&fake.conf);
    fake.conf.replicas = n_replica;
    fake.now_us = 1000000000;
    sk_clock_set(fake.now_us);
    fake.max_seqs = 4;
    fake.max_running = FAKE_MAX_SEQS;
    fake.base_us = 10000;
    fake.row_us = 100;
    if (uv_loop_init(&fake.loop) || sk_tenants_new(&fake.tenants) || sk_metrics_new(&fake.metrics))
        return -1;
    const struct sk_engine_conf ec = {.conf = &fake.conf, .metrics = fake.metrics, .on_step = on_step};
    if (sk_engine_open(&fake.loop, &ec, &fake.engine, &err) != 0)
        return -1;
    for (uint32_t i = 0; i < n_replica; i++)
        fake_up_at(i);
    return 0;
}

int fake_open(void **state)
{
    return open_all(1);
}

int fake_open_two(void **state)
{
    return open_all(2);
}

int fake_close(void **state)
{
    sk_engine_close(fake.engine, NULL, NULL);
    uv_run(&fake.loop, UV_RUN_DEFAULT);
    sk_tenants_free(fake.tenants);
    sk_metrics_free(fake.metrics);
    sk_clock_set(0);
    return uv_loop_close(&fake.loop);
}

void fake_pass(uint64_t us)
{
    fake.now_us += us;
    sk_clock_set(fake.now_us);
}

void fake_run_loop(void)
{
    uv_run(&fake.loop, UV_RUN_NOWAIT);
}

struct sk_tenant *fake_tenant(const char *name, double weight)
{
    struct sk_tenant *t = NULL;
    assert_int_equal(sk_tenants_get(fake.tenants, name, &(struct sk_tenant_limits){.weight = weight}, 0, &t), 0);
    return t;
}

uint32_t fake_on_board(int32_t first)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fake.n_seq; i++)
        n += fake.seq[i].first == first && !fake.seq[i].cancelled;
    return n;
}

uint32_t fake_at(uint32_t i)
{
    return n_uncancelled(&supers[i]);
}

uint32_t fake_urgent(int32_t first)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fake.n_seq; i++)
        n += fake.seq[i].first == first && !fake.seq[i].cancelled && fake.seq[i].urgent;
    return n;
}

static void on_job(void *arg, struct sk_job *job, const struct sk_job_event *ev)
{
    struct answer *a = arg;
    uint32_t k = ev->choice;
    const struct sk_wire_item *it = ev->entry->n_item ? sk_wire_item_first(ev->entry) : NULL;
    assert_ptr_equal(job, a->job);
    assert_int_equal(a->finish[k], SK_FINISH_NONE);
    for (uint32_t i = 0; i < ev->entry->n_item; i++, it = sk_wire_item_next(it)) {
        if (it->flags & SK_ITEM_PROMPT)
            a->wrong |= it->id != (int32_t)a->n_prompt_items[k]++;
        else
            a->wrong |= it->id != 10000 * a->first + (int32_t)(1000 * k + a->n_tok[k]++);
    }
    if (a->first_us == 0 && a->n_tok[k] > 0)
        a->first_us = fake.now_us;
    if (ev->entry->finish != SK_FINISH_NONE) {
        a->finish[k] = ev->entry->finish;
        a->reason = ev->entry->reason;
        a->over_us = fake.now_us;
        a->n_over++;
    }
    if (a->on_tok)
        a->on_tok(a, k);
}

struct sk_job_req fake_req(struct answer *a, struct sk_params *p, int32_t first, uint32_t n_prompt, uint32_t max_tokens)
{
    static int32_t prompt[MAX_PROMPT];
    assert_true(n_prompt <= MAX_PROMPT);
    prompt[0] = first;
    sk_params_default(p);
    p->seed = 1;
    p->max_tokens = max_tokens;
    p->flags = SK_PARAMS_IGNORE_EOS;
    a->first = first;
    a->n_choice = 1;
    return (struct sk_job_req){.prompt = prompt,
                               .n_prompt = n_prompt,
                               .n_choice = 1,
                               .params = p,
                               .tenant = fake_tenant("", 1),
                               .id = "req",
                               .cb = on_job,
                               .arg = a};
}

int fake_submit(struct answer *a, const struct sk_job_req *req, struct sk_err *err)
{
    a->n_choice = req->n_choice;
    a->submit_us = fake.now_us;
    return sk_job_submit(fake.engine, req, &a->job, err);
}

void fake_ask(struct answer *a, const char *tenant, int32_t first, uint32_t n_prompt, uint32_t max_tokens)
{
    struct sk_params p;
    struct sk_err err;
    struct sk_job_req req = fake_req(a, &p, first, n_prompt, max_tokens);
    req.tenant = fake_tenant(tenant, 1);
    if (fake_submit(a, &req, &err) != 0)
        fail_msg("%s", err.msg);
}

void fake_check_whole(const struct answer *a, uint32_t n_tok)
{
    assert_false(a->wrong);
    assert_int_equal(a->n_over, a->n_choice);
    for (uint32_t k = 0; k < a->n_choice; k++) {
        assert_int_equal(a->n_tok[k], n_tok);
        assert_int_equal(a->finish[k], SK_FINISH_LENGTH);
    }
    sk_job_free(a->job);
}

void fake_run_out(void)
{
    struct sk_engine_status st;
    for (uint32_t i = 0; i < 100000; i++) {
        for (uint32_t k = 0; k < fake.engine->n_replica; k++) {
            if (supers[k].state == SK_ENGINE_STARTING || supers[k].state == SK_ENGINE_BACKOFF)
                fake_up_at(k);
        }
        sk_engine_status(fake.engine, &st);
        if (st.n_running + st.n_waiting == 0)
            return;
        fake_step();
    }
    fail_msg("it does not come to an end");
}
