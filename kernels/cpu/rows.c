/* Ops that treat each row by itself. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { ITEM_ROWS = 8 };

/* One op spread over the pool in items of ITEM_ROWS rows. */
struct row_job {
    struct sk_cpu *cpu;
    const void *op;
    uint32_t n_row;
    void (*row)(const struct sk_cpu *cpu, const void *op, uint32_t r);
};

static void run_item(void *ctx, uint32_t item, int worker)
{
    const struct row_job *job = ctx;
    const uint32_t begin = item * ITEM_ROWS, end = begin + ITEM_ROWS < job->n_row ? begin + ITEM_ROWS : job->n_row;
    for (uint32_t r = begin; r < end; r++)
        job->row(job->cpu, job->op, r);
}

static void run_rows(struct sk_backend *be, const void *op, uint32_t n_row, uint64_t width,
                     void (*row)(const struct sk_cpu *cpu, const void *op, uint32_t r))
{
    struct row_job job = {.cpu = be->ctx, .op = op, .n_row = n_row, .row = row};
    sk_cpu_run(be->ctx, (n_row + ITEM_ROWS - 1) / ITEM_ROWS, n_row * width, run_item, &job);
}

static float *row_at(struct sk_dev base, uint32_t row, size_t ld)
{
    return (float *)sk_cpu_ptr(base) + row * ld;
}

static void embed_row(const struct sk_cpu *cpu, const void *arg, uint32_t r)
{
    const struct sk_op_embed *op = arg;
    const struct sk_rows *rows = op->rows;
    const struct sk_pack *pack = &op->table->pack;
    const uint32_t pos = ((const uint32_t *)sk_cpu_ptr(rows->pos))[r],
                   slot = ((const uint32_t *)sk_cpu_ptr(rows->slot))[r];
    const int32_t id = ((const int32_t *)sk_cpu_ptr(rows->token))[(size_t)slot * rows->max_len + pos];
    float *out = row_at(op->out, r, op->ld);

    sk_pack_get_row(pack, sk_cpu_ptr(op->table->data), (uint32_t)id, out);
    memset(out + pack->n_in, 0, (SK_ALIGN16(pack->n_in) - pack->n_in) * sizeof *out);
}

static void add_position(const struct sk_op_embed *op, uint32_t r, float *scratch)
{
    const uint32_t pos = ((const uint32_t *)sk_cpu_ptr(op->rows->pos))[r];
    float *out = row_at(op->out, r, op->ld);

    sk_pack_get_row(&op->pos_table->pack, sk_cpu_ptr(op->pos_table->data), pos, scratch);
    for (uint32_t i = 0; i < op->pos_table->pack.n_in; i++)
        out[i] += scratch[i];
}

void sk_cpu_embed(struct sk_backend *be, const struct sk_op_embed *op)
{
    struct sk_cpu *cpu = be->ctx;
    enum { SCATTERED = 8 }; /* a row of a panel touches a cache line per 4 to 64 bytes of its own */

    run_rows(be, op, op->rows->n_row, (uint64_t)op->table->pack.n_in * SCATTERED, embed_row);
    if (op->pos_table == NULL)
        return;
    sk_assert(op->pos_table->pack.n_in <= SK_CPU_SCRATCH_BYTES / sizeof(float));
    for (uint32_t r = 0; r < op->rows->n_row; r++)
        add_position(op, r, cpu->scratch);
}

static void norm_row(const struct sk_cpu *cpu, const void *arg, uint32_t r)
{
    const struct sk_op_norm *op = arg;
    cpu->k.norm(row_at(op->out, r, op->ld), row_at(op->x, r, op->ld), sk_cpu_ptr(op->weight), sk_cpu_ptr(op->bias),
                op->dim, op->eps, op->layer);
}

void sk_cpu_norm(struct sk_backend *be, const struct sk_op_norm *op)
{
    run_rows(be, op, op->n_row, op->dim, norm_row);
}

static void rope_kv_row(const struct sk_cpu *cpu, const void *arg, uint32_t r)
{
    const struct sk_op_rope_kv *op = arg;
    const struct sk_kv_layer *kv = op->kv;
    const uint32_t pos = ((const uint32_t *)sk_cpu_ptr(op->rows->pos))[r],
                   slot = ((const uint32_t *)sk_cpu_ptr(op->rows->slot))[r];
    const int32_t blk = ((const int32_t *)sk_cpu_ptr(op->table))[(size_t)slot * op->ld_table + pos / SK_KV_BLOCK];
    const float *cos_sin =
        op->cos_sin.a != 0 ? (const float *)sk_cpu_ptr(op->cos_sin) + (size_t)pos * op->rope_dim : NULL;
    float *q = row_at(op->qkv, r, op->ld), *k = q + (size_t)op->n_head * kv->head_stride,
          *v = k + (size_t)kv->n_kv_head * kv->head_stride;

    for (float *head = q; head < v; head += kv->head_stride) {
        const float *weight = sk_cpu_ptr(head < k ? op->q_norm : op->k_norm);
        if (weight != NULL)
            cpu->k.norm(head, head, weight, NULL, kv->head_dim, op->eps, false);
        if (cos_sin != NULL)
            cpu->k.rope(head, cos_sin, op->rope_dim, op->interleaved);
    }
    for (uint32_t h = 0; h < kv->n_kv_head; h++)
        cpu->k.kv_put(kv, blk, h, pos % SK_KV_BLOCK, k + (size_t)h * kv->head_stride, v + (size_t)h * kv->head_stride);
}

void sk_cpu_rope_kv(struct sk_backend *be, const struct sk_op_rope_kv *op)
{
    run_rows(be, op, op->rows->n_row, (uint64_t)(op->n_head + 2 * op->kv->n_kv_head) * op->kv->head_stride * 2,
             rope_kv_row);
}

static void act_row(const struct sk_cpu *cpu, const void *arg, uint32_t r)
{
    const struct sk_op_act *op = arg;
    const float *in = row_at(op->in, r, op->ld_in);
    cpu->k.act(row_at(op->out, r, op->ld_out), in, op->gated ? in + op->width : NULL, op->width, op->kind);
}

void sk_cpu_act(struct sk_backend *be, const struct sk_op_act *op)
{
    run_rows(be, op, op->n_row, (uint64_t)op->width * 4, act_row);
}

struct add_job {
    const struct sk_cpu *cpu;
    float *out;
    const float *x;
    uint64_t n;
};
enum { ADD_ITEM = 16 << 10 };

static void add_item(void *ctx, uint32_t item, int worker)
{
    const struct add_job *job = ctx;
    const uint64_t at = (uint64_t)item * ADD_ITEM, n = job->n - at < ADD_ITEM ? job->n - at : ADD_ITEM;
    job->cpu->k.add(job->out + at, job->x + at, n);
}

void sk_cpu_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    struct add_job job = {.cpu = be->ctx, .out = sk_cpu_ptr(out), .x = sk_cpu_ptr(x), .n = n};
    sk_cpu_run(be->ctx, (uint32_t)((n + ADD_ITEM - 1) / ADD_ITEM), n, add_item, &job);
}

void sk_cpu_gather(struct sk_backend *be, const struct sk_op_gather *op)
{
    const int32_t *index = sk_cpu_ptr(op->index);
    for (uint32_t r = 0; r < op->n_row; r++)
        memcpy(row_at(op->out, r, op->ld), row_at(op->in, (uint32_t)index[r], op->ld), op->ld * sizeof(float));
}
