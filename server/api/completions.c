/* POST /v1/completions: prompts as a text, token ids, or a list of either. */
#include <stdio.h>
#include <string.h>
#include "comm/base/json.h"
#include "server/api/gen.h"

static int take_text(struct sk_gen *g, uint32_t i, const struct cJSON *v, struct sk_err *err)
{
    const char *s = sk_json_str(v);
    if (!s)
        return sk_err_set(err, SK_ETYPE, "prompt", "prompt[%u] is %s, but prompt[0] is a string.", i,
                          sk_json_typename(v));
    size_t n = strlen(s);
    if (n == 0)
        return sk_err_set(err, SK_EINVAL, "prompt", "prompt must not be empty.");
    return sk_gen_encode(g, i, s, n, err);
}

static int take_ids(struct sk_gen *g, uint32_t i, const struct cJSON *v, struct sk_err *err)
{
    size_t n = sk_json_len(v), k = 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(err, SK_ETYPE, "prompt", "prompt[%u] is %s, but prompt[0] is an array of token ids.", i,
                          sk_json_typename(v));
    if (n == 0)
        return sk_err_set(err, SK_EINVAL, "prompt", "prompt must not be empty.");
    int32_t *ids = sk_malloc(n * sizeof *ids);
    if (!ids)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    g->prompts[i].ids = ids;
    g->prompts[i].n_id = n;
    for (const struct cJSON *e = sk_json_first(v); e; e = sk_json_next(e), k++) {
        int64_t id;
        if (sk_json_type(e) != SK_JSON_NUMBER)
            return sk_err_set(err, SK_ETYPE, "prompt", "prompt has %s among its token ids, at position %zu.",
                              sk_json_typename(e), k);
        if (!sk_json_is_int(e, &id) || id < 0 || id >= g->rules.n_vocab)
            return sk_err_set(err, SK_ERANGE, "prompt",
                              "prompt has the token id %.17g at position %zu; this model's are 0 to %u.",
                              sk_json_num(e), k, g->rules.n_vocab - 1);
        ids[k] = (int32_t)id;
    }
    return 0;
}

/* A list of prompts: all of them texts, or all of them token ids. */
static int take_list(struct sk_gen *g, const struct cJSON *v, struct sk_err *err)
{
    const struct cJSON *first = sk_json_first(v);
    const int64_t max = g->rules.conf->max_choices;
    size_t n = sk_json_len(v);
    if (n > (size_t)max)
        return sk_err_set(err, SK_ERANGE, "prompt", "There are %zu prompts; one request may have at most %lld.", n,
                          (long long)max);
    bool texts = sk_json_type(first) == SK_JSON_STRING;
    int rc = sk_gen_prompts(g, (uint32_t)n, err);
    const struct cJSON *e = first;
    for (uint32_t i = 0; rc == 0 && i < n; i++, e = sk_json_next(e))
        rc = texts ? take_text(g, i, e, err) : take_ids(g, i, e, err);
    return rc;
}

static int take_prompts(struct sk_gen *g, const struct cJSON *body, struct sk_err *err)
{
    const struct cJSON *v = sk_json_get(body, "prompt"), *first = sk_json_first(v);
    int rc;
    if (!v || sk_json_type(v) == SK_JSON_NULL)
        return sk_err_set(err, SK_EMISSING, "prompt", "prompt is required.");
    switch (sk_json_type(v)) {
    case SK_JSON_STRING:
        rc = sk_gen_prompts(g, 1, err);
        return rc == 0 ? take_text(g, 0, v, err) : rc;
    case SK_JSON_ARRAY:
        break;
    default:
        return sk_err_set(err, SK_ETYPE, "prompt", "prompt must be a string or an array, not %s.", sk_json_typename(v));
    }
    if (!first)
        return sk_err_set(err, SK_EINVAL, "prompt", "prompt must not be empty.");
    switch (sk_json_type(first)) {
    case SK_JSON_NUMBER:
        rc = sk_gen_prompts(g, 1, err);
        return rc == 0 ? take_ids(g, 0, v, err) : rc;
    case SK_JSON_STRING:
    case SK_JSON_ARRAY:
        return take_list(g, v, err);
    default:
        return sk_err_set(err, SK_ETYPE, "prompt",
                          "prompt[0] must be a string, a token id or an array of token ids, not %s.",
                          sk_json_typename(first));
    }
}

int sk_gen_take_completion(struct sk_gen *g, const struct cJSON *body, struct sk_err *err)
{
    int rc = take_prompts(g, body, err);
    return rc == 0 ? sk_gen_start(g, err) : rc;
}

void sk_api_completions(const struct sk_call *c)
{
    sk_gen_run(c, SK_API_COMPLETION, sk_gen_take_completion);
}
