/* Ops that treat each row, or each number, by itself. */
#include "kernels/cpu/cpu.h"

#include <stdatomic.h>
#include <string.h>

enum { ITEM_ROWS = 8 };

static float *row_at(struct sk_dev base, uint32_t row, size_t ld)
{
    return (float *)sk_cpu_ptr(base) + row * ld;
}

static void embed_row(const struct sk_op_embed *op, uint32_t r)
{
    const struct sk_rows *rows = op->rows;
    const struct sk_pack *pack = &op->table->pack;
    const uint32_t pos = ((const uint32_t *)sk_cpu_ptr(rows->pos))[r],
                   slot = ((const uint32_t *)sk_cpu_ptr(rows->slot))[r];
    const uint32_t *token = sk_cpu_ptr(rows->token), at = token[(size_t)slot * rows->max_len + pos] - op->first;
    const uint32_t width = at < pack->n_out ? pack->n_in : 0;
    float *out = row_at(op->out, r, op->ld);

    if (width > 0)
        sk_pack_get_row(pack, sk_cpu_ptr(op->table->data), at, out);
    memset(out + width, 0, (SK_ALIGN16(pack->n_in) - width) * sizeof *out);
}

static void embed_item(void *ctx, uint32_t item, int worker)
{
    const struct sk_op_embed *op = *(const struct sk_op_embed *const *)ctx;
    const uint32_t begin = item * ITEM_ROWS, n_row = op->rows->n_row;
    const uint32_t end = begin + ITEM_ROWS < n_row ? begin + ITEM_ROWS : n_row;

    for (uint32_t r = begin; r < end; r++)
        embed_row(op, r);
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
    const uint32_t n_row = op->rows->n_row;
    enum { SCATTERED = 8 }; /* a row of a panel touches a cache line per 4 to 64 bytes of its own */

    sk_cpu_run(cpu, (n_row + ITEM_ROWS - 1) / ITEM_ROWS, (uint64_t)n_row * op->table->pack.n_in * SCATTERED, embed_item,
               &op);
    if (op->pos_table == NULL)
        return;
    sk_assert(op->pos_table->pack.n_in <= SK_CPU_SCRATCH_BYTES / sizeof(float));
    for (uint32_t r = 0; r < n_row; r++)
        add_position(op, r, cpu->scratch);
}

/* n numbers, in stretches. */
struct flat_job {
    const struct sk_ktab *k;
    void *out;
    const void *x;
    uint64_t n;
    _Atomic uint64_t sum;
};
enum { STRETCH = 16 << 10 };

static uint64_t stretch_of(const struct flat_job *job, uint64_t at)
{
    return job->n - at < STRETCH ? job->n - at : STRETCH;
}

static void run_flat(struct sk_cpu *cpu, struct flat_job *job, sk_pool_fn fn)
{
    job->k = &cpu->k;
    sk_cpu_run(cpu, (uint32_t)((job->n + STRETCH - 1) / STRETCH), job->n, fn, job);
}

static void add_item(void *ctx, uint32_t item, int worker)
{
    const struct flat_job *job = ctx;
    const uint64_t at = (uint64_t)item * STRETCH;
    job->k->add((float *)job->out + at, (const float *)job->x + at, stretch_of(job, at));
}

void sk_cpu_add(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    run_flat(be->ctx, &(struct flat_job){.out = sk_cpu_ptr(out), .x = sk_cpu_ptr(x), .n = n}, add_item);
}

static void narrow_item(void *ctx, uint32_t item, int worker)
{
    const struct flat_job *job = ctx;
    const uint64_t at = (uint64_t)item * STRETCH;
    job->k->to_bf16((uint16_t *)job->out + at, (const float *)job->x + at, stretch_of(job, at));
}

void sk_cpu_narrow(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    run_flat(be->ctx, &(struct flat_job){.out = sk_cpu_ptr(out), .x = sk_cpu_ptr(x), .n = n}, narrow_item);
}

static void widen_item(void *ctx, uint32_t item, int worker)
{
    const struct flat_job *job = ctx;
    const uint64_t at = (uint64_t)item * STRETCH;
    job->k->from_bf16((float *)job->out + at, (const uint16_t *)job->x + at, stretch_of(job, at));
}

void sk_cpu_widen(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    run_flat(be->ctx, &(struct flat_job){.out = sk_cpu_ptr(out), .x = sk_cpu_ptr(x), .n = n}, widen_item);
}

static void checksum_item(void *ctx, uint32_t item, int worker)
{
    struct flat_job *job = ctx;
    const uint64_t at = (uint64_t)item * STRETCH;
    atomic_fetch_add_explicit(&job->sum, job->k->checksum((const float *)job->x + at, at, stretch_of(job, at)),
                              memory_order_relaxed);
}

void sk_cpu_checksum(struct sk_backend *be, struct sk_dev out, struct sk_dev x, uint64_t n)
{
    struct flat_job job = {.x = sk_cpu_ptr(x), .n = n};
    run_flat(be->ctx, &job, checksum_item);
    memcpy(sk_cpu_ptr(out), &job.sum, sizeof job.sum);
}

void sk_cpu_gather(struct sk_backend *be, const struct sk_op_gather *op)
{
    const int32_t *index = sk_cpu_ptr(op->index);
    for (uint32_t r = 0; r < op->n_row; r++)
        memcpy(row_at(op->out, r, op->ld), row_at(op->in, (uint32_t)index[r], op->ld), op->ld * sizeof(float));
}
