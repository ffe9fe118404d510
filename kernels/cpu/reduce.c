/* linear_reduce: a linear whose outputs lie where all ranks of the group see them. Rows go in chunks: while one is
 * computed, the other ranks finish theirs of the one before, and its sum is made while it is still in cache. A step of
 * a few rows is one chunk: one job, one wait. */
#include "comm/group/group.h"
#include "kernels/cpu/cpu.h"

/* A chunk reads all weights once more: fewer rows would not pay for that. More floats would not stay in cache. */
enum { CHUNK_ROWS = 64, CHUNK_FLOATS = 64 << 10 };
enum { ITEM_FLOATS = 4 << 10 }; /* summed at a time */

/* One chunk's sum. */
struct job {
    const struct sk_cpu *cpu;
    const float *part[SK_GROUP_MAX];
    uint32_t n_part;
    float *out;
    size_t ld_out, ld; /* ld: of the parts */
    uint32_t n_row, item_rows;
};

struct chunks {
    struct sk_backend *be;
    const struct sk_op_linear *op;
    struct sk_group *group;
    size_t ld;      /* of a part */
    uint32_t n_row; /* of a chunk; the last may have fewer */
};

static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* The same on every rank: it depends on the op and the window alone. */
static uint32_t chunk_rows(uint32_t n_row, size_t ld, size_t max)
{
    const uint32_t fit = (uint32_t)(max / ld), good = (uint32_t)(CHUNK_FLOATS / ld);
    uint32_t most = min_of(fit, good > CHUNK_ROWS ? good : CHUNK_ROWS);

    sk_assert(most > 0);
    if (most > SK_TILE_ROWS)
        most -= most % SK_TILE_ROWS;
    const uint32_t n_chunk = (n_row + most - 1) / most, even = (n_row + n_chunk - 1) / n_chunk;
    return min_of(most, (even + SK_TILE_ROWS - 1) / SK_TILE_ROWS * SK_TILE_ROWS);
}

static uint32_t rows_of(const struct chunks *c, uint32_t row)
{
    return min_of(c->op->n_row - row, c->n_row);
}

/* This rank's part of the chunk that begins at `row`. */
static void make(const struct chunks *c, uint32_t row)
{
    struct sk_op_linear op = *c->op;

    op.n_row = rows_of(c, row);
    op.n_prompt_row = c->op->n_prompt_row > row ? min_of(c->op->n_prompt_row - row, op.n_row) : 0;
    op.x = sk_dev_at(c->op->x, (uint64_t)row * c->op->ld_x * sizeof(float));
    op.out.a = (uintptr_t)c->group->window->begin(c->group, op.n_row * c->ld);
    op.ld_out = (uint32_t)c->ld;
    op.add = false;
    sk_cpu_linear(c->be, &op);
    c->group->window->post(c->group);
}

static void sum_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const uint32_t end = min_of((item + 1) * job->item_rows, job->n_row);

    for (uint32_t r = item * job->item_rows; r < end; r++)
        job->cpu->k.add_sum(job->out + r * job->ld_out, job->part, job->n_part, r * job->ld, job->ld);
}

/* Adds all ranks' parts of the oldest chunk, which begins at `row`. */
static void finish(const struct chunks *c, uint32_t row)
{
    const struct sk_group_window *window = c->group->window;
    struct job job = {.cpu = c->be->ctx,
                      .n_part = (uint32_t)c->group->size,
                      .out = (float *)sk_cpu_ptr(c->op->out) + (size_t)row * c->op->ld_out,
                      .ld_out = c->op->ld_out,
                      .ld = c->ld,
                      .n_row = rows_of(c, row),
                      .item_rows = c->ld < ITEM_FLOATS ? (uint32_t)(ITEM_FLOATS / c->ld) : 1};

    window->wait(c->group, job.part);
    sk_cpu_run(c->be->ctx, (job.n_row + job.item_rows - 1) / job.item_rows, job.n_row * c->ld, sum_item, &job);
    window->end(c->group);
}

/* Half of the window's rounds are this rank's lead over the others, half theirs over this one. */
int sk_cpu_linear_reduce(struct sk_backend *be, const struct sk_op_linear *op, struct sk_group *group)
{
    const size_t ld = SK_ALIGN16(op->mat->pack.n_out);
    const struct chunks c = {be, op, group, ld, chunk_rows(op->n_row, ld, group->window->max)};
    const uint32_t n_chunk = (op->n_row + c.n_row - 1) / c.n_row, lead = group->window->depth / 2;

    for (uint32_t i = 0; i < n_chunk + lead; i++) {
        if (i < n_chunk)
            make(&c, i * c.n_row);
        if (i >= lead)
            finish(&c, (i - lead) * c.n_row);
    }
    return 0;
}
