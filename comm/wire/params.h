/* Sampling parameters of a sequence: one fixed, pointer-free struct and one list of int32 words, the same bytes on the
 * wire and in a plan. A client's are checked in server/api/params.c, whose errors name fields; here, as bounds, is what
 * comes over a wire. */
#ifndef SK_PARAMS_H
#define SK_PARAMS_H
#include <stddef.h>
#include <stdint.h>

enum {
    SK_MAX_LIST = 4096,  /* int32 words of all lists of one sequence */
    SK_MAX_LOGPROBS = 20 /* alternatives of one token */
};

enum {                           /* flags */
       SK_PARAMS_IGNORE_EOS = 1, /* the EOS set does not end the sequence */
       SK_PARAMS_NO_CACHE = 2    /* reads nothing from the prefix cache (prompt log-probs, echo with logprobs) */
};

struct sk_params {
    uint64_t seed; /* always set: drawn by the daemon if the caller gave none */
    uint64_t salt; /* root of the prefix tree: requests share cached blocks only where it is equal; 0 = common */
    uint32_t flags;
    uint32_t max_tokens, min_tokens; /* of the answer; max_tokens = 0: prompt log-probs only */
    int32_t n_logprobs;              /* alternatives for each answer token, 0..SK_MAX_LOGPROBS; -1: none */
    int32_t n_prompt_logprobs;       /* the same for each prompt token but the first; -1: no prompt log-probs */
    float temperature;               /* 0 = greedy, else at least 1e-5 */
    float top_p, min_p, typical_p, eta_cutoff, epsilon_cutoff;
    float repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, no_repeat_ngram;
    int32_t priority; /* lower first */
    /* The list: stop ids, bias ids, bias values (float bits), allowed ids, bad words ({n, ids[n]} each). */
    uint32_t n_stop_ids, n_bias, n_allowed;
    uint32_t n_bad_word; /* int32 words of the list, not entries */
    uint32_t zero;
};

void sk_params_default(struct sk_params *p); /* temperature 1, max_tokens 16, seed and salt 0, everything else off */
/* int32 words that the list must have. */
size_t sk_params_list_len(const struct sk_params *p);
/* -SK_EPROTO: unknown flags, or list lengths that do not add up to n_list. -SK_ERANGE: a number out of range or not
 * finite, an id outside 0..n_vocab-1, bad words that are not well formed. */
int sk_params_check(const struct sk_params *p, const int32_t *list, size_t n_list, uint32_t n_vocab);

#endif
