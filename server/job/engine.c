#include "server/job/engine.h"

#include <string.h>
#include "comm/base/conf.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"

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
    memset(&e->stats, 0, sizeof e->stats);
    tell_state(e);
    sk_job_pump(e);
}

static void on_frame(void *arg, const struct sk_frame *f)
{
    struct sk_engine *e = arg;
    if (f->kind == SK_FRAME_STATS) {
        e->stats = *(const struct sk_wire_stats *)f;
        return;
    }
    sk_job_take(e, (const struct sk_wire_tokens *)f);
    if (e->conf.on_step)
        e->conf.on_step(e->conf.arg);
    sk_job_pump(e);
}

static void on_lost(void *arg, bool own_fault)
{
    struct sk_engine *e = arg;
    e->stats.running = e->stats.waiting = 0;
    sk_job_requeue(e, own_fault);
    if (sk_super_state(e->super) == SK_ENGINE_FAILED)
        sk_job_fail_all(e, SK_EUNAVAIL);
    if (e->conf.on_step)
        e->conf.on_step(e->conf.arg);
}

static bool is_busy(void *arg)
{
    const struct sk_engine *e = arg;
    return e->n_sent > 0;
}

int sk_engine_open(struct uv_loop_s *loop, const struct sk_engine_conf *conf, struct sk_engine **ret,
                   struct sk_err *err)
{
    struct sk_engine *e = sk_calloc(1, sizeof *e);
    if (!e)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    e->conf = *conf;
    TAILQ_INIT(&e->jobs);
    TAILQ_INIT(&e->queue);
    sk_buf_init(&e->scratch, SK_FRAME_MAX);
    const struct sk_super_conf sc = {.conf = conf->conf,
                                     .bin_dir = conf->bin_dir,
                                     .arg = e,
                                     .on_dir = on_dir,
                                     .on_state = on_state,
                                     .on_up = on_up,
                                     .on_frame = on_frame,
                                     .on_lost = on_lost,
                                     .is_busy = is_busy};
    int rc = sk_super_open(loop, &sc, &e->super, err);
    if (rc != 0) {
        sk_free(e);
        return rc;
    }
    *ret = e;
    return 0;
}

void sk_engine_status(const struct sk_engine *e, struct sk_engine_status *ret)
{
    memset(ret, 0, sizeof *ret);
    sk_super_status(e->super, ret);
    uint32_t queued = e->stats.waiting < e->n_sent ? e->stats.waiting : e->n_sent;
    ret->n_waiting = e->n_waiting + queued;
    ret->n_running = e->n_sent - queued;
    ret->hello = e->hello;
    ret->stats = e->stats;
}

static void on_super_closed(void *arg)
{
    struct sk_engine *e = arg;
    void (*done)(void *arg) = e->done;
    void *done_arg = e->done_arg;
    sk_assert(TAILQ_EMPTY(&e->jobs)); /* each was ended before and belongs to its owner */
    sk_free(e->sendings);
    sk_buf_done(&e->scratch);
    sk_free(e);
    if (done)
        done(done_arg);
}

void sk_engine_close(struct sk_engine *e, void (*done)(void *arg), void *arg)
{
    e->done = done;
    e->done_arg = arg;
    sk_super_close(e->super, on_super_closed, e);
    sk_job_requeue(e, false);
    sk_job_fail_all(e, SK_EUNAVAIL);
}
