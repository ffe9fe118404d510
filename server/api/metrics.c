/* GET /metrics: what is counted as it happens, and the levels as they are now. */
#include "server/metrics/metrics.h"
#include <string.h>
#include "server/api/api.h"
#include "server/api/reply.h"

enum { MAX_METRICS_BYTES = 64 << 20 };

uint32_t sk_api_n_connection(const struct sk_server *s)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->n_listener; i++)
        n += s->listeners[i].http ? sk_http_connections(s->listeners[i].http) : 0;
    return n;
}

static double n_helper_restarts(const struct sk_server *s)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < s->n_model; i++) {
        const struct sk_model *m = s->models[i];
        n += (m->tmpl ? sk_tmpl_restarts(m->tmpl) : 0) + (m->tools_tmpl ? sk_tmpl_restarts(m->tools_tmpl) : 0);
    }
    return (double)n;
}

/* "cpu/avx512" is known once an engine said hello. */
static void set_levels(const struct sk_server *s)
{
    struct sk_engine_status st;
    sk_metric_set(s->metrics, SK_METRIC_CONNECTIONS, sk_api_n_connection(s), NULL, NULL);
    sk_metric_total(s->metrics, SK_METRIC_HELPER_RESTARTS, n_helper_restarts(s), NULL, NULL);
    sk_metrics_process(s->metrics, s->started);
    for (uint32_t i = 0; i < s->n_engine; i++) {
        sk_engine_status(s->engines[i], &st);
        if (st.hello.isa[0])
            sk_metric_set(s->metrics, SK_METRIC_BUILD_INFO, 1, SK_VERSION, st.hello.isa);
    }
}

void sk_api_metrics(const struct sk_call *c)
{
    const struct sk_http_headers h = {.content_type = "text/plain; version=0.0.4; charset=utf-8"};
    struct sk_buf b;
    struct sk_err err;
    sk_buf_init(&b, MAX_METRICS_BYTES);
    set_levels(c->server);
    sk_metrics_write(c->server->metrics, &b);
    if (b.failed) {
        sk_err_set(&err, -b.failed, NULL, "The metrics cannot be written: %s.", sk_err_text(b.failed));
        sk_reply_send_error(c->req, &err);
    } else {
        sk_http_reply(c->req, 200, &h, b.p ? b.p : "", b.n);
    }
    sk_buf_done(&b);
}
