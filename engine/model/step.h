/* A rank: model, KV cache, slots and the scratch of one step. f(weights, KV, plan) -> result rows. Computes, never decides. */
#ifndef SK_STEP_H
#define SK_STEP_H
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "comm/wire/plan.h"
#include "kernels/kernels.h"

struct sk_group;

struct sk_rank_conf {
    uint32_t max_slot;      /* sequences at once */
    uint32_t max_len;       /* tokens of one sequence, <= desc.max_len */
    uint32_t max_row;       /* rows of one step */
    uint32_t max_result;    /* result rows of one step */
    uint64_t kv_bytes;      /* memory of the KV cache */
    enum sk_dtype kv_dtype; /* SK_F32 or SK_F16 */
};

struct sk_rank;

/* Memory that sk_rank_open would take, without taking it: for the memory plan and for refusals. */
struct sk_rank_need {
    uint64_t weights, kv, scratch, slots;
    uint64_t kv_block;              /* bytes of one block number of all groups' layers */
    uint32_t n_blk[SK_MAX_GROUPS];  /* blocks of each group that kv_bytes gives */
    uint32_t min_blk;               /* blocks that one sequence of max_len needs (all groups) */
};
int sk_rank_plan(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be, const struct sk_rank_conf *conf,
                 struct sk_rank_need *ret, struct sk_err *err);

/* Binds tensors (shapes checked once; the error names the tensor), takes all memory. dir, w and be outlive the rank; group NULL = one rank.
 * After this the step path allocates nothing. */
int sk_rank_open(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be, struct sk_group *group,
                 const struct sk_rank_conf *conf, struct sk_rank **ret, struct sk_err *err);
void sk_rank_close(struct sk_rank *r);
void sk_rank_limits(const struct sk_rank *r, struct sk_plan_limits *ret);

/* Enqueues one plan (checked against limits and slot state: -SK_EPROTO and nothing ran). */
int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err);
/* Waits for that step: *ret_rows (valid until the next step) holds the head's n_result rows. */
int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err);

/* The 8 fixed tokens of dir->selftest_ids through this rank (which must have no open slot); log-probs of tokens 1..7. */
int sk_rank_selftest(struct sk_rank *r, float ret[SK_SELFTEST_TOKENS - 1], struct sk_err *err);
/* The same, compared with dir's values within the tolerance of the weight dtype and KV dtype: -SK_EFORMAT with the numbers. */
int sk_rank_selfcheck(struct sk_rank *r, struct sk_err *err);

#endif
