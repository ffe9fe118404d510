/* The ranks of a grid as threads of one process, joined by group_shm: what tests of several ranks share. Asserts on
 * failure. */
#ifndef SK_CROWD_H
#define SK_CROWD_H
#include "engine/model/step.h"

enum { CROWD_MAX = 8 };
typedef int crowd_backend(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err);

struct crowd {
    const struct sk_dir *dir;
    struct sk_weights *w;
    const char *path;       /* where not NULL: each rank has a copy of its part of these weights */
    crowd_backend *backend; /* of one thread for each rank */
    uint32_t n_tp, n_pp;    /* rank = stage * n_tp + tp rank */
    bool narrow;
    struct sk_rank_conf conf; /* kv_bytes is divided as one rank would: all have its blocks */
};
/* Opens every rank, runs `fn` in each, closes. */
typedef void crowd_fn(void *arg, uint32_t id, struct sk_rank *rank);
void crowd_run(const struct crowd *c, crowd_fn *fn, void *arg);

/* One greedy sequence: prompt in chunks, then tokens one by one; each plan says the tokens that were drawn before, as a
 * leader does for stages that do not draw. */
struct crowd_text {
    const int32_t *prompt;
    uint32_t n_prompt, n_new, chunk;
    struct sk_params params;
    const struct sk_result_row *told; /* [n_new]: tokens to go on with; NULL: those that were drawn (one stage) */
};
/* ret[n_prompt - 1 + n_new]: log-probs of the prompt, then draws. Ranks that are not of the last stage write nothing.
 */
void crowd_generate(struct sk_rank *rank, const struct crowd_text *text, struct sk_result_row *ret);

#endif
