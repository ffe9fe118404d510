/* attention: rows are cut into groups of consecutive positions of a slot that fill a tile; an item is a group and the
 * query heads of one KV head. Where such items are too few for the threads, each split of positions is an item of its
 * own, and who ends the last one of a tile merges them. Either way the splits are computed and merged by the same calls
 * in the same order.
 *
 * Keys and values are stored by the item that attends where no other item reads them (no slot is in two groups, as in
 * decoding); else all of them before. */
#include <stdatomic.h>
#include <string.h>

#include "kernels/cpu/cpu.h"

enum { ITEMS_PER_THREAD = 4, MACS_PER_FLOAT = 4, STORE_ROWS = 8, SLOT_BITS = 4096 };

struct group {
    uint32_t row, n_row;
};

struct job {
    struct sk_cpu *cpu;
    const struct sk_op_attention *op;
    const struct group *groups;
    uint32_t n_group, max_row;        /* max_row: of the largest */
    uint32_t n_head_part, item_heads; /* a KV head's query heads are cut into parts of item_heads */
    uint32_t n_split;                 /* of the highest position, where splits are items */
    bool store;                       /* items store their own rows */
    _Atomic uint32_t *left;           /* [item]: splits to come */
    float *parts;                     /* [item][split]: part_floats */
    size_t part_floats;
};

/* One item's tile, and where its rows are. */
struct tile {
    struct sk_attn_tile t;
    struct group g;
    uint32_t head; /* first query head */
};

uint64_t sk_cpu_kv_block_bytes(const struct sk_backend *be, enum sk_dtype dtype, uint32_t n_kv_head,
                               uint32_t head_stride)
{
    return n_kv_head * sk_attn_head_bytes(dtype, head_stride);
}

static uint32_t least(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

static const float *qkv_head(const struct sk_op_attention *op, uint32_t row, uint32_t head)
{
    return (const float *)sk_cpu_ptr(op->qkv) + (size_t)row * op->ld_qkv + (size_t)head * op->kv->head_stride;
}

static uint32_t pos_of(const struct sk_op_attention *op, uint32_t row)
{
    return ((const uint32_t *)sk_cpu_ptr(op->rows->pos))[row];
}

static const int32_t *table_of(const struct sk_op_attention *op, uint32_t row)
{
    const uint32_t slot = ((const uint32_t *)sk_cpu_ptr(op->rows->slot))[row];
    return (const int32_t *)sk_cpu_ptr(op->table) + (size_t)slot * op->ld_table;
}

/* A q or k head, normed and turned. */
static void turn(const struct job *job, uint32_t row, uint32_t head, struct sk_dev norm, float *ret)
{
    const struct sk_op_attention *op = job->op;
    const struct sk_ktab *k = &job->cpu->k;
    const float *x = qkv_head(op, row, head);
    const uint32_t dim = op->kv->head_dim;

    if (norm.a != 0)
        k->norm(ret, x, k->norm_stat(x, dim, op->eps, false), sk_cpu_ptr(norm), NULL, dim);
    else
        memcpy(ret, x, op->kv->head_stride * sizeof *ret);
    if (op->cos_sin.a != 0)
        k->rope(ret, (const float *)sk_cpu_ptr(op->cos_sin) + (size_t)pos_of(op, row) * op->rope_dim, op->rope_dim,
                op->interleaved);
}

static void store(const struct job *job, uint32_t row, uint32_t kv_head)
{
    const struct sk_op_attention *op = job->op;
    const uint32_t pos = pos_of(op, row);
    float k[SK_ATTN_MAX_HEAD_DIM];

    turn(job, row, op->n_head + kv_head, op->k_norm, k);
    job->cpu->k.kv_put(op->kv, table_of(op, row)[pos / SK_KV_BLOCK], kv_head, pos % SK_KV_BLOCK, k,
                       qkv_head(op, row, op->n_head + op->kv->n_kv_head + kv_head));
}

static void store_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    const uint32_t begin = i * STORE_ROWS, end = least(begin + STORE_ROWS, job->op->rows->n_row);

    for (uint32_t r = begin; r < end; r++) {
        for (uint32_t h = 0; h < job->op->kv->n_kv_head; h++)
            store(job, r, h);
    }
}

/* The first query head that reads a KV head, or n_head where none from there on is here. */
static uint32_t first_head(const struct sk_op_attention *op, uint32_t kv_head)
{
    const uint32_t head = kv_head * op->head_ratio;
    return head > op->head_at ? least(head - op->head_at, op->n_head) : 0;
}

/* Groups are the fastest index: neighbouring items read the same keys and values. The queries go to `q`. A part of a KV
 * head that serves fewer query heads than others may have none. */
static struct tile tile_at(const struct job *job, uint32_t i, float *q)
{
    const struct sk_op_attention *op = job->op;
    const uint32_t part = i / job->n_group, kv_head = part / job->n_head_part, end = first_head(op, kv_head + 1),
                   head = least(end, first_head(op, kv_head) + part % job->n_head_part * job->item_heads);
    struct tile ret = {.g = job->groups[i % job->n_group], .head = head};

    ret.t = (struct sk_attn_tile){.q = q,
                                  .n_row = ret.g.n_row,
                                  .n_head = least(end - head, job->item_heads),
                                  .pos = pos_of(op, ret.g.row),
                                  .window = op->window,
                                  .scale = op->scale,
                                  .kv = op->kv,
                                  .table = table_of(op, ret.g.row),
                                  .kv_head = kv_head};
    for (uint32_t r = 0; r < ret.t.n_row; r++) {
        for (uint32_t h = 0; h < ret.t.n_head; h++, q += op->kv->head_stride)
            turn(job, ret.g.row + r, ret.head + h, op->q_norm, q);
    }
    return ret;
}

/* Stores what positions from..to - 1 have of the tile. */
static void store_tile(const struct job *job, const struct tile *t, uint32_t from, uint32_t to)
{
    for (uint32_t r = 0; job->store && r < t->t.n_row; r++) {
        if (t->t.pos + r >= from && t->t.pos + r < to)
            store(job, t->g.row + r, t->t.kv_head);
    }
}

static void run(const struct job *job, const struct tile *t, uint32_t split, uint32_t n_split,
                struct sk_attn_part *into, void *scratch)
{
    const enum sk_class class = t->g.row < job->op->rows->n_prompt_row ? SK_CLASS_PROMPT : SK_CLASS_DECODE;

    if (t->t.n_head == 0)
        return;
    memset(into->sum, 0, t->t.n_row * t->t.n_head * sizeof *into->sum);
    job->cpu->k.attn[class][job->op->kv->dtype](&t->t, split, n_split, into, scratch);
}

static void finish(const struct job *job, const struct tile *t, const struct sk_attn_part *all)
{
    const struct sk_op_attention *op = job->op;

    for (uint32_t i = 0; i < t->t.n_row * t->t.n_head; i++) {
        const uint32_t row = t->g.row + i / t->t.n_head, head = t->head + i % t->t.n_head;
        job->cpu->k.attn_out(all, i, op->kv->head_stride,
                             (float *)sk_cpu_ptr(op->out) + (size_t)row * op->ld_out +
                                 (size_t)head * op->kv->head_stride);
    }
}

static struct sk_attn_part part_at(float *floats)
{
    return (struct sk_attn_part){floats, floats + SK_ATTN_TILE, floats + 2 * (size_t)SK_ATTN_TILE};
}

/* Of one thread. */
struct scratch {
    char kernel[SK_ATTN_SCRATCH_BYTES];
    float q[SK_ATTN_TILE * SK_ATTN_MAX_HEAD_DIM], part[SK_ATTN_TILE * (SK_ATTN_MAX_HEAD_DIM + 2)];
};
_Static_assert(sizeof(struct scratch) <= SK_CPU_WORKER_BYTES, "attention's scratch");

static void whole_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    struct scratch *s = sk_cpu_worker(job->cpu, worker);
    const struct tile t = tile_at(job, i, s->q);
    const uint32_t window = job->op->window, last = t.t.pos + t.t.n_row - 1,
                   first = window > 0 && t.t.pos >= window ? (t.t.pos + 1 - window) / SK_SPLIT_TOK : 0;
    struct sk_attn_part all = part_at(s->part);

    store_tile(job, &t, t.t.pos, last + 1);
    run(job, &t, first, last / SK_SPLIT_TOK + 1 - first, &all, s->kernel);
    finish(job, &t, &all);
}

static void split_item(void *ctx, uint32_t i, int worker)
{
    const struct job *job = ctx;
    struct scratch *s = sk_cpu_worker(job->cpu, worker);
    const uint32_t item = i / job->n_split, split = i % job->n_split;
    const struct tile t = tile_at(job, item, s->q);
    float *parts = job->parts + (size_t)item * job->n_split * job->part_floats;
    struct sk_attn_part part = part_at(parts + split * job->part_floats), all = part_at(parts);

    store_tile(job, &t, split * SK_SPLIT_TOK, (split + 1) * SK_SPLIT_TOK);
    run(job, &t, split, 1, &part, s->kernel);
    if (atomic_fetch_sub(&job->left[item], 1) > 1)
        return;
    for (uint32_t other = 1; other < job->n_split; other++) {
        part = part_at(parts + other * job->part_floats);
        job->cpu->k.attn_merge(&all, &part, t.t.n_row * t.t.n_head, job->op->kv->head_stride);
    }
    finish(job, &t, &all);
}

/* Cuts the rows into groups of one class and at most max_row rows each. */
static void group_rows(struct job *job, uint32_t max_row, struct group *ret)
{
    const struct sk_rows *rows = job->op->rows;
    const uint32_t *pos = sk_cpu_ptr(rows->pos), *slot = sk_cpu_ptr(rows->slot);
    uint64_t met[SLOT_BITS / 64] = {0}; /* by slot modulo SLOT_BITS: may say so where it is not */

    job->groups = ret;
    job->n_group = job->max_row = 0;
    job->store = true;
    for (uint32_t r = 0, next; r < rows->n_row; r = next) {
        for (next = r + 1; next < rows->n_row && next - r < max_row && next != rows->n_prompt_row &&
                           slot[next] == slot[r] && pos[next] == pos[r] + (next - r);)
            next++;
        ret[job->n_group++] = (struct group){r, next - r};
        job->max_row = next - r > job->max_row ? next - r : job->max_row;
        const uint64_t bit = (uint64_t)1 << slot[r] % 64;
        uint64_t *word = &met[slot[r] % SLOT_BITS / 64];
        job->store = job->store && !(*word & bit);
        *word |= bit;
    }
}

/* Makes splits items where there is work for more threads than there are whole items, and room. */
static bool cut_splits(struct job *job, uint32_t n_item, char *room, size_t n_room)
{
    const struct sk_rows *rows = job->op->rows;
    const uint64_t n_left = SK_ALIGN16((uint64_t)n_item);

    job->n_split = rows->max_pos / SK_SPLIT_TOK + 1;
    job->part_floats = 2 * (size_t)SK_ATTN_TILE + (size_t)job->max_row * job->item_heads * job->op->kv->head_stride;
    if (job->n_split == 1 || n_item >= (uint32_t)sk_pool_size(job->cpu->pool) * ITEMS_PER_THREAD ||
        sk_pool_size(job->cpu->pool) == 1 ||
        (n_left + (uint64_t)n_item * job->n_split * job->part_floats) * sizeof(float) > n_room)
        return false;
    job->left = (_Atomic uint32_t *)room;
    job->parts = (float *)room + n_left;
    for (uint32_t i = 0; i < n_item; i++)
        atomic_init(&job->left[i], job->n_split);
    return true;
}

void sk_cpu_attention(struct sk_backend *be, const struct sk_op_attention *op)
{
    struct job job = {.cpu = be->ctx, .op = op};
    const uint32_t n_share = least(op->head_ratio, op->n_head);
    const uint64_t n_float =
        (uint64_t)op->rows->n_row * (op->rows->max_pos + 1) * op->n_head * op->kv->head_stride / MACS_PER_FLOAT;
    struct sk_pool_stage stages[2] = {{store_item, (op->rows->n_row + STORE_ROWS - 1) / STORE_ROWS}};
    const size_t group_bytes = SK_ALIGN16((size_t)op->rows->n_row) * sizeof(struct group);

    sk_assert(op->kv->head_stride <= SK_ATTN_MAX_HEAD_DIM && group_bytes <= SK_CPU_SCRATCH_BYTES);
    job.item_heads = least(n_share, SK_ATTN_TILE);
    job.n_head_part = (n_share + job.item_heads - 1) / job.item_heads;
    group_rows(&job, SK_ATTN_TILE / job.item_heads, job.cpu->scratch);
    job.store = job.store && job.n_head_part == 1;
    const uint32_t n_item = job.n_group * op->kv->n_kv_head * job.n_head_part;
    if (cut_splits(&job, n_item, (char *)job.cpu->scratch + group_bytes, SK_CPU_SCRATCH_BYTES - group_bytes))
        stages[1] = (struct sk_pool_stage){split_item, n_item * job.n_split};
    else
        stages[1] = (struct sk_pool_stage){whole_item, n_item};
    sk_cpu_run_stages(job.cpu, stages + job.store, 2 - job.store, n_float, &job);
}
