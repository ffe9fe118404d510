#include "server/api/params.h"

#include <ctype.h>
#include <math.h>
#include <nettle/sha2.h>
#include <stddef.h>
#include <string.h>
#include "comm/base/json.h"
#include "comm/base/rng.h"

enum {
    COMPLETION_MAX_TOKENS = 16, /* of a completion that does not say how many, as everywhere */
    MAX_TOKENS_LIMIT = 1 << 30,
    MAX_NGRAM = 1 << 20,
    MAX_REQUEST_ID_BYTES = 128,
    MAX_SALT_BYTES = 128
};
#define MAX_BIAS     100.0
#define GREEDY_BELOW 1e-5f /* vLLM's; and temperatures from there to MIN_TEMPERATURE are raised to it */
#define MIN_TEMPERATURE 0.01f
#define ABOVE_ZERO      1e-6 /* the least value of a field that must not be 0 */

struct reader {
    enum sk_api_kind kind;
    const struct cJSON *body;
    const struct sk_api_rules *rules;
    struct sk_arena *arena;
    struct sk_api_params *p;
    struct sk_err *err;
    int32_t words[SK_MAX_LIST]; /* the list while it grows */
    size_t n_word;
};

/* Present and not null. */
static const struct cJSON *field(const struct reader *x, const char *key)
{
    const struct cJSON *v = sk_json_get(x->body, key);
    return v && sk_json_type(v) != SK_JSON_NULL ? v : NULL;
}

static int no_memory(struct reader *x)
{
    return sk_err_set(x->err, SK_ENOMEM, NULL, "out of memory");
}

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

static int refuse_missing_features(struct reader *x)
{
    static const char *const keys[] = {
        "suffix",         "use_beam_search",   "structured_outputs",   "guided_json",
        "guided_regex",   "guided_choice",     "guided_grammar",       "guided_json_object",
        "prompt_embeds",  "logprob_token_ids", "repetition_detection", "thinking_token_budget",
        "logits_processors", "kv_transfer_params",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const struct cJSON *v = field(x, keys[i]);
        if (v && !asks_nothing(v))
            return sk_err_set(x->err, SK_EUNSUP, keys[i], "%s is not supported by this server.", keys[i]);
    }
    const struct cJSON *format = field(x, "response_format");
    if (!format)
        return 0;
    const char *type = sk_json_str(sk_json_get(format, "type"));
    if (!type)
        return sk_err_set(x->err, SK_ETYPE, "response_format", "response_format must be an object with a string `type`.");
    if (strcmp(type, "text") != 0)
        return sk_err_set(x->err, SK_EUNSUP, "response_format", "response_format of type `%.40s` is not supported by this server: only `text` is.",
                          type);
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
    {"epsilon_cutoff", 0, 1, offsetof(struct sk_params, epsilon_cutoff), offsetof(struct sk_gen_defaults, epsilon_cutoff)},
    {"repetition_penalty", ABOVE_ZERO, 1e6, offsetof(struct sk_params, repetition_penalty),
     offsetof(struct sk_gen_defaults, repetition_penalty)},
    {"presence_penalty", -2, 2, offsetof(struct sk_params, presence_penalty), NO_DEFAULT},
    {"frequency_penalty", -2, 2, offsetof(struct sk_params, frequency_penalty), NO_DEFAULT},
};

static int take_floats(struct reader *x)
{
    const struct sk_gen_defaults *gen = x->rules->gen;
    if (gen && gen->do_sample == 0)
        x->p->wire.temperature = 0;
    for (size_t i = 0; i < sizeof floats / sizeof floats[0]; i++) {
        const struct float_field *f = &floats[i];
        float *to = (float *)((char *)&x->p->wire + f->at);
        if (gen && f->gen_at != NO_DEFAULT && !(gen->do_sample == 0 && f->at == offsetof(struct sk_params, temperature))) {
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

static int take_ints(struct reader *x)
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

/* Beyond 2^53 neighbouring integers are the same double, which is harmless in a seed. */
static int take_seed(struct reader *x)
{
    const struct cJSON *v = field(x, "seed");
    x->p->wire.seed = sk_rng_seed();
    if (!v)
        return 0;
    double d = sk_json_num(v);
    if (sk_json_type(v) != SK_JSON_NUMBER)
        return sk_err_set(x->err, SK_ETYPE, "seed", "seed must be an integer, not %s.", sk_json_typename(v));
    if (!(d >= -0x1p63 && d <= 0x1p63) || d != floor(d))
        return sk_err_set(x->err, SK_ERANGE, "seed", "seed must be an integer from -2^63 to 2^63 - 1.");
    if (d != -1)
        x->p->wire.seed = d == 0x1p63 ? (uint64_t)INT64_MAX : (uint64_t)(int64_t)d;
    return 0;
}

/* --- how many, how long --- */

static int take_lengths(struct reader *x)
{
    struct sk_api_params *p = x->p;
    p->max_tokens = -1;
    p->max_tokens_field = "max_tokens";
    if (x->kind == SK_API_CHAT && field(x, "max_completion_tokens"))
        p->max_tokens_field = "max_completion_tokens";
    int rc = 0;
    if (x->kind == SK_API_COMPLETION)
        rc = sk_json_get_bool(x->body, "echo", &p->echo, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, p->max_tokens_field, p->echo ? 0 : 1, MAX_TOKENS_LIMIT, &p->max_tokens, x->err);
    return rc;
}

static int take_choices(struct reader *x)
{
    int64_t n = 1, best_of;
    int rc = sk_json_get_int(x->body, "n", 1, x->rules->conf->max_choices, &n, x->err);
    best_of = n;
    if (rc == 0)
        rc = sk_json_get_int(x->body, "best_of", 1, x->rules->conf->max_choices, &best_of, x->err);
    if (rc != 0)
        return rc;
    if (best_of < n)
        return sk_err_set(x->err, SK_ERANGE, "best_of", "best_of is %lld: it must not be less than n (%lld).", (long long)best_of,
                          (long long)n);
    if (best_of > n)
        return sk_err_set(x->err, SK_EUNSUP, "best_of", "best_of greater than n is not supported by this server.");
    if (n > 1 && x->p->wire.temperature == 0)
        return sk_err_set(x->err, SK_EINVAL, "n", "n must be 1 when using greedy sampling (temperature 0), got %lld.", (long long)n);
    x->p->n = (uint32_t)n;
    return 0;
}

static int take_truncation(struct reader *x)
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

static int take_answer_logprobs(struct reader *x)
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

static int take_logprobs(struct reader *x)
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

static int take_stream(struct reader *x)
{
    struct sk_api_params *p = x->p;
    int64_t interval = 1;
    int rc = sk_json_get_bool(x->body, "stream", &p->stream, x->err);
    if (rc == 0)
        rc = sk_json_get_int(x->body, "stream_interval", 1, MAX_TOKENS_LIMIT, &interval, x->err);
    if (rc != 0)
        return rc;
    p->stream_interval = (uint32_t)interval;
    const struct cJSON *options = field(x, "stream_options");
    if (!options)
        return 0;
    if (sk_json_type(options) != SK_JSON_OBJECT)
        return sk_err_set(x->err, SK_ETYPE, "stream_options", "stream_options must be an object, not %s.", sk_json_typename(options));
    if (!p->stream)
        return sk_err_set(x->err, SK_EINVAL, "stream_options", "stream_options needs `stream: true`.");
    rc = sk_json_get_bool(options, "include_usage", &p->include_usage, x->err);
    if (rc == 0)
        rc = sk_json_get_bool(options, "continuous_usage_stats", &p->continuous_usage, x->err);
    return rc;
}

/* --- stops --- */

static int add_stop(struct reader *x, const struct cJSON *v, const char **ret_str, uint32_t *ret_len)
{
    const int64_t max = x->rules->conf->max_stop_bytes;
    const char *s = sk_json_str(v);
    if (!s)
        return sk_err_set(x->err, SK_ETYPE, "stop", "stop must be a string or an array of strings; there is %s in it.", sk_json_typename(v));
    size_t n = strlen(s);
    if (n == 0 || n > (size_t)max)
        return sk_err_set(x->err, SK_ERANGE, "stop", "A stop string has %zu bytes; it must have 1 to %lld.", n, (long long)max);
    *ret_len = (uint32_t)n;
    *ret_str = sk_arena_strndup(x->arena, s, n);
    return *ret_str ? 0 : no_memory(x);
}

static int take_stop(struct reader *x)
{
    const struct cJSON *v = field(x, "stop");
    const int64_t max = x->rules->conf->max_stop;
    int rc = sk_json_get_bool(x->body, "include_stop_str_in_output", &x->p->stop.include, x->err);
    if (rc != 0 || !v)
        return rc;
    bool many = sk_json_type(v) == SK_JSON_ARRAY;
    size_t n = many ? sk_json_len(v) : 1;
    if (n > (size_t)max)
        return sk_err_set(x->err, SK_ERANGE, "stop", "There are %zu stop strings; there may be at most %lld.", n, (long long)max);
    const char **str = sk_arena_alloc(x->arena, n * sizeof *str);
    uint32_t *len = sk_arena_alloc(x->arena, n * sizeof *len);
    if (!str || !len)
        return no_memory(x);
    const struct cJSON *item = many ? sk_json_first(v) : v;
    for (size_t i = 0; rc == 0 && i < n; i++, item = sk_json_next(item))
        rc = add_stop(x, item, &str[i], &len[i]);
    x->p->stop.n = (uint32_t)n;
    x->p->stop.str = str;
    x->p->stop.len = len;
    return rc;
}

/* --- the list: stop ids, bias ids, bias values, allowed ids, bad words; in this order --- */

static int add_word(struct reader *x, const char *key, int32_t word)
{
    if (x->n_word == SK_MAX_LIST)
        return sk_err_set(x->err, SK_ERANGE, key,
                          "%s is too long: stop_token_ids, logit_bias (2 words a token), allowed_token_ids and bad_words may have %d words in all.",
                          key, SK_MAX_LIST);
    x->words[x->n_word++] = word;
    return 0;
}

static int bad_id(struct reader *x, const char *key, double id)
{
    return sk_err_set(x->err, SK_ERANGE, key, "%s has the token id %.17g; this model's are 0 to %u.", key, id, x->rules->n_vocab - 1);
}

static int take_ids(struct reader *x, const char *key, uint32_t *ret_n)
{
    const struct cJSON *v = field(x, key);
    size_t from = x->n_word;
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(x->err, SK_ETYPE, key, "%s must be an array of token ids, not %s.", key, sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        int64_t id;
        if (sk_json_type(i) != SK_JSON_NUMBER)
            return sk_err_set(x->err, SK_ETYPE, key, "%s must be an array of token ids; there is %s in it.", key, sk_json_typename(i));
        if (!sk_json_is_int(i, &id) || id < 0 || id >= x->rules->n_vocab)
            return bad_id(x, key, sk_json_num(i));
        int rc = add_word(x, key, (int32_t)id);
        if (rc != 0)
            return rc;
    }
    *ret_n = (uint32_t)(x->n_word - from);
    return 0;
}

/* The key of a logit_bias member. */
static int64_t id_of_key(const char *s)
{
    int64_t id = 0;
    if (!*s || strlen(s) > 10)
        return -1;
    for (; *s; s++) {
        if (!isdigit((unsigned char)*s))
            return -1;
        id = 10 * id + (*s - '0');
    }
    return id;
}

static int take_bias(struct reader *x)
{
    static const char key[] = "logit_bias";
    const struct cJSON *v = field(x, key);
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_OBJECT)
        return sk_err_set(x->err, SK_ETYPE, key, "logit_bias must be an object of token id and bias, not %s.", sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        int64_t id = id_of_key(sk_json_key(i));
        if (id < 0)
            return sk_err_set(x->err, SK_EINVAL, key, "logit_bias has the key `%.40s`; keys must be token ids.", sk_json_key(i));
        if (id >= x->rules->n_vocab)
            return bad_id(x, key, (double)id);
        double bias = sk_json_num(i);
        if (!(bias >= -MAX_BIAS && bias <= MAX_BIAS))
            return sk_err_set(x->err, SK_ERANGE, key, "logit_bias of token %lld must be a number from -100 to 100.", (long long)id);
        int rc = add_word(x, key, (int32_t)id);
        if (rc != 0)
            return rc;
        x->p->wire.n_bias++;
    }
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        float bias = (float)sk_json_num(i);
        int32_t bits;
        memcpy(&bits, &bias, sizeof bits);
        int rc = add_word(x, key, bits);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Adds {n, ids...} of one spelling. */
static int add_bad_word(struct reader *x, const int32_t *ids, size_t n)
{
    int rc = add_word(x, "bad_words", (int32_t)n);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_word(x, "bad_words", ids[i]);
    return rc;
}

/* A word is two token sequences, inside a text and at its start. As in vLLM the one with a space counts only where it is as long
 * as the other and begins differently: where the space is a token of its own, the sequence without it is found anyway. */
static int take_bad_word(struct reader *x, const char *word)
{
    int32_t *bare = NULL, *spaced = NULL;
    size_t n_bare = 0, n_spaced = 0;
    word += strspn(word, " \t\r\n");
    size_t n = strlen(word);
    if (n == 0)
        return sk_err_set(x->err, SK_EINVAL, "bad_words", "bad_words has an empty word in it.");
    if (n > SK_MAX_LIST * (size_t)16)
        return sk_err_set(x->err, SK_ERANGE, "bad_words", "bad_words has a word of %zu bytes; it may have %d tokens.", n, SK_MAX_LIST);
    char *text = sk_malloc(n + 1);
    if (!text)
        return no_memory(x);
    text[0] = ' ';
    memcpy(text + 1, word, n);
    int rc = sk_token_encode(x->rules->token, text + 1, n, SK_TOKEN_SPECIALS, false, n + 16, &bare, &n_bare, x->err);
    if (rc == 0)
        rc = sk_token_encode(x->rules->token, text, n + 1, SK_TOKEN_SPECIALS, false, n + 17, &spaced, &n_spaced, x->err);
    if (rc == 0 && n_bare > 0)
        rc = add_bad_word(x, bare, n_bare);
    if (rc == 0 && n_bare > 0 && n_spaced == n_bare && spaced[0] != bare[0])
        rc = add_bad_word(x, spaced, n_spaced);
    sk_free(bare);
    sk_free(spaced);
    sk_free(text);
    return rc;
}

static int take_bad_words(struct reader *x)
{
    const struct cJSON *v = field(x, "bad_words");
    size_t from = x->n_word;
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(x->err, SK_ETYPE, "bad_words", "bad_words must be an array of strings, not %s.", sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        const char *word = sk_json_str(i);
        int rc = word ? take_bad_word(x, word)
                      : sk_err_set(x->err, SK_ETYPE, "bad_words", "bad_words must be an array of strings; there is %s in it.",
                                   sk_json_typename(i));
        if (rc != 0)
            return rc;
    }
    x->p->wire.n_bad_word = (uint32_t)(x->n_word - from);
    return 0;
}

static int take_list(struct reader *x)
{
    struct sk_params *w = &x->p->wire;
    int rc = take_ids(x, "stop_token_ids", &w->n_stop_ids);
    if (rc == 0)
        rc = take_bias(x);
    if (rc == 0)
        rc = take_ids(x, "allowed_token_ids", &w->n_allowed);
    if (rc == 0 && w->n_allowed == 0 && field(x, "allowed_token_ids"))
        rc = sk_err_set(x->err, SK_EINVAL, "allowed_token_ids", "allowed_token_ids is empty: no token would be allowed.");
    if (rc == 0)
        rc = take_bad_words(x);
    if (rc != 0 || x->n_word == 0)
        return rc;
    int32_t *list = sk_arena_alloc(x->arena, x->n_word * sizeof *list);
    if (!list)
        return no_memory(x);
    memcpy(list, x->words, x->n_word * sizeof *list);
    x->p->list = list;
    return 0;
}

/* --- the rest --- */

static int take_switches(struct reader *x)
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

/* A salt keeps strangers from timing each other's prompts in the cache: so it is hashed with something that cannot be inverted. */
static int take_salt(struct reader *x)
{
    const char *salt = NULL;
    int rc = sk_json_get_str(x->body, "cache_salt", &salt, x->err);
    if (rc != 0 || !salt)
        return rc;
    size_t n = strlen(salt);
    if (n == 0 || n > MAX_SALT_BYTES)
        return sk_err_set(x->err, SK_ERANGE, "cache_salt", "cache_salt has %zu bytes; it must have 1 to %d.", n, MAX_SALT_BYTES);
    struct sha256_ctx ctx;
    uint8_t digest[SHA256_DIGEST_SIZE];
    sha256_init(&ctx);
    sha256_update(&ctx, n, (const uint8_t *)salt);
    sha256_digest(&ctx, sizeof digest, digest);
    memcpy(&x->p->wire.salt, digest, sizeof x->p->wire.salt);
    x->p->wire.salt |= 1; /* 0 is the common root */
    return 0;
}

static int take_request_id(struct reader *x)
{
    static const char sane[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    const char *id = NULL;
    int rc = sk_json_get_str(x->body, "request_id", &id, x->err);
    if (rc != 0 || !id)
        return rc;
    size_t n = strlen(id);
    if (n == 0 || n > MAX_REQUEST_ID_BYTES || strspn(id, sane) != n)
        return sk_err_set(x->err, SK_EINVAL, "request_id", "request_id must have 1 to %d characters of A-Z a-z 0-9 - _ . :", MAX_REQUEST_ID_BYTES);
    x->p->request_id = sk_arena_strndup(x->arena, id, n);
    return x->p->request_id ? 0 : no_memory(x);
}

int sk_api_params_parse(enum sk_api_kind kind, const struct cJSON *body, const struct sk_api_rules *rules, struct sk_arena *arena,
                        struct sk_api_params *ret, struct sk_err *err)
{
    /* In this order: what comes later looks at what came before (greedy at n, echo and stream at log-probs). */
    static int (*const steps[])(struct reader *) = {
        refuse_missing_features, take_floats,   take_ints,  take_seed, take_lengths,  take_stream, take_switches,
        take_logprobs,           take_truncation, take_stop, take_list, take_salt,     take_request_id,
    };
    struct sk_api_params p = {0};
    struct reader x = {.kind = kind, .body = body, .rules = rules, .arena = arena, .p = &p, .err = err};
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

int sk_api_params_fit(const struct sk_api_params *p, enum sk_api_kind kind, const struct sk_api_rules *rules, size_t n_prompt,
                      struct sk_params *ret, struct sk_err *err)
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
                          "This model's maximum context length is %u tokens. However, you requested %zu tokens (%zu in the %s, %zu in the completion). "
                          "Please reduce the length of the %s or completion.",
                          max_len, n_prompt + wanted, n_prompt, kind == SK_API_CHAT ? "messages" : "prompt", wanted,
                          kind == SK_API_CHAT ? "messages" : "prompt");
    if (p->wire.min_tokens > wanted)
        return sk_err_set(err, SK_ERANGE, "min_tokens", "min_tokens is %u: it must not be more than %s (%zu).", p->wire.min_tokens,
                          p->max_tokens_field, wanted);
    *ret = p->wire;
    ret->max_tokens = (uint32_t)wanted;
    return 0;
}
