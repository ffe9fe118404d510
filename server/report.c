#include "server/report.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/clock.h"
#include "comm/base/log.h"

enum {
    STATUS_MS = 2000,
    EXTEND_MS = 30000, /* of each STATUS_MS, while starting */
    STALL_MS = 600000, /* a start that shows no progress for so long is given no more time */
    MIN_FEED_MS = 100  /* no watchdog is fed more often */
};

static void describe(const struct sk_report *r, const struct sk_engine_status *st, char *ret, size_t n)
{
    const struct sk_server *s = r->server;
    if (s->draining)
        snprintf(ret, n, "stopping: %zu requests are running", sk_server_active(s));
    else if (st->state != SK_ENGINE_READY)
        snprintf(ret, n, "%s", st->text);
    else if (st->n_running + st->n_waiting == 0)
        snprintf(ret, n, "serving %.400s", s->models[0]->name);
    else
        snprintf(ret, n, "serving %.400s: %u running, %u waiting", s->models[0]->name, st->n_running, st->n_waiting);
    for (char *p = ret; *p; p++) {
        if ((unsigned char)*p < ' ')
            *p = ' ';
    }
}

static void on_status(uv_timer_t *t);

/* Says what has changed, and comes again for as long as more can change without an event that tells us. */
static void tell(struct sk_report *r)
{
    struct sk_engine_status st;
    char now[sizeof r->said];
    uint64_t ms = uv_now(r->server->loop);
    sk_engine_status(r->server->engines[0], &st);
    describe(r, &st, now, sizeof now);
    bool is_new = strcmp(now, r->said) != 0, becomes_ready = !r->is_ready && st.state == SK_ENGINE_READY;
    if (is_new)
        r->moved_ms = ms;
    if (becomes_ready)
        r->is_ready = sk_notify_send(r->notify, "READY=1\nSTATUS=%s", now);
    else if (!r->is_ready && ms - r->moved_ms < STALL_MS)
        sk_notify_send(r->notify, "STATUS=%s\nEXTEND_TIMEOUT_USEC=%d", now, EXTEND_MS * 1000);
    else if (is_new)
        sk_notify_send(r->notify, "STATUS=%s", now);
    memcpy(r->said, now, sizeof now);
    bool goes_on = !r->is_ready || st.state != SK_ENGINE_READY || st.n_running + st.n_waiting > 0;
    if (goes_on)
        uv_timer_start(&r->status, on_status, STATUS_MS, 0);
    else
        uv_timer_stop(&r->status);
}

static void on_status(uv_timer_t *t)
{
    tell(t->data);
}

static void on_watchdog(uv_timer_t *t)
{
    struct sk_report *r = t->data;
    struct sk_engine_status st;
    const uint64_t ms = r->notify->watchdog_us / 1000;
    sk_engine_status(r->server->engines[0], &st);
    bool lives = st.state != SK_ENGINE_READY || st.making_progress;
    if (lives)
        sk_notify_send(r->notify, "WATCHDOG=1");
    else if (!r->is_quiet)
        sk_log(SK_LOG_WARN, "the engine makes no progress: the service manager's watchdog is not fed");
    r->is_quiet = !lives;
    uint64_t again_ms = lives ? ms / 2 : ms / 8;
    uv_timer_start(t, on_watchdog, again_ms > MIN_FEED_MS ? again_ms : MIN_FEED_MS, 0);
}

void sk_report_open(struct sk_report *r, struct sk_server *s, const struct sk_notify *n)
{
    *r = (struct sk_report){.server = s, .notify = n, .moved_ms = uv_now(s->loop)};
    uv_timer_init(s->loop, &r->status);
    uv_timer_init(s->loop, &r->watchdog);
    r->status.data = r->watchdog.data = r;
    if (n->fd < 0)
        return;
    tell(r);
    if (n->watchdog_us == 0)
        return;
    uv_timer_start(&r->watchdog, on_watchdog, 0, 0);
    if (n->watchdog_us / 1000 < 2 * (uint64_t)s->conf->engine_timeout)
        sk_log(SK_LOG_WARN, "the watchdog of %.0f s may end skeind before --engine-timeout, %.0f s, replaces an engine",
               (double)n->watchdog_us / 1e6, (double)s->conf->engine_timeout / 1e3);
}

void sk_report_close(struct sk_report *r)
{
    uv_close((uv_handle_t *)&r->status, NULL);
    uv_close((uv_handle_t *)&r->watchdog, NULL);
}

void sk_report_state(struct sk_report *r)
{
    if (r->notify->fd >= 0)
        tell(r);
}

void sk_report_step(struct sk_report *r)
{
    if (r->notify->fd >= 0 && !uv_is_active((uv_handle_t *)&r->status))
        uv_timer_start(&r->status, on_status, STATUS_MS, 0);
}

/* READY=1 ends a reload: before the first one there is nothing that a reload could interrupt. */
void sk_report_reloading(struct sk_report *r)
{
    if (r->is_ready)
        sk_notify_send(r->notify, "RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)sk_clock_us());
}

void sk_report_reloaded(struct sk_report *r)
{
    if (r->is_ready)
        sk_notify_send(r->notify, "READY=1\nSTATUS=%s", r->said);
}

void sk_report_stopping(struct sk_report *r, uint64_t within_ms)
{
    if (r->notify->fd < 0)
        return;
    sk_notify_send(r->notify, "STOPPING=1\nEXTEND_TIMEOUT_USEC=%llu", (unsigned long long)within_ms * 1000);
    tell(r);
}
