#include "server/api/params.h"

#include <stddef.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/rng.h"
#include "server/api/auth.h"
#include "server/api/params_read.h"

enum {
    COMPLETION_MAX_TOKENS = 16, /* of a completion that does not say how many, as everywhere */
    MAX_TOKENS_LIMIT = 1 << 30,
    MAX_DEADLINE_MS = 24 * 3600 * 1000,
    MAX_NGRAM = 1 << 20,
    MAX_REQUEST_ID_BYTES = 128,
    MAX_SALT_BYTES = 128
};
#define GREEDY_BELOW    1e-5f /* vLLM's; and temperatures from there to MIN_TEMPERATURE are raised to it */
#define MIN_TEMPERATURE 0.01f
#define ABOVE_ZERO      1e-6 /* the least value of a field that must not be 0 */

/* --- what is not there --- */

/* Values that ask for nothing: false, "", [] and {}. */
static bool asks_nothing(const struct cJSON *v)
{
    switch (sk_json_type(v)) {
    case SK_JSON_BOOL:
        return !sk_json_is_true(v);
    case SK_JSON_STRING:
        return sk_json_str(v)[0] == '\0';
    case SK_JSON_ARRAY:
    case SK_JSON_OBJECT:
        return sk_json_len(v) == 0;
    default:
        return false;
    }
}

static int refuse_missing_features(struct sk_api_reader *x)
{
    static const char *const keys[] = {
        "suffix",
        "use_beam_search",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "guided_json_object",
        "prompt_embeds",
        "logprob_token_ids",
        "repetition_detection",
        "thinking_token_budget",
        "logits_processors",
        "kv_transfer_params",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct cJSON *v = sk_api_field(x, keys[i]);
        if (v && !asks_nothing(v))
            return sk_err_set(x->err, SK_EUNSUP, keys[i], "%s is not supported by this server.", keys[i]);
    }
    const struct cJSON *format = sk_api_field(x, "response_format");
    if (!format)
        return 0;
    const char *type = sk_json_str(sk_json_get(format, "type"));
    if (!type)
        return sk_err_set(x->err, SK_ETYPE, "response_format",
                          "response_format must be an object with a string `type`.");
    if (strcmp(type, "text") != 0)
        return sk_err_set(x->err, SK_EUNSUP, "response_format",
                          "response_format of type `%.40s` is not supported by this server: only `text` is.", type);
    return 0;
}

/* --- numbers --- */

#define NO_DEFAULT SIZE_MAX

static const struct float_field {
    const char *key;
    double min, max;
    size_t at;     /* in struct sk_params */
    size_t gen_at; /* in struct sk_gen_defaults */
} floats[] = {
    {"temperature", 0, 2, offsetof(struct sk_params, temperature), offsetof(struct sk_gen_defaults, temperature)},
    {"top_p", ABOVE_ZERO, 1, offsetof(struct sk_params, top_p), offsetof(struct sk_gen_defaults, top_p)},
    {"min_p", 0, 1, offsetof(struct sk_params, min_p), offsetof(struct sk_gen_defaults, min_p)},
    {"typical_p", ABOVE_ZERO, 1, offsetof(struct sk_params, typical_p), offsetof(struct sk_gen_defaults, typical_p)},
    {"eta_cutoff", 0, 1, offsetof(struct sk_params, eta_cutoff), offsetof(struct sk_gen_defaults, eta_cutoff)},
    {"epsilon_cutoff", 0, 1, offsetof(struct sk_params, epsilon_cutoff),
     offsetof(struct sk_gen_defaults, epsilon_cutoff)},
    {"repetition_penalty", ABOVE_ZERO, 1e6, offsetof(struct sk_params, repetition_penalty),
     offsetof(struct sk_gen_defaults, repetition_penalty)},
    {"presence_penalty", -2, 2, offsetof(struct sk_params, presence_penalty), NO_DEFAULT},
    {"frequency_penalty", -2, 2, offsetof(struct sk_params, frequency_penalty), NO_DEFAULT},
};

static int take_floats(struct sk_api_reader *x)
{
    const struct sk_gen_defaults *gen = x->rules->gen;
    if (gen && gen->do_sample == 0)
        x->p->wire.temperature = 0;
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        const struct float_field *f = &floats[i];
        float *to = (float *)((char *)&x->p->wire + f->at);
        if (gen && f->gen_at != NO_DEFAULT &&
            !(gen->do_sample == 0 && f->at == offsetof(struct sk_params, temperature))) {
            float d = *(const float *)((const char *)gen + f->gen_at);
            if (d >= f->min && d <= f->max) /* NaN is absent */
                *to = d;
        }
        double v = (double)*to;
        int rc = sk_json_get_num(x->body, f->key, f->min, f->max, &v, x->err);
        if (rc != 0)
            return rc;
        *to = (float)v;
    }
    return 0;
}

/* Greedy is the argmax after masks, bias and penalties: whatever cuts the distribution off is moot. */
static void settle_temperature(struct sk_params *p)
{
    if (p->temperature < GREEDY_BELOW) {
        p->temperature = 0;
        p->top_p = p->typical_p = 1;
        p->min_p = p->eta_cutoff = p->epsilon_cutoff = 0;
        p->top_k = 0;
    } else if (p->temperature < MIN_TEMPERATURE) {
        p->temperature = MIN_TEMPERATURE;
    }
}

static int take_ints(struct sk_api_reader *x)
{
    const struct sk_gen_defaults *gen = x->rules->gen;
    struct sk_params *w = &x->p->wire;
    int64_t top_k = gen && gen->top_k > 0 ? gen->top_k : 0;
    int64_t ngram = gen && gen->no_repeat_ngram > 0 && gen->no_repeat_ngram <= MAX_NGRAM ? gen->no_repeat_ngram : 0;
    int64_t min_tokens = 0, priority = 0;
    int rc = sk_json_get_int(x->body, "top_k", -1, INT32_MAX, &top_k, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "no_repeat_ngram_size", 0, MAX_NGRAM, &ngram, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "min_tokens", 0, MAX_TOKENS_LIMIT, &min_tokens, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "priority", INT32_MIN, INT32_MAX, &priority, x->err);
    if (rc != 0)
        return rc;
    w->top_k = top_k < 0 ? 0 : (int32_t)top_k;
    w->no_repeat_ngram = (int32_t)ngram;
    w->min_tokens = (uint32_t)min_tokens;
    w->priority = (int32_t)priority;
    return 0;
}

/* -1 is no seed, as in clients that cannot leave a field out. */
static int take_seed(struct sk_api_reader *x)
{
    const struct cJSON *v = sk_api_field(x, "seed");
    int64_t seed;
    x->p->wire.seed = sk_rng_seed();
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_NUMBER)
        return sk_err_set(x->err, SK_ETYPE, "seed", "seed must be an integer, not %s.", sk_json_typename(v));
    if (!sk_json_is_int(v, &seed))
        return sk_err_set(x->err, SK_ERANGE, "seed", "seed must be an integer from -2^63 to 2^63 - 1.");
    if (seed != -1)
        x->p->wire.seed = (uint64_t)seed;
    return 0;
}

/* --- how many, how long --- */

static int take_lengths(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    p->max_tokens = -1;
    p->max_tokens_field = "max_tokens";
    if (x->kind == SK_API_CHAT && sk_api_field(x, "max_completion_tokens"))
        p->max_tokens_field = "max_completion_tokens";
    int rc = 0;
    if (x->kind == SK_API_COMPLETION)
        rc = sk_json_get_bool(x->body, "echo", &p->echo, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, p->max_tokens_field, p->echo ? 0 : 1, MAX_TOKENS_LIMIT, &p->max_tokens, x->err);
    return rc;
}

/* best_of belongs to the older endpoint. Its candidates are compared by their log-probs, so these are asked for. */
static int take_best_of(struct sk_api_reader *x, int64_t n)
{
    struct sk_api_params *p = x->p;
    int64_t best_of = n;
    if (!sk_api_field(x, "best_of"))
        return 0;
    if (x->kind == SK_API_CHAT)
        return sk_err_set(x->err, SK_EUNSUP, "best_of", "best_of is not a field of chat completions.");
    int rc = sk_json_get_int(x->body, "best_of", 1, x->rules->conf->max_choices, &best_of, x->err);
    if (rc != 0)
        return rc;
    if (best_of < n)
        return sk_err_set(x->err, SK_ERANGE, "best_of", "best_of is %lld: it must not be less than n (%lld).",
                          (long long)best_of, (long long)n);
    if (best_of > n && p->stream)
        return sk_err_set(x->err, SK_EINVAL, "best_of", "best_of (%lld) greater than n (%lld) cannot be streamed.",
                          (long long)best_of, (long long)n);
    if (best_of > 1 && p->wire.temperature == 0)
        return sk_err_set(x->err, SK_EINVAL, "best_of",
                          "best_of must be 1 when using greedy sampling (temperature 0), got %lld.",
                          (long long)best_of);
    p->best_of = (uint32_t)best_of;
    if (best_of > n && p->wire.n_logprobs < 0)
        p->wire.n_logprobs = 0;
    return 0;
}

static int take_choices(struct sk_api_reader *x)
{
    int64_t n = 1;
    int rc = sk_json_get_int(x->body, "n", 1, x->rules->conf->max_choices, &n, x->err);
    if (rc != 0)
        return rc;
    if (n > 1 && x->p->wire.temperature == 0)
        return sk_err_set(x->err, SK_EINVAL, "n", "n must be 1 when using greedy sampling (temperature 0), got %lld.",
                          (long long)n);
    x->p->n = x->p->best_of = (uint32_t)n;
    return take_best_of(x, n);
}

static int take_deadlines(struct sk_api_reader *x)
{
    int64_t deadline = 0, ttft = 0;
    int rc = sk_json_get_int(x->body, "deadline_ms", 1, MAX_DEADLINE_MS, &deadline, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "ttft_ms", 1, MAX_DEADLINE_MS, &ttft, x->err);
    x->p->deadline_ms = (uint32_t)deadline;
    x->p->ttft_ms = (uint32_t)ttft;
    return rc;
}

static int take_truncation(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    const char *side = "left";
    p->truncate = -2;
    int rc = sk_json_get_int(x->body, "truncate_prompt_tokens", -1, MAX_TOKENS_LIMIT, &p->truncate, x->err);
    if (rc == 0)
        rc = sk_json_get_str(x->body, "truncation_side", &side, x->err);
    if (rc != 0)
        return rc;
    p->truncate_right = strcmp(side, "right") == 0;
    if (!p->truncate_right && strcmp(side, "left") != 0)
        return sk_err_set(x->err, SK_EINVAL, "truncation_side", "truncation_side must be `left` or `right`.");
    return 0;
}

/* --- log-probs --- */

static int take_answer_logprobs(struct sk_api_reader *x)
{
    int64_t n_top = -1, top = 0;
    bool wanted = false;
    const int64_t max = x->rules->conf->max_logprobs;
    int rc;
    if (x->kind == SK_API_COMPLETION) {
        rc = sk_json_get_int(x->body, "logprobs", 0, max, &n_top, x->err);
    } else {
        rc = sk_json_get_bool(x->body, "logprobs", &wanted, x->err);
        if (rc == 0)
            rc = sk_json_get_int(x->body, "top_logprobs", 0, max, &top, x->err);
        if (rc == 0 && top > 0 && !wanted)
            rc = sk_err_set(x->err, SK_EINVAL, "top_logprobs", "top_logprobs needs `logprobs: true`.");
        n_top = wanted ? top : -1;
    }
    if (rc == 0)
        x->p->n_top = (int32_t)n_top;
    return rc;
}

static int take_logprobs(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    struct sk_params *w = &p->wire;
    int64_t n_prompt_top = -1;
    int rc = take_answer_logprobs(x);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "prompt_logprobs", 0, x->rules->conf->max_logprobs, &n_prompt_top, x->err);
    if (rc != 0)
        return rc;
    if (n_prompt_top >= 0 && p->stream)
        return sk_err_set(x->err, SK_EINVAL, "prompt_logprobs", "prompt_logprobs cannot be had with stream: true.");
    p->n_prompt_top = (int32_t)n_prompt_top;
    w->n_logprobs = p->n_top;
    w->n_prompt_logprobs = p->echo && p->n_top > p->n_prompt_top ? p->n_top : p->n_prompt_top;
    if (p->max_tokens == 0 && w->n_prompt_logprobs < 0)
        w->n_prompt_logprobs = 0; /* the engine must have something to do */
    if (w->n_prompt_logprobs >= 0)
        w->flags |= SK_PARAMS_NO_CACHE;
    return 0;
}

/* --- streams --- */

static int take_stream(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    int64_t interval = 1;
    int rc = sk_json_get_bool(x->body, "stream", &p->stream, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "stream_interval", 1, MAX_TOKENS_LIMIT, &interval, x->err);
    if (rc != 0)
        return rc;
    p->stream_interval = (uint32_t)interval;
    const struct cJSON *options = sk_api_field(x, "stream_options");
    if (!options)
        return 0;
    if (sk_json_type(options) != SK_JSON_OBJECT)
        return sk_err_set(x->err, SK_ETYPE, "stream_options", "stream_options must be an object, not %s.",
                          sk_json_typename(options));
    if (!p->stream)
        return sk_err_set(x->err, SK_EINVAL, "stream_options", "stream_options needs `stream: true`.");
    rc = sk_json_get_bool(options, "include_usage", &p->include_usage, x->err);
    if (rc == 0)
        rc = sk_json_get_bool(options, "continuous_usage_stats", &p->continuous_usage, x->err);
    return rc;
}

static int take_bill(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    int rc = sk_json_get_bool(x->body, "usage_bill", &p->bill, x->err);
    if (rc == 0 && p->bill && p->stream && !p->include_usage)
        rc = sk_err_set(x->err, SK_EINVAL, "usage_bill",
                        "usage_bill in a stream needs `stream_options: {\"include_usage\": true}`.");
    return rc;
}

/* --- the rest --- */

static int take_switches(struct sk_api_reader *x)
{
    struct sk_api_params *p = x->p;
    bool ignore_eos = false;
    p->skip_special = true;
    p->add_special = x->kind == SK_API_COMPLETION;
    const struct {
        const char *key;
        bool *to;
    } switches[] = {
        {"ignore_eos", &ignore_eos},
        {"skip_special_tokens", &p->skip_special},
        {"add_special_tokens", &p->add_special},
        {"return_token_ids", &p->token_ids},
        {"return_tokens_as_token_ids", &p->tokens_as_ids},
    };
    for (size_t i = 0; i < sizeof switches / sizeof switches[0]; i++) {
        int rc = sk_json_get_bool(x->body, switches[i].key, switches[i].to, x->err);
        if (rc != 0)
            return rc;
    }
    if (ignore_eos)
        p->wire.flags |= SK_PARAMS_IGNORE_EOS;
    return 0;
}

static int take_salt(struct sk_api_reader *x)
{
    const char *salt = NULL;
    int rc = sk_json_get_str(x->body, "cache_salt", &salt, x->err);
    if (rc != 0)
        return rc;
    size_t n = salt ? strlen(salt) : 1;
    if (n == 0 || n > MAX_SALT_BYTES)
        return sk_err_set(x->err, SK_ERANGE, "cache_salt", "cache_salt has %zu bytes; it must have 1 to %d.", n,
                          MAX_SALT_BYTES);
    x->p->wire.salt = salt ? sk_auth_salt(x->rules->salt, salt) : x->rules->salt;
    return 0;
}

static int take_request_id(struct sk_api_reader *x)
{
    static const char sane[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    const char *id = NULL;
    int rc = sk_json_get_str(x->body, "request_id", &id, x->err);
    if (rc != 0 || !id)
        return rc;
    size_t n = strlen(id);
    if (n == 0 || n > MAX_REQUEST_ID_BYTES || strspn(id, sane) != n)
        return sk_err_set(x->err, SK_EINVAL, "request_id",
                          "request_id must have 1 to %d characters of A-Z a-z 0-9 - _ . :", MAX_REQUEST_ID_BYTES);
    x->p->request_id = sk_arena_strndup(x->arena, id, n);
    return x->p->request_id ? 0 : sk_api_no_memory(x);
}

int sk_api_params_parse(enum sk_api_kind kind, const struct cJSON *body, const struct sk_api_rules *rules,
                        struct sk_arena *arena, struct sk_api_params *ret, struct sk_err *err)
{
    /* In this order: what comes later looks at what came before (greedy at n, echo and stream at log-probs). */
    static int (*const steps[])(struct sk_api_reader *) = {
        refuse_missing_features, take_floats,      take_ints,        take_seed,     take_lengths,
        take_deadlines,          take_stream,      take_bill,        take_switches, take_logprobs,
        take_truncation,         sk_api_take_stop, sk_api_take_list, take_salt,     take_request_id,
    };
    static const int32_t no_words[1];
    struct sk_api_params p = {.list = no_words};
    struct sk_api_reader x = {.kind = kind, .body = body, .rules = rules, .arena = arena, .p = &p, .err = err};
    int rc = 0;
    sk_params_default(&p.wire);
    for (size_t i = 0; rc == 0 && i < sizeof steps / sizeof steps[0]; i++)
        rc = steps[i](&x);
    if (rc == 0) {
        settle_temperature(&p.wire);
        rc = take_choices(&x);
    }
    if (rc == 0)
        *ret = p;
    return rc;
}

void sk_api_params_truncate(const struct sk_api_params *p, uint32_t max_len, size_t n, size_t *ret_from, size_t *ret_n)
{
    size_t keep = n;
    if (p->truncate >= 0) {
        keep = (size_t)p->truncate;
    } else if (p->truncate == -1) {
        size_t answer = p->max_tokens < 0 ? 1 : (size_t)p->max_tokens;
        keep = answer < max_len ? max_len - answer : 0;
    }
    *ret_n = keep < n ? keep : n;
    *ret_from = p->truncate_right ? 0 : n - *ret_n;
}

int sk_api_params_fit(const struct sk_api_params *p, enum sk_api_kind kind, const struct sk_api_rules *rules,
                      size_t n_prompt, struct sk_params *ret, struct sk_err *err)
{
    const uint32_t max_len = rules->max_len;
    size_t room = n_prompt < max_len ? max_len - n_prompt : 0, wanted;
    if (p->max_tokens >= 0) {
        wanted = (size_t)p->max_tokens;
    } else {
        size_t usual = kind == SK_API_COMPLETION ? COMPLETION_MAX_TOKENS : (size_t)rules->conf->default_max_tokens;
        wanted = usual == 0 || usual > room ? room : usual;
        if (wanted == 0)
            wanted = 1;
    }
    if (n_prompt + wanted > max_len)
        return sk_err_set(err, SK_ECTX, kind == SK_API_CHAT ? "messages" : "prompt",
                          "This model's maximum context length is %u tokens. However, you requested %zu tokens (%zu in "
                          "the %s, %zu in the completion). "
                          "Please reduce the length of the %s or completion.",
                          max_len, n_prompt + wanted, n_prompt, kind == SK_API_CHAT ? "messages" : "prompt", wanted,
                          kind == SK_API_CHAT ? "messages" : "prompt");
    if (p->wire.min_tokens > wanted)
        return sk_err_set(err, SK_ERANGE, "min_tokens", "min_tokens is %u: it must not be more than %s (%zu).",
                          p->wire.min_tokens, p->max_tokens_field, wanted);
    *ret = p->wire;
    ret->max_tokens = (uint32_t)wanted;
    return 0;
}
