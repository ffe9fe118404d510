/* A rank: model, KV cache, slots and the scratch of one step. f(weights, KV, plan) -> result rows. Computes, never
 * decides. Owner: one thread. */
#ifndef SK_STEP_H
#define SK_STEP_H
#include <stdatomic.h>
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
    enum sk_dtype kv_dtype; /* SK_F32, SK_BF16 or SK_Q8 */
};

struct sk_rank;

/* Bytes that sk_rank_open would take in a group of one. */
struct sk_rank_need {
    uint64_t weights, kv, scratch, slots;
    uint64_t kv_block;             /* of one block of each group, in all layers */
    uint32_t n_blk[SK_MAX_GROUPS]; /* blocks of each group that conf's kv_bytes gives */
};
/* Takes nothing: for the memory plan and for refusals. -SK_EINVAL: conf out of bounds, or kv_bytes holds no block. */
int sk_rank_plan(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be,
                 const struct sk_rank_conf *conf, struct sk_rank_need *ret, struct sk_err *err);

/* Binds tensors (shapes checked once; the error names the tensor), takes all memory: a step allocates nothing. dir, w,
 * be and group outlive the rank; group NULL = a group of one. -SK_EINVAL as above, -SK_EFORMAT, -SK_EUNSUP (cannot be
 * cut over the group), -SK_ENOMEM. */
int sk_rank_open(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be, struct sk_group *group,
                 const struct sk_rank_conf *conf, struct sk_rank **ret, struct sk_err *err);
void sk_rank_close(struct sk_rank *r);
void sk_rank_limits(const struct sk_rank *r, struct sk_plan_limits *ret);
/* From here on *progress is counted up while a step goes on: with every half of a layer, and with every slice of
 * SK_HEAD_SLICE result rows. Borrowed; NULL, as after open: not at all. */
void sk_rank_watch(struct sk_rank *r, _Atomic uint64_t *progress);

/* Enqueues one plan. -SK_EPROTO: it does not suit limits or slots' state, nothing ran. -SK_EIO: a rank was lost. */
int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err);
/* Waits for that step: *ret_rows (valid until the next step) holds the plan's n_result rows. -SK_EINTERNAL: the backend
 * failed. */
int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err);

/* The tokens of dir->selftest_ids through this rank, which must have no open slot: log-probs of all but the first. */
int sk_rank_selftest(struct sk_rank *r, float ret[SK_SELFTEST_TOKENS - 1], struct sk_err *err);
/* The same, compared with dir's values within the tolerance of the dtypes of weights and KV cache: -SK_EFORMAT with the
 * numbers. */
int sk_rank_selfcheck(struct sk_rank *r, struct sk_err *err);

#endif
