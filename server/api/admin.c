/* What operators may do: write the flight recorder out, set the log level. */
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/log.h"
#include "server/api/api.h"
#include "server/api/reply.h"

enum { MAX_PATH_BYTES = 1024, MAX_ANSWER_BYTES = 16 << 10 };

static int dump_flight(struct sk_server *s, struct sk_buf *b, struct sk_err *err)
{
    char path[MAX_PATH_BYTES];
    if (s->n_engine == 0)
        return sk_err_set(err, SK_EUNAVAIL, NULL, "There is no engine.");
    int rc = sk_engine_dump_flight(s->engines[0], "asked", path, err);
    if (rc == -SK_ENOENT) /* later there may be something */
        return sk_err_set(err, SK_EUNAVAIL, NULL,
                          "The flight recorder has nothing: no step was made yet, or --flight-plans is 0.");
    if (rc != 0)
        return rc;
    sk_buf_str(b, "{\"path\":");
    sk_json_quote(b, path, strlen(path));
    sk_buf_char(b, '}');
    return 0;
}

/* What --log-level would do at the next start, now. */
static int set_log_level(const struct sk_call *c, struct sk_buf *b, struct sk_err *err)
{
    static const char *const names[] = {"error", "warn", "info", "debug"};
    size_t n;
    const char *p = sk_http_body(c->req, &n), *level = NULL;
    struct cJSON *body = NULL;
    bool known = false;
    int rc = sk_json_parse(p ? p : "", n, (size_t)c->server->conf->max_body, &body, err);
    if (rc == 0)
        rc = sk_json_get_str(body, "level", &level, err);
    for (size_t i = 0; level && i < sizeof names / sizeof names[0]; i++)
        known = known || strcmp(level, names[i]) == 0;
    if (rc == 0 && !known)
        rc = sk_err_set(err, level ? SK_EINVAL : SK_EMISSING, "level", "level must be error, warn, info or debug.");
    if (rc == 0) {
        sk_log(SK_LOG_WARN, "log level %s from now on, by request id=%s key=%s", level, sk_http_id(c->req),
               c->tenant->name);
        sk_log_level_set(sk_log_level_of(level));
        sk_buf_fmt(b, "{\"level\":\"%s\"}", level);
    }
    sk_json_free(body);
    return rc;
}

static void answer(const struct sk_call *c, int rc, struct sk_buf *b, const struct sk_err *err)
{
    if (rc == 0) {
        sk_reply_send(c->req, 200, b);
        return;
    }
    sk_buf_done(b);
    sk_reply_send_error(c->req, err);
}

void sk_api_admin_flight(const struct sk_call *c)
{
    struct sk_buf b;
    struct sk_err err = {0};
    sk_buf_init(&b, MAX_ANSWER_BYTES);
    int rc = dump_flight(c->server, &b, &err);
    answer(c, rc, &b, &err);
}

void sk_api_admin_log(const struct sk_call *c)
{
    struct sk_buf b;
    struct sk_err err = {0};
    sk_buf_init(&b, MAX_ANSWER_BYTES);
    int rc = set_log_level(c, &b, &err);
    answer(c, rc, &b, &err);
}
