#include "server/api/route.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/auth.h"
#include "server/api/gen.h"
#include "server/api/reply.h"

enum { MAX_EVENT_BYTES = 64 << 20, MAX_ALLOW_BYTES = 64 };

/* A method in front of a path; a path that ends in a slash stands for all that begin with it. */
static const struct route {
    const char *method, *path;
    bool open; /* needs no key */
    void (*handle)(struct sk_server *s, struct sk_http_req *r);
} routes[] = {
    {"POST", "/v1/completions", false, sk_api_completions},
    {"POST", "/v1/chat/completions", false, sk_api_chat},
    {"GET", "/v1/models", false, sk_api_models},
    {"GET", "/v1/models/", false, sk_api_model},
    {"POST", "/tokenize", false, sk_api_tokenize},
    {"POST", "/detokenize", false, sk_api_detokenize},
    {"GET", "/version", false, sk_api_version},
    {"GET", "/health", true, sk_api_health},
    {"GET", "/ready", true, sk_api_ready},
    {"POST", "/v1/embeddings", false, sk_api_not_there},
    {"POST", "/v1/responses", false, sk_api_not_there},
    {"POST", "/v1/messages", false, sk_api_not_there},
};
static const size_t n_route = sizeof routes / sizeof routes[0];

/* --- what requests share --- */

/* U+FDD0 in a string or key; json.c bounds the depth. */
static bool has_guard(const struct cJSON *v)
{
    const char *s = sk_json_str(v), *key = sk_json_key(v);
    if ((s && strstr(s, SK_TOKEN_GUARD)) || (key && strstr(key, SK_TOKEN_GUARD)))
        return true;
    for (const struct cJSON *e = sk_json_first(v); e; e = sk_json_next(e)) {
        if (has_guard(e))
            return true;
    }
    return false;
}

static int refuse_guard(const struct cJSON *body, struct sk_err *err)
{
    for (const struct cJSON *v = sk_json_first(body); v; v = sk_json_next(v)) {
        if (has_guard(v))
            return sk_err_set(err, SK_EINVAL, sk_json_key(v),
                              "%.40s has the non-character U+FDD0 in it, which is not allowed.", sk_json_key(v));
    }
    return 0;
}

/* While the only model loads, nobody can say which names it has. */
static int find_model(struct sk_server *s, const char *name, struct sk_model **ret, struct sk_err *err)
{
    struct sk_model *m = sk_server_model(s, name);
    for (uint32_t i = 0; !m && i < s->n_model; i++)
        m = s->models[i].name[0] ? NULL : &s->models[i];
    if (!m)
        return sk_err_set(err, SK_EMODEL, "model", "The model `%.200s` does not exist.", name ? name : "");
    if (!m->loaded) {
        int rc = sk_api_engine_ready(m, err);
        return rc != 0 ? rc : sk_err_set(err, SK_EUNAVAIL, NULL, "The model is not ready.");
    }
    *ret = m;
    return 0;
}

int sk_api_body(struct sk_server *s, struct sk_http_req *r, struct cJSON **ret_body, struct sk_model **ret_model,
                struct sk_err *err)
{
    size_t n;
    const char *p = sk_http_body(r, &n);
    const char *name = NULL;
    struct cJSON *body = NULL;
    if (s->draining)
        return sk_err_set(err, SK_EUNAVAIL, NULL, "The server is stopping.");
    int rc = sk_json_parse(p ? p : "", n, (size_t)s->conf->max_body, &body, err);
    if (rc == 0 && sk_json_type(body) != SK_JSON_OBJECT)
        rc = sk_err_set(err, SK_ETYPE, NULL, "The body must be a JSON object, not %s.", sk_json_typename(body));
    if (rc == 0)
        rc = refuse_guard(body, err);
    if (rc == 0)
        rc = sk_json_get_str(body, "model", &name, err);
    if (rc == 0)
        rc = find_model(s, name, ret_model, err);
    if (rc == 0)
        *ret_body = body;
    else
        sk_json_free(body);
    return rc;
}

/* --- the way in --- */

static bool matches(const struct route *t, const char *path)
{
    size_t n = strlen(t->path);
    return t->path[n - 1] == '/' ? strncmp(path, t->path, n) == 0 : strcmp(path, t->path) == 0;
}

/* HEAD is a GET whose body stays here. */
static bool takes(const struct route *t, const char *method)
{
    return strcmp(method, t->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(t->method, "GET") == 0);
}

static const struct route *find(const char *path, const char *method, char allow[MAX_ALLOW_BYTES])
{
    const struct route *found = NULL;
    size_t n = 0;
    allow[0] = '\0';
    for (size_t i = 0; i < n_route; i++) {
        const struct route *t = &routes[i];
        if (!matches(t, path))
            continue;
        n += (size_t)snprintf(allow + n, MAX_ALLOW_BYTES - n, "%s%s", t->method,
                              strcmp(t->method, "GET") == 0 ? ", HEAD, " : ", ");
        if (takes(t, method))
            found = t;
    }
    if (n > 0)
        snprintf(allow + n, MAX_ALLOW_BYTES - n, "OPTIONS");
    return found;
}

static int check_key(const struct sk_api *api, const struct sk_http_req *r, struct sk_err *err)
{
    const char *name;
    return api->auth ? sk_auth_check(api->auth, sk_http_header(r, "Authorization"), &name, err) : 0;
}

static void refuse_method(struct sk_http_req *r, const char *method, const char *allow)
{
    const struct sk_http_headers h = {.allow = allow};
    struct sk_err err;
    struct sk_buf b;
    sk_err_set(&err, SK_EMETHOD, NULL, "%.20s is not a method of %.200s: %s are.", method, sk_http_path(r), allow);
    sk_buf_init(&b, 16 << 10);
    sk_reply_error(&b, &err);
    sk_http_reply(r, sk_err_http(SK_EMETHOD), &h, b.failed ? "" : b.p, b.failed ? 0 : b.n);
    sk_buf_done(&b);
}

void sk_api_request(void *arg, struct sk_http_req *r)
{
    struct sk_server *s = arg;
    const char *method = sk_http_method(r), *path = sk_http_path(r);
    char allow[MAX_ALLOW_BYTES];
    struct sk_err err = {0};
    const struct route *t = find(path, method, allow);

    if (allow[0] && strcmp(method, "OPTIONS") == 0) {
        const struct sk_http_headers h = {.allow = allow};
        sk_http_reply(r, 204, &h, "", 0);
        return;
    }
    int rc = 0;
    if (!s->api) /* closed: what still comes in on open connections */
        rc = sk_err_set(&err, SK_EUNAVAIL, NULL, "The server is stopping.");
    else if (!t || !t->open)
        rc = check_key(s->api, r, &err);
    if (rc == 0 && !allow[0])
        rc = sk_err_set(&err, SK_ENOROUTE, NULL, "There is nothing at %.200s.", path);
    if (rc != 0)
        sk_reply_send_error(r, &err);
    else if (!t)
        refuse_method(r, method, allow);
    else
        t->handle(s, r);
}

void sk_api_not_there(struct sk_server *s, struct sk_http_req *r)
{
    struct sk_err err;
    sk_err_set(&err, SK_ENOTIMPL, NULL, "%.200s is not implemented by this server.", sk_http_path(r));
    sk_reply_send_error(r, &err);
}

/* --- life --- */

int sk_api_open(struct sk_server *s, struct sk_err *err)
{
    struct sk_api *api = sk_calloc(1, sizeof *api);
    if (!api)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_buf_init(&api->event, MAX_EVENT_BYTES);
    int rc = s->conf->api_key_file[0] ? sk_auth_open(s->conf->api_key_file, &api->auth, err) : 0;
    if (rc != 0) {
        sk_free(api);
        return rc;
    }
    s->api = api;
    return 0;
}

void sk_api_close(struct sk_server *s)
{
    struct sk_api *api = s->api;
    while (api->gens)
        sk_gen_detach(api->gens);
    sk_auth_free(api->auth);
    sk_buf_done(&api->event);
    sk_free(api);
    s->api = NULL;
}
