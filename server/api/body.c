/* The body that most POST routes share: a JSON object which names a model. */
#include <string.h>
#include "comm/base/json.h"
#include "server/api/api.h"

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
        m = s->models[i]->name[0] ? NULL : s->models[i];
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
