#include "server/api/ask.h"

#include <string.h>
#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/reply.h"

struct ask {
    struct sk_server *server;
    struct sk_http_req *req;
    sk_ask_put *put;
    struct sk_engine *engines[SK_SERVER_MAX_ENGINES]; /* at the start: their order may change meanwhile */
    uint32_t n_engine, i_engine;                      /* i_engine: that comes next */
    bool has_one;                                     /* something was put */
    struct sk_engine *asked;                          /* NULL = none just now */
    struct sk_buf b;
};

static void on_view(void *arg, const struct sk_wire_view *v);

/* It may be gone by now. */
static bool is_there(const struct sk_server *s, const struct sk_engine *e)
{
    bool any = false;
    for (uint32_t i = 0; i < s->n_engine; i++)
        any |= s->engines[i] == e;
    return any;
}

/* Asks the next engine that can be asked; after the last the answer is whole. */
static void ask(struct ask *a)
{
    for (; a->i_engine < a->n_engine; a->i_engine++) {
        struct sk_engine *e = a->engines[a->i_engine];
        if (!is_there(a->server, e))
            continue;
        sk_buf_str(&a->b, a->has_one ? "," : "");
        a->has_one = true;
        a->asked = e;
        if (sk_engine_peek(e, NULL, 0, 0, on_view, a) == 0)
            return;
        a->asked = NULL;
        a->put(&a->b, e, NULL);
    }
    sk_buf_str(&a->b, "]}");
    sk_reply_send(a->req, 200, &a->b);
}

static void on_view(void *arg, const struct sk_wire_view *v)
{
    struct ask *a = arg;
    struct sk_engine *e = a->asked;
    a->asked = NULL;
    a->put(&a->b, e, v);
    a->i_engine++;
    ask(a);
}

static void on_gone(void *user)
{
    struct ask *a = user;
    if (a->asked)
        sk_engine_unpeek(a->asked, a);
    a->asked = NULL;
}

static void on_free(void *user)
{
    struct ask *a = user;
    sk_buf_done(&a->b);
    sk_free(a);
}

void sk_ask_engines(const struct sk_call *c, struct sk_buf *b, sk_ask_put *put)
{
    struct ask *a = sk_malloc(sizeof *a);
    struct sk_err err;
    if (!a) {
        sk_buf_done(b);
        sk_err_set(&err, SK_ENOMEM, NULL, "out of memory");
        sk_reply_send_error(c->req, &err);
        return;
    }
    *a = (struct ask){.server = c->server, .req = c->req, .put = put, .n_engine = c->server->n_engine, .b = *b};
    memcpy(a->engines, c->server->engines, sizeof a->engines);
    sk_http_set(c->req, a, on_gone, on_free);
    ask(a);
}
