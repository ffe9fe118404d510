/* The engine's replicas: GET /admin/replicas shows them, POST /admin/replicas/restart replaces all of them, one after
 * the other, POST /admin/replicas/N/restart one, and POST /admin/replicas/N/drain takes one out until its restart. What
 * was begun is answered at once; how it went is in the GET's answer, and in the log. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/log.h"
#include "server/api/api.h"
#include "server/api/reply.h"

enum { MAX_ANSWER_BYTES = 64 << 10 };

static void put_str(struct sk_buf *b, const char *name, const char *s)
{
    sk_buf_fmt(b, ",\"%s\":", name);
    sk_json_quote(b, s, strlen(s));
}

static void put_replica(struct sk_buf *b, const struct sk_engine *e, uint32_t i)
{
    static const char *const states[] = {
        [SK_ENGINE_BUILDING] = "building", [SK_ENGINE_STARTING] = "starting", [SK_ENGINE_READY] = "ready",
        [SK_ENGINE_BACKOFF] = "backoff",   [SK_ENGINE_FAILED] = "failed",     [SK_ENGINE_STOPPING] = "stopping",
        [SK_ENGINE_STOPPED] = "none"};
    struct sk_replica_view v;
    sk_engine_replica(e, i, &v);
    const struct sk_engine_status *st = &v.status;
    sk_buf_fmt(b, "{\"replica\":%u,\"state\":\"%s\"", i, v.is_drained ? "drained" : states[st->state]);
    put_str(b, "text", st->text);
    sk_buf_fmt(b,
               ",\"pid\":%d,\"running\":%u,\"waiting\":%u,\"outstanding_tokens\":%" PRIu64 ",\"prefix_routed\":%" PRIu64
               ",\"restarts\":%u",
               st->pid, st->n_running, st->n_waiting, v.todo_tok, v.n_routed, st->restarts);
    put_str(b, "digest", st->hello.digest);
    put_str(b, "isa", st->hello.isa);
    sk_buf_char(b, '}');
}

/* While a model is replaced there are two engines, of which the second comes, or goes. */
static void put_engine(struct sk_buf *b, const struct sk_engine *e)
{
    const char *why;
    bool is_rolling = sk_engine_is_rolling(e, &why);
    sk_buf_fmt(b, "{\"restarting\":%s", is_rolling ? "true" : "false");
    put_str(b, "last_error", why);
    put_str(b, "dir", sk_engine_dir(e));
    sk_buf_str(b, ",\"replicas\":[");
    for (uint32_t i = 0; i < sk_engine_n_replica(e); i++) {
        sk_buf_str(b, i ? "," : "");
        put_replica(b, e, i);
    }
    sk_buf_str(b, "]}");
}

static void put_all(struct sk_buf *b, const struct sk_server *s)
{
    sk_buf_fmt(b, "{\"replacing_model\":%s,\"engines\":[", s->n_engine > 1 ? "true" : "false");
    for (uint32_t i = 0; i < s->n_engine; i++) {
        sk_buf_str(b, i ? "," : "");
        put_engine(b, s->engines[i]);
    }
    sk_buf_str(b, "]}");
}

static void answer(const struct sk_call *c, int rc, const struct sk_err *err)
{
    struct sk_buf b;
    if (rc != 0) {
        sk_reply_send_error(c->req, err);
        return;
    }
    sk_buf_init(&b, MAX_ANSWER_BYTES);
    put_all(&b, c->server);
    sk_reply_send(c->req, 200, &b);
}

void sk_api_admin_replicas(const struct sk_call *c)
{
    answer(c, 0, NULL);
}

/* "restart", "3/restart", "3/drain": which, and what. */
static int read_path(const char *s, uint32_t *ret_i, const char **ret_verb, struct sk_err *err)
{
    char *end;
    const char *verb = s;
    unsigned long i = SK_ENGINE_ALL;
    if (*s >= '0' && *s <= '9') {
        i = strtoul(s, &end, 10);
        verb = *end == '/' ? end + 1 : "";
        i = i < SK_ENGINE_ALL ? i : SK_ENGINE_ALL + 1; /* no such number, and not all */
    }
    bool known = strcmp(verb, "restart") == 0 || (i != SK_ENGINE_ALL && strcmp(verb, "drain") == 0);
    if (!known)
        return sk_err_set(err, SK_ENOROUTE, NULL,
                          "There is nothing at /admin/replicas/%.100s: restart, N/restart and N/drain are.", s);
    *ret_i = (uint32_t)i;
    *ret_verb = verb;
    return 0;
}

void sk_api_admin_replica(const struct sk_call *c)
{
    struct sk_server *s = c->server;
    struct sk_err err = {0};
    const char *verb = NULL;
    uint32_t i = 0;
    int rc = read_path(sk_http_path(c->req) + strlen("/admin/replicas/"), &i, &verb, &err);
    if (rc == 0 && s->n_engine == 0)
        rc = sk_err_set(&err, SK_EUNAVAIL, NULL, "There is no engine.");
    if (rc == 0 && s->n_engine > 1)
        rc = sk_err_set(&err, SK_EBUSY, NULL, "The model is just being replaced by another one.");
    if (rc == 0)
        rc = strcmp(verb, "drain") == 0 ? sk_engine_drain(s->engines[0], i, &err)
                                        : sk_engine_restart(s->engines[0], i, &err);
    if (rc == 0)
        sk_log(SK_LOG_WARN, "%s by request id=%s key=%s", sk_http_path(c->req), sk_http_id(c->req), c->tenant->name);
    answer(c, rc, &err);
}
