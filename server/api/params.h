/* The fields of a generation request besides prompt and messages: JSON -> struct sk_params and its list, and what the
 * reply needs to know. Every bound is checked here; the error names the field and the limit. Fields that nobody knows
 * are passed over; what would change the answer and is not there is refused. */
#ifndef SK_API_PARAMS_H
#define SK_API_PARAMS_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/conf.h"
#include "comm/base/mem.h"
#include "comm/dir/dir.h"
#include "comm/dir/vocab.h"
#include "comm/wire/params.h"
#include "server/text/detok.h"
#include "server/text/token.h"

struct cJSON;

enum sk_api_kind { SK_API_COMPLETION, SK_API_CHAT };

struct sk_api_rules { /* what a request is checked against; all borrowed */
    const struct sk_conf *conf;
    const struct sk_gen_defaults *gen; /* values of absent fields; NULL = neutral ones */
    struct sk_token *token;            /* for bad_words */
    uint32_t n_vocab;                  /* token ids are below it */
    uint32_t max_len;                  /* prompt + answer */
    uint64_t salt;                     /* root of the tenant's prefix tree; 0 = the common one */
};

struct sk_api_params {            /* texts and lists live in the arena that was given */
    struct sk_params wire;        /* max_tokens is set by sk_api_params_fit */
    const int32_t *list;          /* sk_params_list_len(&wire) words; never NULL */
    int64_t max_tokens;           /* as asked for; -1 = not */
    const char *max_tokens_field; /* its name in the request */
    uint32_t n;                   /* answers to each prompt */
    uint32_t best_of;             /* made for each prompt, of which the n best are shown; >= n */
    uint32_t deadline_ms;         /* for the whole answer, from the request on; 0 = none */
    uint32_t ttft_ms;             /* likewise for its first token */
    bool stream, include_usage, continuous_usage;
    bool bill;                /* usage_bill */
    uint32_t stream_interval; /* tokens a chunk, at least */
    bool echo;
    int32_t
        n_top; /* alternatives to show for each token of the answer (and of the prompt with echo); -1 = no log-probs */
    int32_t n_prompt_top; /* prompt_logprobs; -1 = none */
    bool skip_special, add_special;
    bool token_ids, tokens_as_ids;
    int64_t truncate;    /* keep so many tokens of the prompt; -1 = what fits, -2 = no truncation */
    bool truncate_right; /* the end is cut off instead of the start */
    struct sk_stop stop;
    const char *request_id; /* NULL = not given */
};

/* -SK_ETYPE, -SK_ERANGE, -SK_EINVAL, -SK_EUNSUP, -SK_ENOMEM. */
int sk_api_params_parse(enum sk_api_kind kind, const struct cJSON *body, const struct sk_api_rules *rules,
                        struct sk_arena *arena, struct sk_api_params *ret, struct sk_err *err);

/* The part of a prompt of n tokens that truncate_prompt_tokens leaves: ids [*ret_from, *ret_from + *ret_n). */
void sk_api_params_truncate(const struct sk_api_params *p, uint32_t max_len, size_t n, size_t *ret_from, size_t *ret_n);

/* *ret: the parameters of a prompt of n_prompt tokens, with max_tokens set. -SK_ECTX when prompt and answer do not fit
 * in rules->max_len; -SK_ERANGE when min_tokens is beyond max_tokens. */
int sk_api_params_fit(const struct sk_api_params *p, enum sk_api_kind kind, const struct sk_api_rules *rules,
                      size_t n_prompt, struct sk_params *ret, struct sk_err *err);

#endif
