/* Sampling parameters of a sequence: one fixed, pointer-free struct and one list of int32 words, the same bytes on the wire, in a plan and in a
 * backend. Checked for a caller in server/api/params.c (errors name fields) and again here as bounds. */
#ifndef SK_PARAMS_H
#define SK_PARAMS_H
#include <stddef.h>
#include <stdint.h>

enum { SK_MAX_LIST = 4096 }; /* int32 words of all lists of one sequence */

enum { /* flags */
    SK_PARAMS_IGNORE_EOS = 1, /* the EOS set does not end the sequence */
    SK_PARAMS_NO_CACHE = 2    /* reads nothing from the prefix cache (prompt log-probs, echo with logprobs) */
};

struct sk_params {
    uint64_t seed; /* always set: drawn by the daemon if the caller gave none */
    uint64_t salt; /* root of the prefix tree: requests share cached blocks only where it is equal; 0 = common */
    uint32_t flags;
    uint32_t max_tokens, min_tokens; /* of the answer; max_tokens >= 1 unless only prompt log-probs are wanted (0) */
    int32_t n_logprobs;        /* -1 none, 0..20 alternatives for each answer token */
    int32_t n_prompt_logprobs; /* -1 none, 0..20 */
    float temperature;         /* 0 = greedy */
    float top_p, min_p, typical_p, eta_cutoff, epsilon_cutoff;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, no_repeat_ngram;
    int32_t priority; /* lower first */
    /* The list, in this order: stop ids, bias ids, bias values (float bits), allowed ids, bad words ({n, ids...} each, n_bad_words words in all). */
    uint32_t n_stop_ids, n_bias, n_allowed, n_bad_word;
    uint32_t zero;
};

void sk_params_default(struct sk_params *p); /* greedy off: temperature 1, nothing else; max_tokens 16 */
/* Words that the list must have. */
size_t sk_params_list_len(const struct sk_params *p);
/* Bounds of everything: finite floats in range, ids in 0..n_vocab-1, list lengths, bad words well formed. 0 or -SK_EPROTO / -SK_ERANGE. */
int sk_params_check(const struct sk_params *p, const int32_t *list, size_t n_list, uint32_t n_vocab);

#endif
