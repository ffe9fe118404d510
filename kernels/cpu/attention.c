/* attention: rows are cut into groups whose tiles fill the kernel; an item is a group and a KV head. Where such items
 * are too few for the threads, each split of positions is an item of its own. Either way the splits are computed and
 * merged by the same calls in the same order. */
#include "kernels/cpu/cpu.h"

enum { ITEMS_PER_THREAD = 4, MACS_PER_FLOAT = 4 };

struct job {
    struct sk_cpu *cpu;
    const struct sk_op_attention *op;
    uint32_t group_rows, n_group, item_heads,
        n_head_part; /* an item: group_rows rows x item_heads query heads of one KV head */
    uint32_t n_split;
    struct sk_attn_part *parts; /* [item][split] where splits are items */
};

struct item {
    uint32_t row, n_row, kv_head, head, n_head; /* head: first query head */
};

uint64_t sk_cpu_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride)
{
    return (uint64_t)n_kv_head * 2 * SK_KV_BLOCK * head_stride * (dtype == SK_F16 ? 2 : 4);
}

/* Groups are the fastest index: neighbouring items read the same keys and values. */
static struct item item_at(const struct job *job, uint32_t i)
{
    const struct sk_op_attention *op = job->op;
    const uint32_t group = i % job->n_group, part = i / job->n_group, n_share = op->n_head / op->kv->n_kv_head;
    struct item it = {.row = group * job->group_rows, .kv_head = part / job->n_head_part};
    const uint32_t share = part % job->n_head_part * job->item_heads, n_left = op->rows->n_row - it.row;

    it.head = it.kv_head * n_share + share;
    it.n_head = n_share - share < job->item_heads ? n_share - share : job->item_heads;
    it.n_row = n_left < job->group_rows ? n_left : job->group_rows;
    return it;
}

/* One split of an item. Its rows may be of several slots: each stretch of consecutive positions of a slot is a tile. */
static void split(const struct job *job, const struct item *it, uint32_t n, struct sk_attn_part *ret)
{
    const struct sk_op_attention *op = job->op;
    const uint32_t *pos = sk_cpu_ptr(op->rows->pos), *slot = sk_cpu_ptr(op->rows->slot);
    const uint32_t end = it->row + it->n_row;

    for (uint32_t r = it->row, next; r < end; r = next) {
        for (next = r + 1; next < end && slot[next] == slot[r] && pos[next] == pos[r] + (next - r);)
            next++;
        const struct sk_attn_tile tile = {
            .q = (const float *)sk_cpu_ptr(op->q) + (size_t)r * op->ld_q + (size_t)it->head * op->kv->head_stride,
            .ld_q = op->ld_q,
            .n_row = next - r,
            .n_head = it->n_head,
            .pos = pos[r],
            .window = op->window,
            .scale = op->scale,
            .kv = op->kv,
            .table = (const int32_t *)sk_cpu_ptr(op->table) + (size_t)slot[r] * op->ld_table,
            .kv_head = it->kv_head,
            .part_row = (r - it->row) * it->n_head,
        };
        job->cpu->k.attn_split(&tile, n, ret);
    }
}

static void begin(const struct item *it, struct sk_attn_part *all)
{
    for (uint32_t r = 0; r < it->n_row * it->n_head; r++)
        all->sum[r] = 0;
}

static void finish(const struct job *job, const struct item *it, const struct sk_attn_part *all)
{
    const struct sk_op_attention *op = job->op;
    for (uint32_t r = 0; r < it->n_row * it->n_head; r++) {
        float *out = (float *)sk_cpu_ptr(op->out) + (size_t)(it->row + r / it->n_head) * op->ld_out;
        job->cpu->k.attn_out(all, r, op->kv->head_stride,
                             out + (size_t)(it->head + r % it->n_head) * op->kv->head_stride);
    }
}

static void whole_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    const struct item it = item_at(job, i);
    const uint32_t *pos = sk_cpu_ptr(job->op->rows->pos), window = job->op->window;
    struct sk_attn_part all, part;
    uint32_t low = pos[it.row], high = low;

    for (uint32_t r = it.row + 1; r < it.row + it.n_row; r++) {
        low = pos[r] < low ? pos[r] : low;
        high = pos[r] > high ? pos[r] : high;
    }
    begin(&it, &all);
    for (uint32_t s = window > 0 && low > window ? (low - window) / SK_SPLIT_TOK : 0; s <= high / SK_SPLIT_TOK; s++) {
        split(job, &it, s, &part);
        job->cpu->k.attn_merge(&all, &part, it.n_row * it.n_head, job->op->kv->head_stride);
    }
    finish(job, &it, &all);
}

static void split_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    const struct item it = item_at(job, i / job->n_split);
    split(job, &it, i % job->n_split, &job->parts[i]);
}

static void merge_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    const struct item it = item_at(job, i);
    struct sk_attn_part all;

    begin(&it, &all);
    for (uint32_t s = 0; s < job->n_split; s++)
        job->cpu->k.attn_merge(&all, &job->parts[(size_t)i * job->n_split + s], it.n_row * it.n_head,
                               job->op->kv->head_stride);
    finish(job, &it, &all);
}

void sk_cpu_attention(struct sk_backend *be, const struct sk_op_attention *op)
{
    struct job job = {.cpu = be->ctx, .op = op};
    const uint32_t n_share = op->n_head / op->kv->n_kv_head, n_row = op->rows->n_row;
    const uint64_t n_float =
        (uint64_t)n_row * (op->rows->max_pos + 1) * op->n_head * op->kv->head_stride / MACS_PER_FLOAT;

    sk_assert(op->kv->head_stride <= SK_ATTN_MAX_HEAD_DIM);
    job.item_heads = n_share < SK_ATTN_TILE ? n_share : SK_ATTN_TILE;
    job.n_head_part = (n_share + job.item_heads - 1) / job.item_heads;
    job.group_rows =
        op->rows->max_run_row > 1 ? SK_ATTN_TILE / job.item_heads : 1; /* rows of different slots share nothing */
    job.n_group = (n_row + job.group_rows - 1) / job.group_rows;
    job.n_split = op->rows->max_pos / SK_SPLIT_TOK + 1;

    const uint32_t n_item = job.n_group * op->kv->n_kv_head * job.n_head_part,
                   n_thread = (uint32_t)sk_pool_size(job.cpu->pool);
    const bool fits = (uint64_t)n_item * job.n_split <= SK_CPU_SCRATCH_BYTES / sizeof *job.parts;
    if (n_thread > 1 && job.n_split > 1 && n_item < n_thread * ITEMS_PER_THREAD && fits) {
        job.parts = job.cpu->scratch;
        sk_cpu_run(job.cpu, n_item * job.n_split, n_float, split_item, &job);
        sk_cpu_run(job.cpu, n_item,
                   (uint64_t)n_item * job.n_split * job.group_rows * job.item_heads * op->kv->head_stride, merge_item,
                   &job);
    } else {
        sk_cpu_run(job.cpu, n_item, n_float, whole_item, &job);
    }
}
