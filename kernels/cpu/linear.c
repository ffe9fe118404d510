/* linear: rows are made into tiles once per op, then panels x tiles are shared out. */
#include "kernels/cpu/cpu.h"

enum {
    PASS_BYTES = 4 << 20,   /* tiles at a time: they stay in cache while all panels pass */
    ITEM_BYTES = 128 << 10, /* weights of an item: they stay in a core's cache while all its tiles pass */
    ITEMS_PER_THREAD = 8    /* so that waiting for the last item costs an eighth of the op at most */
};

struct job {
    struct sk_cpu *cpu;
    const struct sk_gemm_kernel *kernel;
    struct sk_gemm g;
    const float *x; /* rows of this pass */
    size_t ld_x;
    uint32_t n_row, n_tile;
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

static uint32_t tile_rows(const struct job *job, uint32_t tile)
{
    return min_of(job->n_row - tile * SK_TILE_ROWS, SK_TILE_ROWS);
}

/* A stretch of a tile. */
static void tile_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const struct sk_pack *p = job->g.pack;
    const uint32_t n_part = ceil_div(p->n_in, SK_TILE_STRETCH), tile = item / n_part, row = tile * SK_TILE_ROWS,
                   from = item % n_part * SK_TILE_STRETCH;

    job->kernel->tile(p, job->x + row * job->ld_x + from, job->ld_x, tile_rows(job, tile), from,
                      min_of(p->n_in - from, SK_TILE_STRETCH),
                      (char *)job->cpu->scratch + row * job->kernel->row_bytes(p));
}

static void gemm_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const uint32_t panel = item / job->n_row_part * job->item_panels,
                   n_panel = min_of(job->g.pack->n_panel - panel, job->item_panels);
    const uint32_t row = item % job->n_row_part * job->part_tiles * SK_TILE_ROWS,
                   n_row = min_of(job->n_row - row, job->part_tiles * SK_TILE_ROWS);

    job->kernel->run(&job->g, panel, n_panel, row, n_row, sk_cpu_worker(job->cpu, worker));
}

/* Items of whole panels; where panels are too few for the threads, rows are cut, too. */
static void run_gemm(struct job *job)
{
    const struct sk_pack *p = job->g.pack;
    const uint32_t want = (uint32_t)sk_pool_size(job->cpu->pool) * ITEMS_PER_THREAD;
    const uint64_t fit = ITEM_BYTES / (p->panel_stride * p->n_slab);

    job->item_panels = p->n_panel / want;
    if (job->item_panels > fit)
        job->item_panels = (uint32_t)fit;
    if (job->item_panels == 0)
        job->item_panels = 1;
    const uint32_t n_group = ceil_div(p->n_panel, job->item_panels);
    job->part_tiles = ceil_div(job->n_tile, ceil_div(want, n_group));
    job->n_row_part = ceil_div(job->n_tile, job->part_tiles);
    sk_cpu_run(job->cpu, n_group * job->n_row_part, p->bytes, gemm_item, job);
}

/* Rows from `first` on, all of one class. */
static void run_class(struct sk_cpu *cpu, const struct sk_op_linear *op, enum sk_class class, uint32_t first,
                      uint32_t n_row)
{
    const struct sk_pack *p = &op->mat->pack;
    const struct sk_gemm_kernel *kernel = cpu->k.gemm[class][p->dtype];
    const uint32_t pass_rows = (uint32_t)(PASS_BYTES / kernel->row_bytes(p) / SK_TILE_ROWS * SK_TILE_ROWS);

    sk_assert(pass_rows > 0); /* n_in <= 65,536 */
    for (uint32_t r = first, end = first + n_row; r < end; r += pass_rows) {
        struct job job = {.cpu = cpu,
                          .kernel = kernel,
                          .x = (const float *)sk_cpu_ptr(op->x) + (size_t)r * op->ld_x,
                          .ld_x = op->ld_x,
                          .n_row = min_of(end - r, pass_rows)};
        job.n_tile = ceil_div(job.n_row, SK_TILE_ROWS);
        job.g = (struct sk_gemm){.pack = p,
                                 .weight = sk_cpu_ptr(op->mat->data),
                                 .x = cpu->scratch,
                                 .bias = sk_cpu_ptr(op->bias),
                                 .out = (float *)sk_cpu_ptr(op->out) + (size_t)r * op->ld_out,
                                 .ld_out = op->ld_out,
                                 .add = op->add};
        sk_cpu_run(cpu, job.n_tile * ceil_div(p->n_in, SK_TILE_STRETCH), (uint64_t)job.n_row * p->n_in, tile_item,
                   &job);
        run_gemm(&job);
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
