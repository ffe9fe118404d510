/* The x86 backend: ops that cut their work into items for the pool; the kernels of ktab.h do the items. Backend memory
 * is the host's, and an op is done when its call returns. Owner of all here: the rank's control thread. */
#ifndef SK_CPU_H
#define SK_CPU_H
#include "kernels/cpu/ktab.h"
#include "kernels/cpu/pool.h"
#include "kernels/kernels.h"

enum { SK_CPU_SCRATCH_BYTES = 16 << 20, SK_CPU_OWN_BYTES = 512 << 10, SK_CPU_HUGE_BYTES = 2 << 20 };
enum { SK_CPU_STRETCH = 1024 }; /* inputs that are prepared at a time: with all rows of a tile they stay in L2 */

/* What only one thread touches: pages of its own, near to it because it touches them first. */
struct sk_cpu_worker {
    _Alignas(SK_CPU_HUGE_BYTES) char scratch[SK_CPU_WORKER_BYTES]; /* one item's at a time */
    /* Rows of a tile on their way into it; strides of 4 KiB would share cache sets. */
    float rows[SK_TILE_ROWS][SK_CPU_STRETCH + 16];
    char tiles[SK_CPU_OWN_BYTES]; /* of linear number tiles_of */
    uint64_t tiles_of;
};

struct sk_cpu {
    struct sk_backend be; /* be.ctx is the struct itself */
    struct sk_ktab k;
    struct sk_pool *pool;
    void *scratch; /* SK_CPU_SCRATCH_BYTES, one op's at a time; pages come with use */
    struct sk_cpu_worker *worker;
    struct sk_tune tune;
    uint64_t n_linear; /* passes over a matrix so far */
    /* Of the logits ops, grown to the largest vocabulary seen, so in warm-up: per worker */
    char *row_scratch;
    size_t row_scratch_bytes; /* of one worker */
    bool failed;              /* out of memory for row_scratch: wait() tells */
};

static inline void *sk_cpu_ptr(struct sk_dev d)
{
    return (void *)(uintptr_t)d.a; // NOLINT(performance-no-int-to-ptr): the handle is the address
}

static inline void *sk_cpu_worker(const struct sk_cpu *cpu, int worker)
{
    return cpu->worker[worker].scratch;
}

/* sk_pool_run, but on the caller alone where the op as a whole (n_float: how many floats pass through a vector unit,
 * roughly) is not worth waking anybody. */
void sk_cpu_run(struct sk_cpu *cpu, uint32_t n_item, uint64_t n_float, sk_pool_fn fn, void *ctx);
void sk_cpu_run_stages(struct sk_cpu *cpu, const struct sk_pool_stage *stage, uint32_t n_stage, uint64_t n_float,
                       void *ctx);

uint64_t sk_cpu_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride);
void sk_cpu_embed(struct sk_backend *be, const struct sk_op_embed *op);
void sk_cpu_linear(struct sk_backend *be, const struct sk_op_linear *op);
int sk_cpu_linear_reduce(struct sk_backend *be, const struct sk_op_linear *op, struct sk_group *group);
void sk_cpu_attention(struct sk_backend *be, const struct sk_op_attention *op);
void sk_cpu_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_cpu_gather(struct sk_backend *be, const struct sk_op_gather *op);
void sk_cpu_narrow(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_cpu_widen(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_cpu_checksum(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n);
void sk_cpu_logits_process(struct sk_backend *be, const struct sk_op_logits *op);
void sk_cpu_sample(struct sk_backend *be, const struct sk_op_logits *op);
void sk_cpu_top_n(struct sk_backend *be, const struct sk_op_logits *op);
void sk_cpu_vote(struct sk_backend *be, const struct sk_op_vote *op);
uint64_t sk_cpu_vote_bytes(const struct sk_backend *be, uint32_t n_row, uint32_t n_vocab);

#endif
