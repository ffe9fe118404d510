#include "server/api/ask.h"

#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/reply.h"

struct ask {
    struct sk_server *server;
    struct sk_http_req *req;
    sk_ask_put *put;
    uint32_t i_engine; /* that is asked */
    bool waiting;
    struct sk_buf b;
};

static void on_view(void *arg, const struct sk_wire_view *v);

/* Asks the next engine that can be asked; after the last the answer is whole. */
static void ask(struct ask *a)
{
    for (; a->i_engine < a->server->n_engine; a->i_engine++) {
        struct sk_engine *e = a->server->engines[a->i_engine];
        sk_buf_str(&a->b, a->i_engine ? "," : "");
        a->waiting = true;
        if (sk_engine_peek(e, NULL, 0, 0, on_view, a) == 0)
            return;
        a->waiting = false;
        a->put(&a->b, e, NULL);
    }
    sk_buf_str(&a->b, "]}");
    sk_reply_send(a->req, 200, &a->b);
}

static void on_view(void *arg, const struct sk_wire_view *v)
{
    struct ask *a = arg;
    a->waiting = false;
    a->put(&a->b, a->server->engines[a->i_engine++], v);
    ask(a);
}

static void on_gone(void *user)
{
    struct ask *a = user;
    if (a->waiting)
        sk_engine_unpeek(a->server->engines[a->i_engine], a);
    a->waiting = false;
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
    *a = (struct ask){.server = c->server, .req = c->req, .put = put, .b = *b};
    sk_http_set(c->req, a, on_gone, on_free);
    ask(a);
}
