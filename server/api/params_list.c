/* Stop strings, and the fields that make up the list of words of struct sk_params. */
#include <ctype.h>
#include <string.h>
#include "server/api/params_read.h"

#define MAX_BIAS 100.0

/* --- stops --- */

static int add_stop(struct sk_api_reader *x, const struct cJSON *v, const char **ret_str, uint32_t *ret_len)
{
    const int64_t max = x->rules->conf->max_stop_bytes;
    const char *s = sk_json_str(v);
    if (!s)
        return sk_err_set(x->err, SK_ETYPE, "stop", "stop must be a string or an array of strings; there is %s in it.",
                          sk_json_typename(v));
    size_t n = strlen(s);
    if (n == 0 || n > (size_t)max)
        return sk_err_set(x->err, SK_ERANGE, "stop", "A stop string has %zu bytes; it must have 1 to %lld.", n,
                          (long long)max);
    *ret_len = (uint32_t)n;
    *ret_str = sk_arena_strndup(x->arena, s, n);
    return *ret_str ? 0 : sk_api_no_memory(x);
}

int sk_api_take_stop(struct sk_api_reader *x)
{
    const struct cJSON *v = sk_api_field(x, "stop");
    const int64_t max = x->rules->conf->max_stop;
    int rc = sk_json_get_bool(x->body, "include_stop_str_in_output", &x->p->stop.include, x->err);
    if (rc != 0 || !v)
        return rc;
    bool many = sk_json_type(v) == SK_JSON_ARRAY;
    size_t n = many ? sk_json_len(v) : 1;
    if (n > (size_t)max)
        return sk_err_set(x->err, SK_ERANGE, "stop", "There are %zu stop strings; there may be at most %lld.", n,
                          (long long)max);
    const char **str = sk_arena_alloc(x->arena, n * sizeof *str);
    uint32_t *len = sk_arena_alloc(x->arena, n * sizeof *len);
    if (!str || !len)
        return sk_api_no_memory(x);
    const struct cJSON *item = many ? sk_json_first(v) : v;
    for (size_t i = 0; rc == 0 && i < n; i++, item = sk_json_next(item))
        rc = add_stop(x, item, &str[i], &len[i]);
    x->p->stop.n = (uint32_t)n;
    x->p->stop.str = str;
    x->p->stop.len = len;
    return rc;
}

/* --- the list: stop ids, bias ids, bias values, allowed ids, bad words; in this order --- */

struct list {
    struct sk_api_reader *x;
    size_t n_word;
    int32_t words[SK_MAX_LIST];
};

static int add_word(struct list *l, const char *key, int32_t word)
{
    if (l->n_word == SK_MAX_LIST)
        return sk_err_set(l->x->err, SK_ERANGE, key,
                          "%s is too long: stop_token_ids, logit_bias (2 words a token), allowed_token_ids and "
                          "bad_words may have %d words in all.",
                          key, SK_MAX_LIST);
    l->words[l->n_word++] = word;
    return 0;
}

static int bad_id(struct list *l, const char *key, double id)
{
    return sk_err_set(l->x->err, SK_ERANGE, key, "%s has the token id %.17g; this model's are 0 to %u.", key, id,
                      l->x->rules->n_vocab - 1);
}

static int take_ids(struct list *l, const char *key, uint32_t *ret_n)
{
    const struct cJSON *v = sk_api_field(l->x, key);
    size_t from = l->n_word;
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(l->x->err, SK_ETYPE, key, "%s must be an array of token ids, not %s.", key,
                          sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        int64_t id;
        if (sk_json_type(i) != SK_JSON_NUMBER)
            return sk_err_set(l->x->err, SK_ETYPE, key, "%s must be an array of token ids; there is %s in it.", key,
                              sk_json_typename(i));
        if (!sk_json_is_int(i, &id) || id < 0 || id >= l->x->rules->n_vocab)
            return bad_id(l, key, sk_json_num(i));
        int rc = add_word(l, key, (int32_t)id);
        if (rc != 0)
            return rc;
    }
    *ret_n = (uint32_t)(l->n_word - from);
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

static int take_bias(struct list *l)
{
    static const char key[] = "logit_bias";
    const struct cJSON *v = sk_api_field(l->x, key);
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_OBJECT)
        return sk_err_set(l->x->err, SK_ETYPE, key, "logit_bias must be an object of token id and bias, not %s.",
                          sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        int64_t id = id_of_key(sk_json_key(i));
        if (id < 0)
            return sk_err_set(l->x->err, SK_EINVAL, key, "logit_bias has the key `%.40s`; keys must be token ids.",
                              sk_json_key(i));
        if (id >= l->x->rules->n_vocab)
            return bad_id(l, key, (double)id);
        double bias = sk_json_num(i);
        if (!(bias >= -MAX_BIAS && bias <= MAX_BIAS))
            return sk_err_set(l->x->err, SK_ERANGE, key, "logit_bias of token %lld must be a number from -100 to 100.",
                              (long long)id);
        int rc = add_word(l, key, (int32_t)id);
        if (rc != 0)
            return rc;
        l->x->p->wire.n_bias++;
    }
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        float bias = (float)sk_json_num(i);
        int32_t bits;
        memcpy(&bits, &bias, sizeof bits);
        int rc = add_word(l, key, bits);
        if (rc != 0)
            return rc;
    }
    return 0;
}

/* Adds {n, ids...} of one spelling. */
static int add_bad_word(struct list *l, const int32_t *ids, size_t n)
{
    int rc = add_word(l, "bad_words", (int32_t)n);
    for (size_t i = 0; rc == 0 && i < n; i++)
        rc = add_word(l, "bad_words", ids[i]);
    return rc;
}

/* A word is two token sequences, inside a text and at its start. As in vLLM the one with a space counts only where it
 * is as long as the other and begins differently: where the space is a token of its own, the sequence without it is
 * found anyway. */
static int take_bad_word(struct list *l, const char *word)
{
    int32_t *bare = NULL, *spaced = NULL;
    size_t n_bare = 0, n_spaced = 0;
    word += strspn(word, " \t\r\n");
    size_t n = strlen(word);
    if (n == 0)
        return sk_err_set(l->x->err, SK_EINVAL, "bad_words", "bad_words has an empty word in it.");
    if (n > SK_MAX_LIST * (size_t)16)
        return sk_err_set(l->x->err, SK_ERANGE, "bad_words",
                          "bad_words has a word of %zu bytes; it may have %d tokens.", n, SK_MAX_LIST);
    char *text = sk_malloc(n + 1);
    if (!text)
        return sk_api_no_memory(l->x);
    text[0] = ' ';
    memcpy(text + 1, word, n);
    int rc =
        sk_token_encode(l->x->rules->token, text + 1, n, SK_TOKEN_SPECIALS, false, n + 16, &bare, &n_bare, l->x->err);
    if (rc == 0)
        rc = sk_token_encode(l->x->rules->token, text, n + 1, SK_TOKEN_SPECIALS, false, n + 17, &spaced, &n_spaced,
                             l->x->err);
    if (rc == 0 && n_bare > 0)
        rc = add_bad_word(l, bare, n_bare);
    if (rc == 0 && n_bare > 0 && n_spaced == n_bare && spaced[0] != bare[0])
        rc = add_bad_word(l, spaced, n_spaced);
    sk_free(bare);
    sk_free(spaced);
    sk_free(text);
    return rc;
}

static int take_bad_words(struct list *l)
{
    const struct cJSON *v = sk_api_field(l->x, "bad_words");
    size_t from = l->n_word;
    if (!v)
        return 0;
    if (sk_json_type(v) != SK_JSON_ARRAY)
        return sk_err_set(l->x->err, SK_ETYPE, "bad_words", "bad_words must be an array of strings, not %s.",
                          sk_json_typename(v));
    for (const struct cJSON *i = sk_json_first(v); i; i = sk_json_next(i)) {
        const char *word = sk_json_str(i);
        int rc = word ? take_bad_word(l, word)
                      : sk_err_set(l->x->err, SK_ETYPE, "bad_words",
                                   "bad_words must be an array of strings; there is %s in it.", sk_json_typename(i));
        if (rc != 0)
            return rc;
    }
    l->x->p->wire.n_bad_word = (uint32_t)(l->n_word - from);
    return 0;
}

int sk_api_take_list(struct sk_api_reader *x)
{
    struct list l = {.x = x};
    struct sk_params *w = &x->p->wire;
    int rc = take_ids(&l, "stop_token_ids", &w->n_stop_ids);
    if (rc == 0)
        rc = take_bias(&l);
    if (rc == 0)
        rc = take_ids(&l, "allowed_token_ids", &w->n_allowed);
    if (rc == 0 && w->n_allowed == 0 && sk_api_field(x, "allowed_token_ids"))
        rc = sk_err_set(x->err, SK_EINVAL, "allowed_token_ids",
                        "allowed_token_ids is empty: no token would be allowed.");
    if (rc == 0)
        rc = take_bad_words(&l);
    if (rc != 0 || l.n_word == 0)
        return rc;
    int32_t *words = sk_arena_alloc(x->arena, l.n_word * sizeof *words);
    if (!words)
        return sk_api_no_memory(x);
    memcpy(words, l.words, l.n_word * sizeof *words);
    x->p->list = words;
    return 0;
}
