/* The ranks of an engine as their leader sees them: plans go in, result rows come out, in order. With one rank a plan
 * runs when it is submitted, and nothing else exists; with several it goes to all of them, and with several stages up
 * to `depth` plans are under way at once, each on another stage: that is what micro-batches are here. Rows do not
 * depend on how work was divided into plans (see the classes of kernels.h), so neither does any text.
 *
 * The other ranks follow: they run every plan that comes, and report. Owner: the rank's control thread. */
#ifndef SK_CREW_H
#define SK_CREW_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/wire/wire.h"
#include "kernels/kernels.h"

struct sk_crew;
struct sk_rank;
struct sk_rank_need;
struct sk_world;

struct sk_crew_conf {
    struct sk_rank *rank;
    struct sk_world *world;          /* connected; NULL: one rank */
    const struct sk_rank_need *need; /* what of the model this rank has, for sk_crew_ranks; NULL: not told */
};
/* Collective. rank and world are borrowed. -SK_ENOMEM, -SK_EIO. */
int sk_crew_open(const struct sk_crew_conf *conf, struct sk_crew **ret, struct sk_err *err);
void sk_crew_close(struct sk_crew *c); /* the leader's says QUIT to the others; NULL is allowed */

/* ---- the leader ---- */

/* Plans that may be submitted and not collected: 1 with one stage, more with several (one for each stage, and one that
 * waits, so that no stage has to). */
uint32_t sk_crew_depth(const struct sk_crew *c);
/* A checked plan; its own part has been run, or enqueued, on return. -SK_EPROTO, -SK_EIO (a rank was lost). */
int sk_crew_submit(struct sk_crew *c, const void *plan, size_t n, struct sk_err *err);
struct sk_crew_result {
    const struct sk_result_row *rows; /* valid until the next submit or collect */
    uint32_t n;
    uint64_t step;    /* of the plan */
    uint64_t busy_us; /* that the stages computed on it, one after the other, waits for one another not counted: what
                         the first and the last one took, and as much on average for each between them */
};
/* Of the oldest plan that was not collected, which there must be: 1; 0 where `wait` is false and it is not through.
 * -SK_EIO; -SK_EINTERNAL: a backend failed; -SK_EDIVERGED: ranks that must have the same plans, or the same sums behind
 * a stage, have not (a machine that computes wrongly): err names rank, host and step. */
int sk_crew_collect(struct sk_crew *c, bool wait, struct sk_crew_result *ret, struct sk_err *err);
/* Who computes, and what they took so far: [n] is written and returned, n <= SK_WIRE_MAX_RANKS. */
uint32_t sk_crew_ranks(struct sk_crew *c, struct sk_wire_rank *ret);

/* ---- the others ---- */

/* Until the leader says QUIT: 0. -SK_EIO: the leader or a neighbour is gone; -SK_EPROTO, -SK_EINTERNAL as a step. */
int sk_crew_follow(struct sk_crew *c, struct sk_err *err);

#endif
