/* The logits ops: a row is one item. Filtering and drawing are those of kernels/ref/sample.h; here they get a few
 * hundred candidates instead of a vocabulary. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

#include "comm/base/mem.h"
#include "kernels/ref/fmath.h"
#include "kernels/ref/sample.h"

struct job {
    struct sk_cpu *cpu;
    const struct sk_op_logits *op;
};

/* A worker's memory for one row. */
struct room {
    struct sk_cand *cand; /* [n_vocab] each */
    float *x;
    int32_t *id;
    uint32_t *count; /* zeros between uses */
};

static bool grow_room(struct sk_cpu *cpu, uint32_t n_vocab)
{
    const size_t bytes =
        (n_vocab * (sizeof(struct sk_cand) + sizeof(float) + sizeof(int32_t) + sizeof(uint32_t)) + 63) & ~(size_t)63;
    if (bytes == cpu->row_scratch_bytes)
        return true;
    sk_free(cpu->row_scratch);
    cpu->row_scratch = sk_calloc((size_t)sk_pool_size(cpu->pool), bytes);
    cpu->row_scratch_bytes = cpu->row_scratch != NULL ? bytes : 0;
    cpu->failed = cpu->failed || cpu->row_scratch == NULL;
    return cpu->row_scratch != NULL;
}

static struct room room_of(const struct job *job, int worker)
{
    const size_t n = job->op->n_vocab;
    char *at = job->cpu->row_scratch + (size_t)worker * job->cpu->row_scratch_bytes;
    struct room room = {.cand = (struct sk_cand *)at};
    room.x = (float *)(room.cand + n);
    room.id = (int32_t *)(room.x + n);
    room.count = (uint32_t *)(room.id + n);
    return room;
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
                  op->n_vocab, row, room_of(job, worker).count);
}

void sk_cpu_logits_process(struct sk_backend *be, const struct sk_op_logits *op)
{
    run_rows(be, op, process_item);
}

/* A limit that at least k logits of the row exceed, and not many more; -INFINITY where the parts do not tell. By
 * bisection below the largest; the largest logits of k parts are k logits. */
static float reached_by(const struct sk_ktab *t, const float *row, uint32_t n, uint32_t k)
{
    float part[SK_PART_MAX];
    t->part_max(row, n, part);
    float high = t->max(part, SK_PART_MAX), low = high - 64;

    if (t->count_above(part, SK_PART_MAX, low) < k)
        return -INFINITY;
    for (int i = 0; i < 14; i++) {
        const float middle = (low + high) / 2;
        if (t->count_above(part, SK_PART_MAX, middle) >= k)
            low = middle;
        else
            high = middle;
    }
    return low;
}

/* Drops what no filter of `s` would keep, so that the filters see few. Sets *ret_s to s for what is left: ids in
 * room->id, rising, logits in room->x. Returns how many; 0: nothing was dropped, the row is to be taken as it is. */
static uint32_t shortlist(const struct sk_ktab *t, const struct sk_samp *s, const float *row, uint32_t n,
                          struct room *room, struct sk_samp *ret_s)
{
    const float max = t->max(row, n), z_max = max / s->temperature;
    float limit;
    double total = 0;

    if (!(max > -INFINITY && max < INFINITY))
        return 0;
    *ret_s = *s;
    if (s->top_k > 0 && s->top_k <= SK_PART_MAX / 4) {
        limit = reached_by(t, row, n, (uint32_t)s->top_k);
    } else if (s->top_k == 0 && s->top_p < 1) {
        /* n tokens below (1 - top_p) / n have less than 1 - top_p together: they come after the last that is kept. */
        total = t->sum_exp(row, n, s->temperature, z_max);
        limit = max + s->temperature * (sk_fm_log((float)((1 - s->top_p) * total / n)) - 0.01f);
    } else if (s->top_k == 0 && s->min_p > 0) {
        limit = max + s->temperature * (sk_fm_log(s->min_p) - 0.01f);
    } else {
        return 0;
    }
    if (!(limit > -INFINITY))
        return 0;
    const uint32_t n_left = t->collect(row, n, limit, room->id, room->x);
    if (s->top_k == 0 && s->top_p < 1) /* the same mass, as a share of what is left */
        ret_s->top_p = (float)fmin(s->top_p * total / t->sum_exp(room->x, n_left, s->temperature, z_max), 1);
    return n_left;
}

static bool filtered(const struct sk_samp *s)
{
    return s->top_k > 0 || s->top_p < 1 || s->min_p > 0 || s->typical_p < 1 || s->epsilon_cutoff > 0 ||
           s->eta_cutoff > 0;
}

static int32_t sample_row(const struct sk_ktab *t, const struct sk_samp *s, const float *row, uint32_t n,
                          struct room *room)
{
    struct sk_samp rest;

    if (s->flags & SK_SAMP_GREEDY)
        return (int32_t)t->argmax(row, n);
    if (!filtered(s))
        return (int32_t)t->gumbel_argmax(row, n, s);
    const uint32_t n_left = shortlist(t, s, row, n, room, &rest);
    if (n_left == 0)
        return sk_sample_row(s, row, n, room->cand);
    const uint32_t n_kept = sk_sample_filter(&rest, room->x, n_left, room->cand);
    for (uint32_t i = 0; i < n_kept; i++)
        room->cand[i].id = room->id[room->cand[i].id];
    return sk_sample_draw(s, room->cand, n_kept);
}

static void sample_item(void *ctx, uint32_t r, int worker)
{
    const struct job *job = ctx;
    const struct sk_op_logits *op = job->op;
    const struct sk_samp *s = (const struct sk_samp *)sk_cpu_ptr(op->samp) + r;
    int32_t *token = (int32_t *)sk_cpu_ptr(op->token) + (size_t)s->slot * op->max_len + s->pos;
    struct room room = room_of(job, worker);

    if (!(s->flags & SK_SAMP_TARGET))
        *token = sample_row(&job->cpu->k, s, row_at(s->flags & SK_SAMP_PROCESS ? op->work : op->logits, op, r),
                            op->n_vocab, &room);
    ((struct sk_result_row *)sk_cpu_ptr(op->result))[r].id = *token;
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
    const float max = t->max(row, op->n_vocab);
    const double lse = max + log(t->sum_exp(row, op->n_vocab, 1, max));
    int32_t ids[SK_MAX_TOP];

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
