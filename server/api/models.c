/* What there is and how it is: models, health, version. */
#include <inttypes.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/api/api.h"
#include "server/api/reply.h"

enum { MAX_BODY_BYTES = 1 << 20 };

static void put_str(struct sk_buf *b, const char *s)
{
    sk_json_quote(b, s, strlen(s));
}

static void put_model(struct sk_buf *b, const struct sk_server *s, const struct sk_model *m, const char *id)
{
    sk_buf_str(b, "{\"id\":");
    put_str(b, id);
    sk_buf_fmt(b, ",\"object\":\"model\",\"created\":%" PRId64 ",\"owned_by\":\"skein\",\"root\":",
               m->loaded ? m->dir.created : s->started);
    put_str(b, m->name);
    sk_buf_str(b, ",\"parent\":null,\"max_model_len\":");
    if (m->loaded)
        sk_buf_fmt(b, "%u}", m->max_len);
    else
        sk_buf_str(b, "null}");
}

static bool has_name(const struct sk_model *m)
{
    return m->name[0] != '\0';
}

void sk_api_models(const struct sk_call *c)
{
    const struct sk_server *s = c->server;
    struct sk_buf b;
    bool any = false;
    sk_buf_init(&b, MAX_BODY_BYTES);
    sk_buf_str(&b, "{\"object\":\"list\",\"data\":[");
    for (uint32_t i = 0; i < s->n_model; i++) {
        const struct sk_model *m = s->models[i];
        if (!has_name(m))
            continue;
        sk_buf_str(&b, any ? "," : "");
        put_model(&b, s, m, m->name);
        for (uint32_t k = 0; k < m->n_alias; k++) {
            sk_buf_char(&b, ',');
            put_model(&b, s, m, m->aliases[k]);
        }
        any = true;
    }
    sk_buf_str(&b, "]}");
    sk_reply_send(c->req, 200, &b);
}

void sk_api_model(const struct sk_call *c)
{
    const char *id = sk_http_path(c->req) + strlen("/v1/models/");
    const struct sk_model *m = id[0] ? sk_server_model(c->server, id) : NULL;
    struct sk_err err;
    struct sk_buf b;
    if (!m) {
        sk_err_set(&err, SK_EMODEL, "model", "The model `%.200s` does not exist.", id);
        sk_reply_send_error(c->req, &err);
        return;
    }
    sk_buf_init(&b, MAX_BODY_BYTES);
    put_model(&b, c->server, m, id);
    sk_reply_send(c->req, 200, &b);
}

int sk_api_engine_ready(const struct sk_model *m, struct sk_err *err)
{
    struct sk_engine_status st;
    if (!m->engine)
        return sk_err_set(err, SK_EUNAVAIL, NULL, "The model has no engine.");
    sk_engine_status(m->engine, &st);
    if (st.state == SK_ENGINE_READY && m->loaded && !st.making_progress)
        return sk_err_set(err, SK_EUNAVAIL, NULL, "The engine makes no progress.");
    if (st.state == SK_ENGINE_READY && m->loaded)
        return 0;
    return sk_err_set(err, SK_EUNAVAIL, NULL, "The model is not ready: %s.", st.text[0] ? st.text : "starting");
}

static void answer_ok(struct sk_http_req *r)
{
    static const char ok[] = "{\"status\":\"ok\"}";
    sk_http_reply(r, 200, NULL, ok, strlen(ok));
}

static void answer_ready(const struct sk_call *c, int rc, struct sk_err *err)
{
    for (uint32_t i = 0; rc == 0 && i < c->server->n_model; i++)
        rc = sk_api_engine_ready(c->server->models[i], err);
    if (rc != 0)
        sk_reply_send_error(c->req, err);
    else
        answer_ok(c->req);
}

/* Is it in order? Also while it drains. */
void sk_api_health(const struct sk_call *c)
{
    struct sk_err err = {0};
    answer_ready(c, 0, &err);
}

/* Does it take new requests? */
void sk_api_ready(const struct sk_call *c)
{
    struct sk_err err = {0};
    int rc = c->server->draining ? sk_err_set(&err, SK_EUNAVAIL, NULL, "The server is stopping.") : 0;
    answer_ready(c, rc, &err);
}

/* Is the process there at all, whatever the engine does? */
void sk_api_live(const struct sk_call *c)
{
    answer_ok(c->req);
}

void sk_api_version(const struct sk_call *c)
{
    static const char version[] = "{\"version\":\"" SK_VERSION "\"}";
    sk_http_reply(c->req, 200, NULL, version, strlen(version));
}
