/* Reading a request's fields one group after the other: what params.c and params_list.c share. */
#ifndef SK_PARAMS_READ_H
#define SK_PARAMS_READ_H
#include "comm/base/json.h"
#include "server/api/params.h"

struct sk_api_reader {
    enum sk_api_kind kind;
    const struct cJSON *body;
    const struct sk_api_rules *rules;
    struct sk_arena *arena;
    struct sk_api_params *p;
    struct sk_err *err;
};

/* A field that is present and not null; else NULL. */
static inline const struct cJSON *sk_api_field(const struct sk_api_reader *x, const char *key)
{
    const struct cJSON *v = sk_json_get(x->body, key);
    return v && sk_json_type(v) != SK_JSON_NULL ? v : NULL;
}

static inline int sk_api_no_memory(struct sk_api_reader *x)
{
    return sk_err_set(x->err, SK_ENOMEM, NULL, "out of memory");
}

/* stop, include_stop_str_in_output. */
int sk_api_take_stop(struct sk_api_reader *x);
/* stop_token_ids, logit_bias, allowed_token_ids, bad_words: the list of struct sk_params. */
int sk_api_take_list(struct sk_api_reader *x);

#endif
