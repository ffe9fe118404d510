/* linear: rows become tiles, then panels x tiles are shared out. What comes before a linear (struct sk_op_pre) happens
 * where tiles are made, a stretch of a few rows at a time, so that it costs no pass over memory. Few rows are cheap
 * enough for each thread to make all tiles itself and wait for nobody; many are a stage of the job. */
#include "kernels/cpu/cpu.h"

struct job {
    struct sk_cpu *cpu;
    const struct sk_gemm_kernel *kernel;
    const struct sk_op_pre *pre;
    struct sk_gemm g; /* x: tiles that all share; NULL: each thread has its own */
    const float *x;   /* rows of this pass */
    size_t ld_x;
    uint64_t number;
    uint32_t n_row, n_tile, stretch, n_stretch;
    uint32_t item_panels, n_row_part, part_tiles; /* an item: item_panels panels x part_tiles tiles */
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static uint32_t min_of(uint32_t a, uint32_t b)
{
    return a < b ? a : b;
}

/* Inputs from..from + n - 1 of a row that begins at x. */
static void prepare(const struct job *job, const float *x, uint32_t from, uint32_t n, float *ret)
{
    const struct sk_ktab *k = &job->cpu->k;
    const struct sk_op_pre *pre = job->pre;
    const uint32_t n_in = job->g.pack->n_in;

    if (pre->kind == SK_PRE_ACT || pre->kind == SK_PRE_GATED_ACT) {
        k->act(ret, x + from, pre->kind == SK_PRE_GATED_ACT ? x + n_in + from : NULL, n, pre->act);
    } else {
        const float *weight = sk_cpu_ptr(pre->weight), *bias = sk_cpu_ptr(pre->bias);
        const struct sk_norm_stat stat = k->norm_stat(x, n_in, pre->eps, pre->kind == SK_PRE_LAYER_NORM);
        k->norm(ret, x + from, stat, weight + from, bias != NULL ? bias + from : NULL, n);
    }
}

/* A stretch of a tile. */
static void make_tile(const struct job *job, uint32_t item, struct sk_cpu_worker *w, char *tiles)
{
    const struct sk_pack *p = job->g.pack;
    const uint32_t row = item / job->n_stretch * SK_TILE_ROWS, n_row = min_of(job->n_row - row, SK_TILE_ROWS);
    const uint32_t from = item % job->n_stretch * job->stretch, n = min_of(p->n_in - from, job->stretch);
    const float *x = job->x + row * job->ld_x;
    char *to = tiles + row * job->kernel->row_bytes(p);

    if (job->pre->kind == SK_PRE_NONE) {
        job->kernel->tile(p, x + from, job->ld_x, n_row, from, n, to);
        return;
    }
    for (uint32_t r = 0; r < n_row; r++)
        prepare(job, x + r * job->ld_x, from, n, w->rows[r]);
    job->kernel->tile(p, w->rows[0], sizeof w->rows[0] / sizeof w->rows[0][0], n_row, from, n, to);
}

static void tile_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    make_tile(job, item, &job->cpu->worker[worker], job->cpu->scratch);
}

static const char *own_tiles(const struct job *job, struct sk_cpu_worker *w)
{
    if (w->tiles_of != job->number)
        for (uint32_t i = 0; i < job->n_tile * job->n_stretch; i++)
            make_tile(job, i, w, w->tiles);
    w->tiles_of = job->number;
    return w->tiles;
}

static void gemm_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    struct sk_cpu_worker *w = &job->cpu->worker[worker];
    struct sk_gemm g = job->g;
    const uint32_t panel = item / job->n_row_part * job->item_panels,
                   n_panel = min_of(g.pack->n_panel - panel, job->item_panels);
    const uint32_t row = item % job->n_row_part * job->part_tiles * SK_TILE_ROWS,
                   n_row = min_of(job->n_row - row, job->part_tiles * SK_TILE_ROWS);

    if (g.x == NULL)
        g.x = own_tiles(job, w);
    job->kernel->run(&g, panel, n_panel, row, n_row, w->scratch);
}

/* Items of whole panels; where panels are too few for the threads, rows are cut, too. Returns how many. */
static uint32_t cut_panels(struct job *job)
{
    const struct sk_pack *p = job->g.pack;
    const struct sk_tune *tune = &job->cpu->tune;
    const uint32_t want = job->cpu->be.n_thread * tune->items_per_thread;
    const uint64_t fit = tune->item_bytes / (p->bytes / p->n_panel);

    job->item_panels = p->n_panel / want;
    if (job->item_panels > fit)
        job->item_panels = (uint32_t)fit;
    if (job->item_panels == 0)
        job->item_panels = 1;
    const uint32_t n_group = ceil_div(p->n_panel, job->item_panels);
    job->part_tiles = ceil_div(job->n_tile, ceil_div(want, n_group));
    job->n_row_part = ceil_div(job->n_tile, job->part_tiles);
    return n_group * job->n_row_part;
}

/* Stretches as long as scratch allows, but enough of them for `n_thread`. */
static void cut_tiles(struct job *job, uint32_t n_thread)
{
    const uint32_t n_in = job->g.pack->n_in, unit = SK_TILE_STRETCH;

    job->stretch = ceil_div(ceil_div(n_in, ceil_div(n_thread, job->n_tile)), unit) * unit;
    job->stretch = min_of(job->stretch, SK_CPU_STRETCH);
    job->n_stretch = ceil_div(n_in, job->stretch);
}

static void run_pass(struct job *job)
{
    const size_t tile_bytes = SK_TILE_ROWS * job->kernel->row_bytes(job->g.pack);
    const bool own = job->n_row <= job->cpu->tune.own_rows && tile_bytes <= SK_CPU_OWN_BYTES;

    job->number = ++job->cpu->n_linear;
    job->n_tile = ceil_div(job->n_row, SK_TILE_ROWS);
    cut_tiles(job, own ? 1 : job->cpu->be.n_thread);
    const struct sk_pool_stage stages[] = {{tile_item, job->n_tile * job->n_stretch}, {gemm_item, cut_panels(job)}};
    if (own) {
        sk_cpu_run_stages(job->cpu, &stages[1], 1, job->g.pack->bytes, job);
    } else {
        job->g.x = job->cpu->scratch;
        sk_cpu_run_stages(job->cpu, stages, 2, job->g.pack->bytes, job);
    }
}

/* Rows from `first` on, all of one class. */
static void run_class(struct sk_cpu *cpu, const struct sk_op_linear *op, enum sk_class class, uint32_t first,
                      uint32_t n_row)
{
    const struct sk_pack *p = &op->mat->pack;
    const struct sk_gemm_kernel *kernel = cpu->k.gemm[class][p->dtype];
    const size_t tile_bytes = SK_TILE_ROWS * kernel->row_bytes(p);
    const uint32_t pass_tiles = tile_bytes < cpu->tune.pass_bytes ? (uint32_t)(cpu->tune.pass_bytes / tile_bytes) : 1;

    sk_assert(tile_bytes <= SK_CPU_SCRATCH_BYTES); /* n_in <= 65,536 */
    for (uint32_t r = first, end = first + n_row; r < end; r += pass_tiles * SK_TILE_ROWS) {
        struct job job = {.cpu = cpu,
                          .kernel = kernel,
                          .pre = &op->pre,
                          .x = (const float *)sk_cpu_ptr(op->x) + (size_t)r * op->ld_x,
                          .ld_x = op->ld_x,
                          .n_row = min_of(end - r, pass_tiles * SK_TILE_ROWS)};
        job.g = (struct sk_gemm){.pack = p,
                                 .weight = sk_cpu_ptr(op->mat->data),
                                 .bias = sk_cpu_ptr(op->bias),
                                 .out = (float *)sk_cpu_ptr(op->out) + (size_t)r * op->ld_out,
                                 .ld_out = op->ld_out,
                                 .add = op->add};
        run_pass(&job);
    }
}

/* The classes apart where they differ; else the weights are read once for both. */
void sk_cpu_linear(struct sk_backend *be, const struct sk_op_linear *op)
{
    struct sk_cpu *cpu = be->ctx;
    const enum sk_dtype dtype = op->mat->pack.dtype;

    if (cpu->k.gemm[SK_CLASS_PROMPT][dtype] == cpu->k.gemm[SK_CLASS_DECODE][dtype]) {
        run_class(cpu, op, SK_CLASS_DECODE, 0, op->n_row);
    } else {
        run_class(cpu, op, SK_CLASS_PROMPT, 0, op->n_prompt_row);
        run_class(cpu, op, SK_CLASS_DECODE, op->n_prompt_row, op->n_row - op->n_prompt_row);
    }
}
