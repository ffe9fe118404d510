/* The logits ops: a row is one item. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "comm/base/mem.h"
#include "kernels/cpu/sample.h"
#include "kernels/ref/sample.h"

struct job {
    struct sk_cpu *cpu;
    const struct sk_op_logits *op;
};

/* A worker's memory: n_vocab zeros (kept so) to count tokens, then what sampling needs. */
static size_t count_bytes(uint32_t n_vocab)
{
    return (n_vocab * sizeof(uint32_t) + 63) & ~(size_t)63;
}

static bool grow_room(struct sk_cpu *cpu, uint32_t n_vocab)
{
    const size_t bytes = (count_bytes(n_vocab) + sk_cpu_sample_bytes(n_vocab) + 63) & ~(size_t)63;
    if (bytes == cpu->row_scratch_bytes)
        return true;
    sk_free(cpu->row_scratch);
    cpu->row_scratch = sk_calloc((size_t)sk_pool_size(cpu->pool), bytes);
    cpu->row_scratch_bytes = cpu->row_scratch != NULL ? bytes : 0;
    cpu->failed = cpu->failed || cpu->row_scratch == NULL;
    return cpu->row_scratch != NULL;
}

static void *room_of(const struct job *job, int worker)
{
    return job->cpu->row_scratch + (size_t)worker * job->cpu->row_scratch_bytes;
}

static void run_rows(struct sk_backend *be, const struct sk_op_logits *op, sk_pool_fn fn)
{
    struct job job = {.cpu = be->ctx, .op = op};
    if (grow_room(be->ctx, op->n_vocab))
        sk_cpu_run(be->ctx, op->n_row, (uint64_t)op->n_row * op->n_vocab, fn, &job);
}

static float *row_at(struct sk_dev base, const struct sk_op_logits *op, uint32_t r)
{
    return (float *)sk_cpu_ptr(base) + (size_t)r * op->ld;
}

static void process_item(void *ctx, uint32_t r, int worker)
{
    const struct job *job = ctx;
    const struct sk_op_logits *op = job->op;
    const struct sk_samp *s = (const struct sk_samp *)sk_cpu_ptr(op->samp) + r;
    float *row = row_at(op->work, op, r);

    if (!(s->flags & SK_SAMP_PROCESS))
        return;
    memcpy(row, row_at(op->logits, op, r), op->ld * sizeof *row);
    sk_logits_row(s, sk_cpu_ptr(op->list), (const int32_t *)sk_cpu_ptr(op->token) + (size_t)s->slot * op->max_len,
                  &(struct sk_logits_span){row, op->first, op->n_vocab}, room_of(job, worker));
}

void sk_cpu_logits_process(struct sk_backend *be, const struct sk_op_logits *op)
{
    run_rows(be, op, process_item);
}

static void sample_item(void *ctx, uint32_t r, int worker)
{
    const struct job *job = ctx;
    const struct sk_op_logits *op = job->op;
    const struct sk_samp *s = (const struct sk_samp *)sk_cpu_ptr(op->samp) + r;
    int32_t *token = (int32_t *)sk_cpu_ptr(op->token) + (size_t)s->slot * op->max_len + s->pos;

    if (!(s->flags & SK_SAMP_TARGET)) {
        const struct sk_logits_span row = {row_at(s->flags & SK_SAMP_PROCESS ? op->work : op->logits, op, r), 0,
                                           op->n_vocab};
        *token = sk_cpu_sample_row(&job->cpu->k, s, &row, (char *)room_of(job, worker) + count_bytes(op->n_vocab));
    }
    ((struct sk_result_row *)sk_cpu_ptr(op->result))[r] = (struct sk_result_row){.id = *token};
}

void sk_cpu_sample(struct sk_backend *be, const struct sk_op_logits *op)
{
    run_rows(be, op, sample_item);
}

static void top_n_item(void *ctx, uint32_t r, int worker)
{
    const struct job *job = ctx;
    const struct sk_op_logits *op = job->op;
    const struct sk_ktab *t = &job->cpu->k;
    const struct sk_samp *s = (const struct sk_samp *)sk_cpu_ptr(op->samp) + r;
    struct sk_result_row *ret = (struct sk_result_row *)sk_cpu_ptr(op->result) + r;
    const float *row = row_at(op->logits, op, r);
    int32_t ids[SK_MAX_TOP];

    if (!(s->flags & SK_SAMP_LOGPROB))
        return;
    const float max = t->max(row, op->n_vocab);
    const double lse = max + log(t->sum_exp(row, op->n_vocab, max));
    ret->logprob = (float)(row[ret->id] - lse);
    ret->rank = 1 + (int32_t)t->count_above(row, op->n_vocab, row[ret->id]);
    ret->n_top = t->top(row, op->n_vocab, s->n_top < SK_MAX_TOP ? s->n_top : SK_MAX_TOP, ids);
    for (uint32_t i = 0; i < ret->n_top; i++) {
        ret->top[i].id = ids[i];
        ret->top[i].logprob = (float)(row[ids[i]] - lse);
    }
}

void sk_cpu_top_n(struct sk_backend *be, const struct sk_op_logits *op)
{
    run_rows(be, op, top_n_item);
}
