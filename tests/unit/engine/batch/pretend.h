/* A crew that pretends (linked in place of engine/model/crew.c): it keeps slots, block tables and a cache as a real one
 * does, but what it caches for a position is a hash of the text up to there and of its arithmetic class. Each row
 * checks that every position it would attend to holds what it must: a block that was shared, evicted or dropped wrongly
 * cannot go unseen. What it draws is a function of that hash, seed and choice; with a seed from PRETEND_REPEATS on of
 * the last token instead of the text, which then soon repeats itself.
 *
 * With several stages a plan's rows are there when chance says so, or they are waited for; and a slot does not know the
 * tokens that were drawn in it until a plan says them, as it is with a first stage. */
#ifndef SK_PRETEND_H
#define SK_PRETEND_H
#include <stdint.h>
#include "engine/batch/loop.h"

enum { PRETEND_VOCAB = 50, PRETEND_EOS = 0, PRETEND_MAX_LEN = 256, PRETEND_MAX_SLOT = 64, PRETEND_MAX_BLK = 512 };
enum { PRETEND_REPEATS = 3, PRETEND_MAX_DEPTH = 6 };

struct sk_crew *pretend_new(const struct sk_loop_conf *c);
void pretend_stages(struct sk_crew *r, uint32_t n, uint64_t seed); /* before a batch manager is opened; n > 1 */
uint32_t pretend_most(const struct sk_crew *r);                    /* plans that were under way at once */
void pretend_bind(struct sk_crew *r, const struct sk_loop *l);     /* whose reference counts it checks when it writes */
void pretend_slow(struct sk_crew *r, uint64_t step_us);     /* each step takes so long, by a clock that was set */
void pretend_slow_rows(struct sk_crew *r, uint64_t row_us); /* and so long more for each row */
void pretend_free(struct sk_crew *r);

/* What a request must give, computed straight: ids into ret (at most max_gen), returns their number; *ret_finish as the
 * leader says. */
uint32_t pretend_expect(const struct sk_loop_conf *c, const int32_t *prompt, uint32_t n_prompt,
                        const struct sk_params *p, const int32_t *list, uint32_t choice, int32_t *ret,
                        uint32_t *ret_finish);
/* Log-prob of token tok[n] after tok[0..n). */
float pretend_logprob(const struct sk_loop_conf *c, const int32_t *tok, uint32_t n, uint32_t n_prompt, int32_t id);

#endif
