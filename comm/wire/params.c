#include "comm/wire/params.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "comm/base/err.h"

enum { MAX_NGRAM = 1 << 20 };
#define MIN_TEMPERATURE 1e-5f /* logits divided by less may be infinite, and then equal */

_Static_assert(sizeof(struct sk_params) == 104, "the struct is the same bytes on a wire, in a plan and in a record");

void sk_params_default(struct sk_params *p)
{
    *p = (struct sk_params){
        .max_tokens = 16,
        .n_logprobs = -1,
        .n_prompt_logprobs = -1,
        .temperature = 1,
        .top_p = 1,
        .typical_p = 1,
        .repetition_penalty = 1,
    };
}

size_t sk_params_list_len(const struct sk_params *p)
{
    return (size_t)p->n_stop_ids + 2 * (size_t)p->n_bias + p->n_allowed + p->n_bad_word;
}

/* NaN fails every comparison. */
static bool within(float x, float min, float max)
{
    return x >= min && x <= max;
}

static bool ids_ok(const int32_t *ids, size_t n, uint32_t n_vocab)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (uint32_t)ids[i] >= n_vocab)
            return false;
    return true;
}

static bool biases_ok(const int32_t *bits, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        float x;
        memcpy(&x, &bits[i], sizeof x);
        if (!isfinite(x))
            return false;
    }
    return true;
}

static bool bad_words_ok(const int32_t *word, size_t n, uint32_t n_vocab)
{
    while (n > 0) {
        int32_t len = word[0];
        if (len < 1 || (size_t)len > n - 1 || !ids_ok(word + 1, (size_t)len, n_vocab))
            return false;
        word += 1 + len;
        n -= 1 + (size_t)len;
    }
    return true;
}

static bool lists_ok(const struct sk_params *p, const int32_t *list, uint32_t n_vocab)
{
    const int32_t *bias = list + p->n_stop_ids, *allowed = bias + 2 * p->n_bias, *bad = allowed + p->n_allowed;
    return ids_ok(list, p->n_stop_ids, n_vocab) && ids_ok(bias, p->n_bias, n_vocab) &&
           biases_ok(bias + p->n_bias, p->n_bias) && ids_ok(allowed, p->n_allowed, n_vocab) &&
           bad_words_ok(bad, p->n_bad_word, n_vocab);
}

int sk_params_check(const struct sk_params *p, const int32_t *list, size_t n_list, uint32_t n_vocab)
{
    /* Each count first: so their sum cannot overflow. */
    if (p->n_stop_ids > SK_MAX_LIST || p->n_bias > SK_MAX_LIST || p->n_allowed > SK_MAX_LIST ||
        p->n_bad_word > SK_MAX_LIST)
        return -SK_EPROTO;
    if (n_list > SK_MAX_LIST || n_list != sk_params_list_len(p))
        return -SK_EPROTO;
    if ((p->flags & ~(uint32_t)(SK_PARAMS_IGNORE_EOS | SK_PARAMS_NO_CACHE)) || p->zero)
        return -SK_EPROTO;

    bool in_range = (p->temperature == 0 || within(p->temperature, MIN_TEMPERATURE, 1e6f)) && within(p->top_p, 0, 1) &&
                    p->top_p > 0 && within(p->min_p, 0, 1) && within(p->typical_p, 0, 1) && p->typical_p > 0 &&
                    within(p->eta_cutoff, 0, 1) && within(p->epsilon_cutoff, 0, 1) &&
                    within(p->repetition_penalty, 1e-6f, 1e6f) && within(p->presence_penalty, -1e6f, 1e6f) &&
                    within(p->frequency_penalty, -1e6f, 1e6f) && p->top_k >= 0 && p->no_repeat_ngram >= 0 &&
                    p->no_repeat_ngram <= MAX_NGRAM && p->n_logprobs >= -1 && p->n_logprobs <= SK_MAX_LOGPROBS &&
                    p->n_prompt_logprobs >= -1 && p->n_prompt_logprobs <= SK_MAX_LOGPROBS;
    if (!in_range)
        return -SK_ERANGE;
    return lists_ok(p, list, n_vocab) ? 0 : -SK_ERANGE;
}
