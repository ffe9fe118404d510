/* One choice of a request as it grows: what the engine says goes in; text and log-probs that were not shown yet come
 * out. Memory is used over and over: nothing is allocated once tokens flow. */
#ifndef SK_ANSWER_H
#define SK_ANSWER_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "server/api/logprobs.h"
#include "server/api/params.h"
#include "server/text/detok.h"

struct sk_gen_prompt;

struct sk_answer {
    struct sk_detok *detok;
    struct sk_buf text;               /* not shown yet */
    uint32_t n_token, n_shown;        /* tokens of the text so far; of these shown */
    double sum_logprob;               /* of the tokens so far */
    uint64_t last_us;                 /* when the last token came; 0 = none */
    const char *finish;               /* finish_reason; NULL = goes on */
    const char *stop_str;             /* stop_reason: not NULL */
    int32_t stop_id;                  /* or >= 0 */
    bool began;                       /* something was shown */
    bool chosen;                      /* best_of: it is among the n */
    struct sk_logprobs tokens;        /* not shown yet; only where log-probs or token ids are asked for */
    struct sk_logprobs prompt_tokens; /* prompt_logprobs */
    struct sk_buf log;                /* the beginning of what was shown; --log-prompts only */
    uint32_t n_prompt;                /* tokens of the prompt */
    uint32_t n_prompt_token;          /* prompt log-probs so far, the first token's null included */
    uint32_t offset;                  /* text_offset of the next token */
};

/* With `echo` it begins with the prompt. `p` lives as long as the answer. -SK_ENOMEM, -SK_ETOOBIG; then, and when it is
 * not needed any more, sk_answer_done. */
int sk_answer_init(struct sk_answer *a, const struct sk_api_params *p, const struct sk_vocab *v,
                   const struct sk_gen_prompt *prompt, struct sk_err *err);
void sk_answer_done(struct sk_answer *a);
/* Takes an entry that is no error; sets `finish` where it ends the answer, or a stop string in it does. *ret_n: tokens
 * that it cost. 0, -SK_ENOMEM, -SK_ETOOBIG. */
int sk_answer_take(struct sk_answer *a, const struct sk_api_params *p, const struct sk_wire_entry *e, uint32_t *ret_n);
/* What there was to show has been: forgets it. */
void sk_answer_shown(struct sk_answer *a);
/* The next best of `n` answers, of which one at least was not chosen yet: that with the highest mean log-prob per
 * token, of equals the first; one without tokens comes last. */
uint32_t sk_answer_best(struct sk_answer *all, uint32_t n);

#endif
