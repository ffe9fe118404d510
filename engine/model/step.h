/* A rank: model, KV cache, slots and the scratch of one step. f(weights, KV, plan) -> result rows. Computes, never
 * decides. Owner: one thread. */
#ifndef SK_STEP_H
#define SK_STEP_H
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/err.h"
#include "comm/dir/dir.h"
#include "comm/wire/plan.h"
#include "kernels/kernels.h"

struct sk_group;
struct sk_timeline;

/* The rank's place: pp stages of layers, each cut over tp ranks. Groups are borrowed; NULL = a group of one. */
struct sk_grid {
    struct sk_group *tp; /* the ranks of this stage */
    struct sk_group *pp; /* this rank's own in every stage: rank = stage */
    bool narrow;         /* activations go from stage to stage as bf16; else as f32, and stages change no bit */
    struct sk_timeline *timeline; /* borrowed; NULL = none */
};

struct sk_rank_conf {
    uint32_t max_slot;             /* sequences at once */
    uint32_t max_len;              /* tokens of one sequence, <= desc.max_len */
    uint32_t max_row;              /* rows of one step */
    uint32_t max_result;           /* result rows of one step */
    uint64_t kv_bytes;             /* memory of the KV cache */
    enum sk_dtype kv_dtype;        /* SK_F32, SK_BF16 or SK_Q8 */
    uint32_t n_blk[SK_MAX_GROUPS]; /* 0: as many as kv_bytes holds */
};

struct sk_rank;

/* Bytes that sk_rank_open would take in that place. */
struct sk_rank_need {
    uint64_t weights, kv, scratch, slots;
    uint64_t kv_block;             /* of one block of each group, in all layers */
    uint32_t n_blk[SK_MAX_GROUPS]; /* blocks of each group that conf's kv_bytes gives */
    uint32_t first_layer, n_layer, first_head, n_head, first_vocab, n_vocab; /* what of the model is here: layers,
                                       query heads of each, rows of embedding and head */
};
/* Takes nothing: for the memory plan and for refusals. grid NULL = one rank. -SK_EINVAL: conf out of bounds, or
 * kv_bytes holds no block; -SK_EUNSUP: cannot be cut so (more ranks than query heads, more stages than layers: with the
 * numbers).
 */
int sk_rank_plan(const struct sk_dir *dir, const struct sk_weights *w, struct sk_backend *be,
                 const struct sk_grid *grid, const struct sk_rank_conf *conf, struct sk_rank_need *ret,
                 struct sk_err *err);

/* Binds tensors (shapes checked once; the error names the tensor), brings this rank's part of the weights into memory,
 * takes all other memory: a step allocates nothing. dir, w, be and the grid's groups outlive the rank. conf->n_blk,
 * where not 0, is how many blocks each group has, instead of what kv_bytes gives: a block number names the same tokens
 * on every rank, so all have as many as the one that can hold least. -SK_EINVAL as above, -SK_EFORMAT, -SK_EUNSUP,
 * -SK_ENOMEM. */
int sk_rank_open(const struct sk_dir *dir, struct sk_weights *w, struct sk_backend *be, const struct sk_grid *grid,
                 const struct sk_rank_conf *conf, struct sk_rank **ret, struct sk_err *err);
void sk_rank_close(struct sk_rank *r);
void sk_rank_limits(const struct sk_rank *r, struct sk_plan_limits *ret);
/* From here on *progress is counted up while a step goes on: with every half of a layer, and with every slice of
 * SK_HEAD_SLICE result rows. Borrowed; NULL, as after open: not at all. */
void sk_rank_watch(struct sk_rank *r, _Atomic uint64_t *progress);

/* Enqueues one plan, all ranks the same ones in the same order. -SK_EPROTO: it does not suit limits or slots' state,
 * nothing ran. -SK_EIO: a rank was lost. */
int sk_rank_step(struct sk_rank *r, const void *plan, size_t n, struct sk_err *err);
/* Waits for that step: *ret_rows (valid until the next step) holds the plan's n_result rows; 0 rows in a stage that is
 * not the last. -SK_EINTERNAL: the backend failed. */
int sk_rank_wait(struct sk_rank *r, const struct sk_result_row **ret_rows, uint32_t *ret_n, struct sk_err *err);

/* What the last step took, waits for others included, and parts of that. */
struct sk_rank_times {
    uint64_t step_us, collective_us, recv_us; /* recv: waiting for the stage before, and taking its rows */
    uint64_t sum_step, sum;                   /* checksum of the rows after this stage's last layer, made every
                                                 SK_RANK_SUM_STEPS steps; the same on all ranks of a stage */
};
enum { SK_RANK_SUM_STEPS = 64 };
void sk_rank_times(const struct sk_rank *r, struct sk_rank_times *ret);

/* The tokens of dir->selftest_ids through this rank, which must have no open slot: log-probs of all but the first.
 * Collective in a grid; stages before the last get zeros, and their selfcheck compares nothing. */
int sk_rank_selftest(struct sk_rank *r, float ret[SK_SELFTEST_TOKENS - 1], struct sk_err *err);
/* The same, compared with dir's values within the tolerance of the dtypes of weights and KV cache: -SK_EFORMAT with the
 * numbers. */
int sk_rank_selfcheck(struct sk_rank *r, struct sk_err *err);

#endif
