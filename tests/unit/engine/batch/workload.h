/* Requests at random, by a seed. */
#ifndef SK_WORKLOAD_H
#define SK_WORKLOAD_H
#include "tests/unit/engine/batch/rig.h"

struct dice {
    uint64_t x;
};
uint32_t roll(struct dice *d, uint32_t n); /* 0 .. n - 1 */

enum { N_REQ = 80, N_STEM = 3 };

struct workload {
    struct front_req req[N_REQ];
    int32_t prompt[N_REQ][PRETEND_MAX_LEN], stop[N_REQ][2], done[N_REQ][PRETEND_MAX_LEN];
    uint32_t first[N_REQ]; /* index in front.seqs */
    bool cancelled[FRONT_MAX_SEQS];
};

/* Prompts grow on a few common stems, so that prefixes are shared at all lengths. */
void workload_make(struct workload *w, uint32_t i, const struct sk_loop_conf *c, struct dice *d);
/* Each sequence has given what its request gives alone, or the beginning of that if it was cancelled. */
void workload_expect(const struct workload *w, const struct rig *r);
/* All of them, submitted and cancelled at random, to the end: each answer is what its request gives alone, and the
 * invariants hold after every step. */
void workload_run(const struct sk_loop_conf *c, uint32_t n_stage, uint64_t seed, struct sk_wire_stats *ret_stats);

#endif
