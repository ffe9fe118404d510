/* The ranks of an engine as its last RANKS frame told of them, for GET /admin/ranks and the metrics of each. Owner:
 * loop thread. */
#ifndef SK_RANKS_H
#define SK_RANKS_H
#include "comm/wire/wire.h"

struct sk_metrics;

struct sk_ranks {
    struct sk_wire_rank *list; /* owned; NULL = none yet */
    uint32_t n;
};

/* A checked frame. One that there is no memory for is passed over. */
void sk_ranks_take(struct sk_ranks *r, const struct sk_wire_ranks *f, struct sk_metrics *m, uint32_t replica);
/* The engine has ended: there are none, and their counters begin anew. */
void sk_ranks_forget(struct sk_ranks *r, struct sk_metrics *m, uint32_t replica);

#endif
