/* An engine as the daemon has it: what its supervisor says goes to the parts, what they count to the figures. */
#include "server/job/engine.h"

#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/mem.h"

/* --- figures --- */

static void add_counters(struct sk_wire_stats *to, const struct sk_wire_stats *s)
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
}

static struct sk_wire_stats stats_since(const struct sk_wire_stats *now, const struct sk_wire_stats *then)
{
    return (struct sk_wire_stats){.steps = now->steps - then->steps,
                                  .prompt_tok = now->prompt_tok - then->prompt_tok,
                                  .decode_tok = now->decode_tok - then->decode_tok,
                                  .preemptions = now->preemptions - then->preemptions,
                                  .cache_query_tok = now->cache_query_tok - then->cache_query_tok,
                                  .cache_hit_tok = now->cache_hit_tok - then->cache_hit_tok,
                                  .busy_us = now->busy_us - then->busy_us,
                                  .draft_tok = now->draft_tok - then->draft_tok,
                                  .accept_tok = now->accept_tok - then->accept_tok};
}

/* An engine's counters begin at 0, the daemon's go on. */
static struct sk_wire_stats totals(const struct sk_engine *e)
{
    struct sk_wire_stats s = e->last;
    add_counters(&s, &e->base);
    return s;
}

static uint32_t n_held(const struct sk_engine *e)
{
    return e->n_held < e->n_sent ? e->n_held : e->n_sent;
}

void sk_engine_publish(const struct sk_engine *e)
{
    struct sk_metrics *m = e->conf.metrics;
    sk_metric_set(m, SK_METRIC_RUNNING, e->n_sent - n_held(e), NULL, NULL);
    sk_metric_set(m, SK_METRIC_WAITING, e->fair.n_waiting + n_held(e), NULL, NULL);
    sk_metric_set(m, SK_METRIC_JOURNAL_TOKENS, (double)e->journal_tok, NULL, NULL);
}

static void publish_stats(const struct sk_engine *e)
{
    struct sk_metrics *m = e->conf.metrics;
    struct sk_wire_stats s = totals(e);
    uint32_t held = s.blk_total - s.blk_free - s.blk_cached;
    sk_metric_total(m, SK_METRIC_PROMPT_TOKENS, (double)s.prompt_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_GENERATION_TOKENS, (double)s.decode_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_PREFIX_QUERIES, (double)s.cache_query_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_PREFIX_HITS, (double)s.cache_hit_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_PREEMPTIONS, (double)s.preemptions, NULL, NULL);
    sk_metric_total(m, SK_METRIC_DRAFT_TOKENS, (double)s.draft_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_ACCEPTED_TOKENS, (double)s.accept_tok, NULL, NULL);
    sk_metric_total(m, SK_METRIC_STEPS, (double)s.steps, NULL, NULL);
    sk_metric_total(m, SK_METRIC_BUSY, (double)s.busy_us / 1e6, NULL, NULL);
    sk_metric_set(m, SK_METRIC_KV_USAGE, s.blk_total ? (double)held / s.blk_total : 0, NULL, NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, held, "held", NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, s.blk_cached, "cached", NULL);
    sk_metric_set(m, SK_METRIC_KV_BLOCKS, s.blk_free, "free", NULL);
}

/* --- what the supervisor says --- */

static void on_dir(void *arg, const char *path)
{
    struct sk_engine *e = arg;
    if (e->conf.on_dir)
        e->conf.on_dir(e->conf.arg, path);
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

/* READY is told by on_up: the owner then finds the hello in the status. */
static void on_state(void *arg)
{
    struct sk_engine *e = arg;
    if (sk_super_state(e->super) != SK_ENGINE_READY)
        tell_state(e);
}

static void on_up(void *arg, const struct sk_wire_hello *h)
{
    struct sk_engine *e = arg;
    e->hello = *h;
    e->is_known = true;
    e->is_hopeless = false;
    e->last = (struct sk_wire_stats){0};
    for (uint32_t g = 0; g < h->n_group; g++)
        e->last.blk_total += h->n_blk[g];
    e->last.blk_free = e->last.blk_total;
    publish_stats(e);
    tell_state(e);
    sk_send_pump(e);
}

static void take_stats(struct sk_engine *e, const struct sk_wire_stats *s)
{
    struct sk_wire_stats delta = stats_since(s, &e->last);
    sk_pace_take(&e->pace, &delta, e->n_end);
    e->n_end = 0;
    e->n_held = s->waiting;
    e->last = *s;
    publish_stats(e);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
    struct sk_engine *e = arg;
    e->in_callbacks = true;
    if (f->kind == SK_FRAME_STATS)
        take_stats(e, (const struct sk_wire_stats *)f);
    else if (f->kind == SK_FRAME_VIEW)
        sk_peek_take(e, (const struct sk_wire_view *)f);
    else
        sk_take_tokens(e, (const struct sk_wire_tokens *)f);
    e->in_callbacks = false;
    if (f->kind != SK_FRAME_STATS)
        tell_step(e);
    sk_send_pump(e);
}

static void on_lost(void *arg, const struct sk_board_seat *seat, uint32_t n_seat)
{
    struct sk_engine *e = arg;
    add_counters(&e->base, &e->last);
    memset(&e->last, 0, sizeof e->last);
    e->n_end = 0;
    sk_peek_lost(e);
    sk_suspect_requeue(e, seat, n_seat);
    publish_stats(e);
    tell_step(e);
    sk_send_pump(e);
}

static void on_hopeless(void *arg)
{
    struct sk_engine *e = arg;
    e->is_hopeless = true;
    sk_suspect_end_all(e, SK_EUNAVAIL);
    tell_step(e);
}

static bool is_busy(void *arg)
{
    const struct sk_engine *e = arg;
    return e->n_sent > 0;
}

/* --- its owner's --- */

int sk_engine_open(struct uv_loop_s *loop, const struct sk_engine_conf *conf, struct sk_engine **ret,
                   struct sk_err *err)
{
    struct sk_engine *e = sk_calloc(1, sizeof *e);
    if (!e)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    e->conf = *conf;
    TAILQ_INIT(&e->jobs);
    sk_fair_init(&e->fair);
    sk_buf_init(&e->scratch, SK_FRAME_MAX);
    const struct sk_super_conf sc = {.conf = conf->conf,
                                     .bin_dir = conf->bin_dir,
                                     .metrics = conf->metrics,
                                     .arg = e,
                                     .on_dir = on_dir,
                                     .on_state = on_state,
                                     .on_up = on_up,
                                     .on_frame = on_frame,
                                     .on_lost = on_lost,
                                     .on_hopeless = on_hopeless,
                                     .is_busy = is_busy};
    int rc = sk_super_open(loop, &sc, &e->super, err);
    if (rc != 0) {
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

void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret)
{
    memset(ret, 0, sizeof *ret);
    sk_super_status(e->super, ret);
    ret->n_waiting = e->fair.n_waiting + n_held(e);
    ret->n_running = e->n_sent - n_held(e);
    ret->journal_tok = e->journal_tok;
    ret->hello = e->hello;
    ret->stats = totals(e);
}

int sk_engine_dump_flight(struct sk_engine *e, const char *why, char *ret_path, struct sk_err *err)
{
    return sk_super_dump_flight(e->super, why, ret_path, err);
}

static void finish_close(struct sk_engine *e)
{
    if (--e->n_closing > 0)
        return;
    void (*done)(void *arg) = e->done;
    void *done_arg = e->done_arg;
    sk_assert(TAILQ_EMPTY(&e->jobs)); /* each was ended before and belongs to its owner */
    sk_free(e->sendings);
    sk_buf_done(&e->scratch);
    sk_free(e);
    if (done)
        done(done_arg);
}

static void on_super_closed(void *arg)
{
    finish_close(arg);
}

static void on_timer_closed(uv_handle_t *h)
{
    finish_close(h->data);
}

void sk_engine_close(struct sk_engine *e, void (*done)(void *arg), void *arg)
{
    e->done = done;
    e->done_arg = arg;
    e->n_closing = 2;
    sk_super_close(e->super, on_super_closed, e);
    uv_close((uv_handle_t *)&e->due, on_timer_closed);
    sk_peek_lost(e);
    sk_suspect_requeue(e, NULL, 0);
    sk_suspect_end_all(e, SK_EUNAVAIL);
}
