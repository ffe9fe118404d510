/* The control plane of a job: plans go from the leader to every rank, what a plan gave comes back from the first rank
 * of the last stage, and every rank's report is seen by the leader. It is not MPI: a rank that has nothing to do
 * sleeps. On the leader's host messages lie in rings of memory that its ranks share, and who waits spins for about 50
 * us, then sleeps on a futex; to each rank of another host there is a TCP connection. Messages arrive whole, in order.
 * Owner: the rank's control thread. */
#ifndef SK_CTL_H
#define SK_CTL_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"

struct sk_ctl;

/* What a rank tells about itself, after every plan and whenever it has opened. */
struct sk_ctl_report {
    uint64_t step;          /* of the last plan that it has run */
    uint64_t plan_hash;     /* of all plans so far: the same on all ranks at the same step */
    uint64_t sum_step;      /* of the last checksum */
    uint64_t sum;           /* of the hidden state after the stage's last layer: the same on all ranks of a stage */
    uint64_t busy_us;       /* in steps, waits for others included */
    uint64_t collective_us; /* of these, inside collectives: moving, adding and waiting for other ranks */
    uint64_t wait_us;       /* of these, waiting for the stage before */
    uint64_t rss_bytes;
    int32_t pid, host;
    char host_name[64];
};

/* ---- every rank but the leader ---- */

enum sk_ctl_kind { SK_CTL_PLAN = 1, SK_CTL_QUIT };
/* The next message; sleeps until there is one. *ret stays until the next call. -SK_EIO: the leader is gone. */
int sk_ctl_next(struct sk_ctl *c, enum sk_ctl_kind *ret_kind, const void **ret, size_t *ret_n);
/* The first rank of the last stage, where that is not the leader's: what a plan gave, as bytes. */
int sk_ctl_reply(struct sk_ctl *c, const void *p, size_t n);

/* ---- the leader ---- */

/* To all other ranks. Waits while one of them is far behind. -SK_EIO, -SK_ETOOBIG. */
int sk_ctl_send(struct sk_ctl *c, enum sk_ctl_kind kind, const void *p, size_t n);
/* The oldest reply: 1 and *ret, which stays until the next call; 0: there is none yet, where `wait` is false. -SK_EIO.
 */
int sk_ctl_take(struct sk_ctl *c, bool wait, const void **ret, size_t *ret_n);
/* Every rank's last report, [size]; the leader's own too. */
void sk_ctl_reports(struct sk_ctl *c, struct sk_ctl_report *ret);

/* ---- every rank ---- */

void sk_ctl_report(struct sk_ctl *c, const struct sk_ctl_report *r);
void sk_ctl_close(struct sk_ctl *c); /* NULL is allowed */

#endif
