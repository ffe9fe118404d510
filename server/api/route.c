#include "server/api/route.h"

#include <stdio.h>
#include <string.h>
#include "comm/base/mem.h"
#include "server/api/api.h"
#include "server/api/auth.h"
#include "server/api/gen.h"
#include "server/api/reply.h"
#include "server/web/web.h"

enum { MAX_EVENT_BYTES = 64 << 20, MAX_ALLOW_BYTES = 64 };

/* Who may: everybody, every key, or keys with a scope. */
enum { OPEN = 1 << 8, ANY_KEY = 0, INFERENCE = SK_SCOPE_INFERENCE, METRICS = SK_SCOPE_METRICS, ADMIN = SK_SCOPE_ADMIN };

static void not_there(const struct sk_call *c)
{
    struct sk_err err;
    sk_err_set(&err, SK_ENOTIMPL, NULL, "%.200s is not implemented by this server.", sk_http_path(c->req));
    sk_reply_send_error(c->req, &err);
}

/* A method in front of a path; a path of a name that ends in a slash stands for all that begin with it. */
static const struct route {
    const char *method, *path;
    unsigned needs;
    void (*handle)(const struct sk_call *c);
} routes[] = {
    {"POST", "/v1/completions", INFERENCE, sk_api_completions},
    {"POST", "/v1/chat/completions", INFERENCE, sk_api_chat},
    {"GET", "/v1/models", INFERENCE, sk_api_models},
    {"GET", "/v1/models/", INFERENCE, sk_api_model},
    {"POST", "/tokenize", INFERENCE, sk_api_tokenize},
    {"POST", "/detokenize", INFERENCE, sk_api_detokenize},
    {"POST", "/explain", INFERENCE, sk_api_explain},
    {"GET", "/version", ANY_KEY, sk_api_version},
    {"GET", "/health", OPEN, sk_api_health},
    {"GET", "/ready", OPEN, sk_api_ready},
    {"GET", "/readyz", OPEN, sk_api_ready},
    {"GET", "/livez", OPEN, sk_api_live},
    {"GET", "/", OPEN, sk_web_page},
    {"GET", "/web/", OPEN, sk_web_page},
    {"GET", "/metrics", METRICS, sk_api_metrics},
    {"GET", "/stats", METRICS, sk_api_stats},
    {"GET", "/admin/state", ADMIN, sk_api_admin_state},
    {"GET", "/admin/ranks", ADMIN, sk_api_admin_ranks},
    {"POST", "/admin/flight", ADMIN, sk_api_admin_flight},
    {"POST", "/admin/log", ADMIN, sk_api_admin_log},
    {"GET", "/admin/replicas", ADMIN, sk_api_admin_replicas},
    {"POST", "/admin/replicas/", ADMIN, sk_api_admin_replica},
    {"POST", "/v1/embeddings", INFERENCE, not_there},
    {"POST", "/v1/responses", INFERENCE, not_there},
    {"POST", "/v1/messages", INFERENCE, not_there},
};
static const size_t n_route = sizeof routes / sizeof routes[0];

static bool matches(const struct route *t, const char *path)
{
    size_t n = strlen(t->path);
    return n > 1 && t->path[n - 1] == '/' ? strncmp(path, t->path, n) == 0 : strcmp(path, t->path) == 0;
}

/* HEAD is a GET whose body stays here. */
static bool takes(const struct route *t, const char *method)
{
    return strcmp(method, t->method) == 0 || (strcmp(method, "HEAD") == 0 && strcmp(t->method, "GET") == 0);
}

/* *ret_there: there is something at this path, with whatever method. */
static const struct route *find(const char *path, const char *method, bool *ret_there)
{
    *ret_there = false;
    for (size_t i = 0; i < n_route; i++) {
        const struct route *t = &routes[i];
        if (!matches(t, path))
            continue;
        *ret_there = true;
        if (takes(t, method))
            return t;
    }
    return NULL;
}

static void list_methods(const char *path, char ret_allow[MAX_ALLOW_BYTES])
{
    size_t n = 0;
    for (size_t i = 0; i < n_route; i++) {
        const char *method = routes[i].method;
        if (matches(&routes[i], path))
            n += (size_t)snprintf(ret_allow + n, MAX_ALLOW_BYTES - n, "%s%s", method,
                                  strcmp(method, "GET") == 0 ? ", HEAD, " : ", ");
    }
    snprintf(ret_allow + n, MAX_ALLOW_BYTES - n, "OPTIONS");
}

/* --- the way in --- */

static void answer_options(struct sk_http_req *r)
{
    char allow[MAX_ALLOW_BYTES];
    list_methods(sk_http_path(r), allow);
    struct sk_http_headers h = {.n = 1, .more = {{"Allow", allow}}};
    if (sk_http_header(r, "Access-Control-Request-Method"))
        sk_cors_preflight(&h, allow);
    sk_http_reply(r, 204, &h, "", 0);
}

static void refuse_method(struct sk_http_req *r)
{
    char allow[MAX_ALLOW_BYTES];
    list_methods(sk_http_path(r), allow);
    const struct sk_http_headers h = {.n = 1, .more = {{"Allow", allow}}};
    struct sk_err err;
    struct sk_buf b;
    sk_err_set(&err, SK_EMETHOD, NULL, "%.20s is not a method of %.200s: %s are.", sk_http_method(r), sk_http_path(r),
               allow);
    sk_buf_init(&b, 16 << 10);
    sk_reply_error(&b, &err);
    sk_http_reply(r, sk_err_http(SK_EMETHOD), &h, b.failed ? "" : b.p, b.failed ? 0 : b.n);
    sk_buf_done(&b);
}

/* Whose is it? */
static int identify(struct sk_call *c, struct sk_err *err)
{
    struct sk_api *api = c->server->api;
    struct sk_http_peer peer;
    struct sk_auth_who who;
    sk_http_peer(c->req, &peer);
    const struct sk_auth_asked asked = {.authorization = sk_http_header(c->req, "Authorization"),
                                        .x_api_key = sk_http_header(c->req, "x-api-key"),
                                        .uid = peer.is_unix ? (int64_t)peer.uid : -1};
    int rc = sk_auth_check(api->auth, &asked, &who, err);
    if (rc != 0)
        return rc;
    c->tenant = who.tenant;
    c->scopes = who.scopes;
    return 0;
}

static int check_scope(const struct sk_call *c, const struct route *t, struct sk_err *err)
{
    static const char *const names[] = {[INFERENCE] = "inference", [METRICS] = "metrics", [ADMIN] = "admin"};
    if (t->needs == ADMIN && !c->listener->admin)
        return sk_err_set(err, SK_EFORBIDDEN, NULL,
                          "%s is served on the addresses of --admin-listen only, and this is none of them.", t->path);
    if (t->needs & ~c->scopes)
        return sk_err_set(err, SK_EFORBIDDEN, NULL, "This API key lacks the scope `%s`, which %s needs.",
                          names[t->needs], t->path);
    return 0;
}

/* To those who may not come in, what is there is not told: 401 comes before 404 and 405, and 403 last. */
void sk_api_request(void *arg, struct sk_http_req *r)
{
    const struct sk_listener *l = arg;
    struct sk_call c = {.server = l->server, .listener = l, .req = r};
    struct sk_err err = {0};
    const char *path = sk_http_path(r);
    bool there;
    const struct route *t = find(path, sk_http_method(r), &there);
    bool open = t && t->needs == OPEN;
    int rc = 0;

    if (there && strcmp(sk_http_method(r), "OPTIONS") == 0) {
        answer_options(r);
        return;
    }
    if (!c.server->api) /* closed: what still comes in on open connections */
        rc = sk_err_set(&err, SK_EUNAVAIL, NULL, "The server is stopping.");
    else if (!open)
        rc = identify(&c, &err);
    if (rc == 0 && !there)
        rc = sk_err_set(&err, SK_ENOROUTE, NULL, "There is nothing at %.200s.", path);
    if (rc == 0 && t && !open)
        rc = check_scope(&c, t, &err);
    if (rc != 0)
        sk_reply_send_error(r, &err);
    else if (!t)
        refuse_method(r);
    else
        t->handle(&c);
}

void sk_api_answered(void *arg, const struct sk_http_req *r, int status)
{
    const struct sk_listener *l = arg;
    const char *path = sk_http_path(r), *route = NULL;
    char text[16];
    for (size_t i = 0; path && i < n_route && !route; i++)
        route = matches(&routes[i], path) ? routes[i].path : NULL;
    snprintf(text, sizeof text, "%d", status);
    sk_metric_add(l->server->metrics, SK_METRIC_HTTP_REQUESTS, 1, route ? route : "other", text);
}

/* --- life --- */

/* The keys of a configuration. They are bound last, since that is seen by everybody. */
static int load_keys(struct sk_server *s, const struct sk_conf *conf, bool bind, struct sk_auth **ret,
                     struct sk_err *err)
{
    struct sk_auth *auth;
    int rc = sk_auth_open(conf->api_key_file, conf->trust_users, &auth, err);
    if (rc != 0)
        return rc;
    if (bind)
        rc = sk_auth_bind(auth, s->tenants, err);
    if (rc == 0)
        *ret = auth;
    else
        sk_auth_free(auth);
    return rc;
}

int sk_api_reload(struct sk_server *s, const struct sk_conf *conf, bool try_only, struct sk_err *err)
{
    struct sk_api *api = s->api;
    struct sk_auth *auth;
    int rc = load_keys(s, conf, !try_only, &auth, err);
    if (rc != 0) {
        if (!try_only)
            sk_auth_bind(api->auth, s->tenants, NULL); /* cannot fail: its tenants are there */
        return rc;
    }
    sk_auth_free(try_only ? auth : api->auth);
    if (!try_only)
        api->auth = auth;
    return 0;
}

int sk_api_open(struct sk_server *s, struct sk_err *err)
{
    struct sk_api *api = sk_calloc(1, sizeof *api);
    if (!api)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    sk_buf_init(&api->event, MAX_EVENT_BYTES);
    int rc = load_keys(s, s->conf, true, &api->auth, err);
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
