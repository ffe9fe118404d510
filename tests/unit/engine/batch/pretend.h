/* A rank that pretends (linked in place of engine/model/step.c): it keeps slots, block tables and a cache as a real one
 * does, but what it caches for a position is a hash of the text up to there and of its arithmetic class. Each row
 * checks that every position it would attend to holds what it must: a block that was shared, evicted or dropped wrongly
 * cannot go unseen. What it draws is a function of that hash, seed and choice; with a seed from PRETEND_REPEATS on of
 * the last token instead of the text, which then soon repeats itself. */
#ifndef SK_PRETEND_H
#define SK_PRETEND_H
#include <stdint.h>
#include "engine/batch/loop.h"

enum { PRETEND_VOCAB = 50, PRETEND_EOS = 0, PRETEND_MAX_LEN = 256, PRETEND_MAX_SLOT = 64, PRETEND_MAX_BLK = 512 };
enum { PRETEND_REPEATS = 3 };

struct sk_rank *pretend_new(const struct sk_loop_conf *c);
void pretend_bind(struct sk_rank *r, const struct sk_loop *l); /* whose reference counts it checks when it writes */
void pretend_slow(struct sk_rank *r, uint64_t step_us);        /* each step takes so long, by a clock that was set */
void pretend_slow_rows(struct sk_rank *r, uint64_t row_us);    /* and so long more for each row */
void pretend_free(struct sk_rank *r);

/* What a request must give, computed straight: ids into ret (at most max_gen), returns their number; *ret_finish as the
 * leader says. */
uint32_t pretend_expect(const struct sk_loop_conf *c, const int32_t *prompt, uint32_t n_prompt,
                        const struct sk_params *p, const int32_t *list, uint32_t choice, int32_t *ret,
                        uint32_t *ret_finish);
/* Log-prob of token tok[n] after tok[0..n). */
float pretend_logprob(const struct sk_loop_conf *c, const int32_t *tok, uint32_t n, uint32_t n_prompt, int32_t id);

#endif
