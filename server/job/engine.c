/* An engine as the daemon has it: what its replicas say goes to the parts, what they count to the figures. */
#include "server/job/engine.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"

/* --- figures --- */

uint32_t sk_engine_n_sent(const struct sk_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_replica; i++)
        n += e->replicas[i].n_sent;
    return n;
}

uint32_t sk_engine_n_held(const struct sk_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_replica; i++)
        n += sk_replica_n_held(&e->replicas[i]);
    return n;
}

uint32_t sk_engine_n_ready(const struct sk_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_replica; i++)
        n += sk_replica_is_ready(&e->replicas[i]);
    return n;
}

uint32_t sk_engine_n_serving(const struct sk_engine *e)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < e->n_replica; i++)
        n += sk_replica_serves(&e->replicas[i]);
    return n;
}

static void add(struct sk_wire_stats *to, const struct sk_wire_stats *s)
{
    to->steps += s->steps;
    to->prompt_tok += s->prompt_tok;
    to->decode_tok += s->decode_tok;
    to->preemptions += s->preemptions;
    to->cache_query_tok += s->cache_query_tok;
    to->cache_hit_tok += s->cache_hit_tok;
    to->busy_us += s->busy_us;
    to->draft_tok += s->draft_tok;
    to->accept_tok += s->accept_tok;
    to->running += s->running;
    to->waiting += s->waiting;
    to->blk_total += s->blk_total;
    to->blk_free += s->blk_free;
    to->blk_cached += s->blk_cached;
}

static struct sk_wire_stats totals(const struct sk_engine *e)
{
    struct sk_wire_stats s = {0};
    for (uint32_t i = 0; i < e->n_replica; i++) {
        add(&s, &e->replicas[i].base);
        add(&s, &e->replicas[i].last);
    }
    return s;
}

static void publish_replica(struct sk_metrics *m, const struct replica *r)
{
    sk_metric_set(m, SK_METRIC_REPLICA_RUNNING, r->n_board, r->name, NULL);
    sk_metric_set(m, SK_METRIC_REPLICA_OUTSTANDING, (double)r->todo_tok, r->name, NULL);
}

void sk_engine_publish(const struct sk_engine *e)
{
    struct sk_metrics *m = e->conf.metrics;
    uint32_t n_held = sk_engine_n_held(e);
    if (e->is_silent)
        return;
    sk_metric_set(m, SK_METRIC_RUNNING, sk_engine_n_sent(e) - n_held, NULL, NULL);
    sk_metric_set(m, SK_METRIC_WAITING, e->fair.n_waiting + n_held, NULL, NULL);
    sk_metric_set(m, SK_METRIC_JOURNAL_TOKENS, (double)e->journal_tok, NULL, NULL);
    for (uint32_t i = 0; i < e->n_replica; i++)
        publish_replica(m, &e->replicas[i]);
}

static void publish_levels(const struct sk_engine *e, const struct sk_wire_stats *s)
{
    struct sk_metrics *m = e->conf.metrics;
    uint32_t held = s->blk_total - s->blk_free - s->blk_cached;
    if (e->is_silent)
        return;
    sk_metric_set(m, SK_METRIC_KV_USAGE, s->blk_total ? (double)held / s->blk_total : 0, NULL, NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, held, "held", NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, s->blk_cached, "cached", NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, s->blk_free, "free", NULL);
}

void sk_engine_publish_stats(struct sk_engine *e)
{
    struct sk_metrics *m = e->conf.metrics;
    struct sk_wire_stats s = totals(e);
    const struct sk_wire_stats *was = &e->told;
    sk_metric_add(m, SK_METRIC_PROMPT_TOKENS, (double)(s.prompt_tok - was->prompt_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_GENERATION_TOKENS, (double)(s.decode_tok - was->decode_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_PREFIX_QUERIES, (double)(s.cache_query_tok - was->cache_query_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_PREFIX_HITS, (double)(s.cache_hit_tok - was->cache_hit_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_PREEMPTIONS, (double)(s.preemptions - was->preemptions), NULL, NULL);
    sk_metric_add(m, SK_METRIC_DRAFT_TOKENS, (double)(s.draft_tok - was->draft_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_ACCEPTED_TOKENS, (double)(s.accept_tok - was->accept_tok), NULL, NULL);
    sk_metric_add(m, SK_METRIC_STEPS, (double)(s.steps - was->steps), NULL, NULL);
    sk_metric_add(m, SK_METRIC_BUSY, (double)(s.busy_us - was->busy_us) / 1e6, NULL, NULL);
    e->told = s;
    publish_levels(e, &s);
}

static void publish_state(struct sk_engine *e)
{
    struct sk_metrics *m = e->conf.metrics;
    struct sk_engine_status st;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct replica *r = &e->replicas[i];
        sk_replica_status(r, &st);
        sk_metric_add(m, SK_METRIC_REPLICA_RESTARTS, st.restarts - r->n_told, r->name, NULL);
        r->n_told = st.restarts;
        if (!e->is_silent)
            sk_metric_set(m, SK_METRIC_REPLICA_UP, sk_replica_is_ready(r), r->name, NULL);
    }
    if (!e->is_silent)
        sk_metric_set(m, SK_METRIC_ENGINE_UP, sk_engine_n_ready(e), NULL, NULL);
}

void sk_engine_set_levels(struct sk_engine *e, bool does)
{
    e->is_silent = !does;
    sk_engine_publish(e);
    publish_state(e);
    sk_engine_publish_stats(e);
}

/* --- what a replica says --- */

/* One that does not serve just now may come back, and then get what is let in meanwhile. */
static uint32_t least_len(const struct sk_engine *e)
{
    uint32_t least = UINT32_MAX;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        uint32_t len = e->replicas[i].hello.max_len;
        least = len > 0 && len < least ? len : least;
    }
    return least;
}

/* What holds for each request is the least of them, what they share the sum. */
static void agree(struct sk_engine *e)
{
    struct sk_wire_hello all = {0};
    for (uint32_t i = 0; i < e->n_replica; i++) {
        const struct replica *r = &e->replicas[i];
        if (!sk_replica_serves(r))
            continue;
        if (all.max_len == 0) {
            all = r->hello;
            continue;
        }
        all.max_seqs += r->hello.max_seqs;
        all.credit += r->hello.credit;
        for (uint32_t g = 0; g < all.n_group; g++)
            all.n_blk[g] += r->hello.n_blk[g];
    }
    if (all.max_len == 0)
        return;
    all.max_len = least_len(e);
    e->hello = all;
}

static void tell_state(struct sk_engine *e)
{
    if (e->conf.on_state)
        e->conf.on_state(e->conf.arg);
}

static void tell_step(struct sk_engine *e)
{
    if (e->conf.on_step)
        e->conf.on_step(e->conf.arg);
}

/* At the start one after the other: each finds the memory that those before it left. */
static void go_on_starting(struct sk_engine *e)
{
    struct sk_err err;
    uint32_t i = 0;
    for (; i < e->n_replica; i++) {
        struct replica *r = &e->replicas[i];
        if (r->state == REPLICA_EMPTY && !r->why[0] && !e->conf.is_vacant && sk_replica_open(r, false, &err) != 0)
            snprintf(r->why, sizeof r->why, "%s", err.msg);
        if (r->state == REPLICA_OPEN && !sk_replica_is_ready(r))
            return;
    }
    e->is_started = sk_engine_n_ready(e) > 0;
}

static void look_for_hope(struct sk_engine *e)
{
    bool any = false, was = e->is_hopeless;
    for (uint32_t i = 0; i < e->n_replica; i++)
        any |= sk_replica_may_serve(&e->replicas[i]);
    e->is_hopeless = e->is_started && !any && e->roll.state == ROLL_NONE && !e->is_closing;
    if (!e->is_hopeless || was)
        return;
    sk_suspect_end_all(e, SK_EUNAVAIL);
    tell_step(e);
}

void sk_engine_replica_changed(struct replica *r)
{
    struct sk_engine *e = r->engine;
    if (!e->is_started && !e->is_closing)
        go_on_starting(e);
    sk_roll_go_on(e);
    agree(e);
    publish_state(e);
    sk_engine_publish_stats(e);
    look_for_hope(e);
    tell_state(e);
    sk_send_pump(e);
}

void sk_engine_replica_found(struct replica *r, const char *dir)
{
    struct sk_engine *e = r->engine;
    if (e->dir[0])
        return;
    snprintf(e->dir, sizeof e->dir, "%s", dir);
    if (e->conf.on_dir)
        e->conf.on_dir(e->conf.arg, dir);
}

void sk_engine_replica_lost(struct replica *r, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct sk_engine *e = r->engine;
    sk_peek_lost(r);
    sk_suspect_requeue(r, seat, n_seat);
    sk_engine_publish_stats(e);
    tell_step(e);
    sk_send_pump(e);
}

static void finish_close(struct sk_engine *e)
{
    if (--e->n_closing > 0)
        return;
    void (*done)(void *arg) = e->done;
    void *done_arg = e->done_arg;
    sk_assert(TAILQ_EMPTY(&e->jobs)); /* each was ended before and belongs to its owner */
    for (uint32_t i = 0; i < e->n_replica; i++)
        sk_replica_done(&e->replicas[i]);
    sk_free(e->sendings);
    sk_buf_done(&e->scratch);
    sk_free(e);
    if (done)
        done(done_arg);
}

void sk_engine_replica_closed(struct replica *r)
{
    if (r->engine->is_closing)
        finish_close(r->engine);
    else
        sk_engine_replica_changed(r);
}

/* --- its owner's --- */

int sk_engine_open(struct uv_loop_s *loop, const struct sk_engine_conf *conf, struct sk_engine **ret,
                   struct sk_err *err)
{
    struct sk_engine *e = sk_calloc(1, sizeof *e);
    if (!e)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    e->conf = *conf;
    e->loop = loop;
    e->n_replica = (uint32_t)conf->conf->replicas;
    sk_assert(e->n_replica >= 1 && e->n_replica <= SK_ENGINE_MAX_REPLICAS);
    if (conf->dir)
        snprintf(e->dir, sizeof e->dir, "%s", conf->dir);
    TAILQ_INIT(&e->jobs);
    sk_fair_init(&e->fair);
    sk_buf_init(&e->scratch, SK_FRAME_MAX);
    for (uint32_t i = 0; i < e->n_replica; i++)
        sk_replica_init(&e->replicas[i], e, i);
    int rc = conf->is_vacant ? 0 : sk_replica_open(&e->replicas[0], false, err);
    if (rc != 0) {
        sk_replica_done(&e->replicas[0]);
        sk_free(e);
        return rc;
    }
    uv_timer_init(loop, &e->due);
    e->due.data = e;
    *ret = e;
    return 0;
}

void sk_engine_reloaded(struct sk_engine *e)
{
    sk_due_again(e);
}

/* Whose state is told: before all are up, the one that is not; then the first of the best. */
static const struct replica *spokesman(const struct sk_engine *e)
{
    static const int worth[] = {
        [SK_ENGINE_READY] = 6,  [SK_ENGINE_STARTING] = 5, [SK_ENGINE_BACKOFF] = 4, [SK_ENGINE_BUILDING] = 3,
        [SK_ENGINE_FAILED] = 2, [SK_ENGINE_STOPPING] = 1, [SK_ENGINE_STOPPED] = 0,
    };
    const struct replica *best = &e->replicas[0];
    struct sk_engine_status st;
    int most = -1;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        const struct replica *r = &e->replicas[i];
        sk_replica_status(r, &st);
        if (!e->is_started && r->state == REPLICA_OPEN && st.state != SK_ENGINE_READY)
            return r;
        int mine = r->is_drained ? worth[SK_ENGINE_STOPPED] : worth[st.state];
        if (mine > most) {
            most = mine;
            best = r;
        }
    }
    return best;
}

static bool is_moving(const struct sk_engine *e)
{
    struct sk_engine_status st;
    bool any = false;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        sk_replica_status(&e->replicas[i], &st);
        any |= st.making_progress;
    }
    return any;
}

void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret)
{
    const struct replica *r = spokesman(e);
    uint32_t n_held = sk_engine_n_held(e), n_restart = 0;
    struct sk_engine_status st;
    sk_replica_status(r, ret);
    if (ret->state == SK_ENGINE_READY && !e->is_started)
        ret->state = SK_ENGINE_STARTING;
    if (ret->state != SK_ENGINE_READY && ret->state != SK_ENGINE_BUILDING && e->n_replica > 1) {
        char text[sizeof ret->text];
        snprintf(text, sizeof text, "%s", ret->text);
        snprintf(ret->text, sizeof ret->text, "replica %u of %u: %.480s", r->index, e->n_replica, text);
    }
    for (uint32_t i = 0; i < e->n_replica; i++) {
        sk_replica_status(&e->replicas[i], &st);
        n_restart += st.restarts;
    }
    ret->restarts = n_restart;
    ret->making_progress = is_moving(e);
    ret->n_waiting = e->fair.n_waiting + n_held;
    ret->n_running = sk_engine_n_sent(e) - n_held;
    ret->journal_tok = e->journal_tok;
    ret->hello = e->hello;
    ret->stats = totals(e);
}

int sk_engine_dump_flight(struct sk_engine *e, const char *why, char *ret_path, struct sk_err *err)
{
    int rc = sk_err_set(err, SK_ENOENT, NULL, "the flight recorder has nothing");
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct sk_err other;
        bool was = rc == 0;
        if (e->replicas[i].state != REPLICA_OPEN)
            continue;
        int one = sk_super_dump_flight(e->replicas[i].super, why, ret_path, was ? &other : err);
        rc = was ? 0 : one;
    }
    return rc;
}

static void on_timer_closed(uv_handle_t *h)
{
    finish_close(h->data);
}

void sk_engine_close(struct sk_engine *e, void (*done)(void *arg), void *arg)
{
    e->done = done;
    e->done_arg = arg;
    e->is_closing = true;
    e->n_closing = 1;
    for (uint32_t i = 0; i < e->n_replica; i++) {
        struct replica *r = &e->replicas[i];
        e->n_closing += r->state != REPLICA_EMPTY;
        if (r->state == REPLICA_OPEN)
            sk_replica_close(r);
    }
    uv_close((uv_handle_t *)&e->due, on_timer_closed);
    sk_suspect_end_all(e, SK_EUNAVAIL);
}

/* --- replicas --- */

uint32_t sk_engine_n_replica(const struct sk_engine *e)
{
    return e->n_replica;
}

void sk_engine_replica(const struct sk_engine *e, uint32_t i, struct sk_replica_view *ret)
{
    const struct replica *r = &e->replicas[i];
    *ret = (struct sk_replica_view){
        .is_drained = r->is_drained, .is_hopeless = r->is_hopeless, .todo_tok = r->todo_tok, .n_routed = r->n_routed};
    sk_replica_status(r, &ret->status);
}

const struct sk_wire_rank *sk_engine_ranks(const struct sk_engine *e, uint32_t i, uint32_t *ret_n)
{
    const struct replica *r = &e->replicas[i];
    *ret_n = 0;
    return r->super ? sk_super_ranks(r->super, ret_n) : NULL;
}

void sk_engine_move(struct sk_engine *e, const char *dir)
{
    snprintf(e->dir, sizeof e->dir, "%s", dir);
}

const char *sk_engine_dir(const struct sk_engine *e)
{
    return e->dir;
}

void sk_engine_end_all(struct sk_engine *e, int code)
{
    e->is_over = true;
    e->in_callbacks = true;
    sk_suspect_end_all(e, code);
    e->in_callbacks = false;
    tell_step(e);
    sk_send_pump(e);
}

uint32_t sk_engine_n_job(const struct sk_engine *e)
{
    const struct sk_job *j;
    uint32_t n = 0;
    TAILQ_FOREACH(j, &e->jobs, link) n++;
    return n;
}
