#include "server/stop.h"

#include "comm/base/log.h"
#include "server/api/route.h"
#include "server/listeners.h"

enum {
    POLL_MS = 20,
    FLUSH_MS = 1000,
    CLOSE_MS = 15000 /* what the manager is told that the rest may take; the engine's grace is the most of it */
};

static void to(struct sk_stop *s, enum sk_stop_state state)
{
    sk_assert(state == s->state + 1); /* no way back, and none is left out */
    s->state = state;
}

static void on_engine_closed(void *arg)
{
    struct sk_stop *s = arg;
    if (--s->n_engine > 0)
        return;
    s->server->n_engine = 0;
    sk_replace_done(s->replace);
    to(s, SK_STOP_STOPPED);
}

static void on_listeners_closed(void *arg)
{
    struct sk_stop *s = arg;
    s->n_engine = s->server->n_engine;
    for (uint32_t i = 0; i < s->server->n_engine; i++)
        sk_engine_close(s->server->engines[i], on_engine_closed, s);
}

static void flush(struct sk_stop *s, size_t n_active)
{
    to(s, SK_STOP_FLUSHING);
    if (n_active > 0)
        sk_log(SK_LOG_WARN, "%zu requests are ended by force", n_active);
    s->until_ms = uv_now(s->server->loop) + FLUSH_MS;
    if (s->on_closing)
        s->on_closing();
    sk_api_close(s->server);
    sk_server_run_http(s->server);
}

static void close_all(struct sk_stop *s)
{
    to(s, SK_STOP_CLOSING);
    uv_close((uv_handle_t *)&s->timer, NULL);
    sk_report_close(s->report);
    sk_replace_stop(s->replace);
    sk_listeners_close(s->server, on_listeners_closed, s);
}

static void on_timer(uv_timer_t *t)
{
    struct sk_stop *s = t->data;
    size_t n = sk_server_active(s->server);
    if (n > 0 && uv_now(s->server->loop) < s->until_ms)
        return;
    if (s->state == SK_STOP_DRAINING)
        flush(s, n);
    else
        close_all(s);
}

void sk_stop_init(struct sk_stop *s, struct sk_server *server, struct sk_report *report, struct sk_replace *replace)
{
    *s = (struct sk_stop){.server = server, .report = report, .replace = replace};
    uv_timer_init(server->loop, &s->timer);
    s->timer.data = s;
}

void sk_stop_begin(struct sk_stop *s, uint64_t drain_ms)
{
    if (s->state > SK_STOP_DRAINING)
        return;
    if (s->state == SK_STOP_RUNNING) {
        to(s, SK_STOP_DRAINING);
        s->server->draining = true;
        sk_listeners_quiesce(s->server, false);
        sk_report_stopping(s->report, drain_ms + CLOSE_MS);
    } else {
        drain_ms = 0;
    }
    s->until_ms = uv_now(s->server->loop) + drain_ms;
    uv_timer_start(&s->timer, on_timer, 0, POLL_MS);
}
