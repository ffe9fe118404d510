/* Threads that share the items of one job after the other. The caller is worker 0 and there is one caller. Workers spin
 * for a short while after a job, then sleep: an idle pool uses no CPU. Each worker begins with a stretch of consecutive
 * items and then helps others, so who runs which is left open: fn must give the same result whoever does. */
#ifndef SK_POOL_H
#define SK_POOL_H
#include <stdbool.h>
#include <stdint.h>
#include "comm/base/err.h"

enum { SK_POOL_MAX_THREAD = 256, SK_POOL_MAX_STAGE = 4 };

/* worker is 0..size-1: an index of scratch memory. */
typedef void (*sk_pool_fn)(void *ctx, uint32_t item, int worker);

struct sk_pool_stage {
    sk_pool_fn fn;
    uint32_t n_item;
};

struct sk_pool;

/* n_thread = 0: sk_pool_cpus(). pin: thread i stays on the i-th CPU of the affinity mask, the caller too. -SK_EINVAL
 * (too many threads), -SK_ENOMEM, -SK_EUNAVAIL (no thread or no pinning). */
int sk_pool_open(int n_thread, bool pin, struct sk_pool **ret, struct sk_err *err);
void sk_pool_close(struct sk_pool *p); /* NULL is allowed; no job may be running */
int sk_pool_size(const struct sk_pool *p);
/* A job: for each stage, fn(ctx, 0..n_item-1, worker), each once; a stage begins when all items of the one before have
 * returned, and sees what they wrote. Returns when all is done; the caller then sees it too. 1 <= n_stage <=
 * SK_POOL_MAX_STAGE; fewer than a million items a stage and thread. */
void sk_pool_run(struct sk_pool *p, const struct sk_pool_stage *stage, uint32_t n_stage, void *ctx);
/* The same on the caller alone. */
void sk_pool_run_alone(const struct sk_pool_stage *stage, uint32_t n_stage, void *ctx);
/* CPUs of the affinity mask, at most what the cgroup's CPU quota pays for, at least 1, at most SK_POOL_MAX_THREAD. */
int sk_pool_cpus(void);

#endif
