/* linear: rows are made into tiles once per op, then panels x tiles are shared out. */
#include "kernels/cpu/cpu.h"

enum {
    PASS_BYTES = 4 << 20,   /* tiles at a time: they stay in cache while all panels pass */
    TILE_ITEM = 1024,       /* inputs of one tile that are made at once */
    ITEM_BYTES = 128 << 10, /* weights of an item: they stay in a core's cache while all its tiles pass */
    ITEMS_PER_THREAD = 8    /* so that waiting for the last item costs an eighth of the op at most */
};

struct job {
    struct sk_cpu *cpu;
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

/* A stretch of TILE_ITEM inputs of a tile. */
static void tile_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const struct sk_pack *p = job->g.pack;
    const uint32_t n_part = ceil_div(p->n_in, TILE_ITEM), row = item / n_part * SK_TILE_ROWS,
                   from = item % n_part * TILE_ITEM;
    const uint32_t n_row = tile_rows(job, item / n_part);
    char *to = (char *)job->cpu->scratch + row * sk_tile_row_bytes(p->dtype, p->n_in) +
               n_row * sk_tile_row_bytes(p->dtype, from);

    job->cpu->k.tile[p->dtype](job->x + row * job->ld_x + from, job->ld_x, n_row, min_of(p->n_in - from, TILE_ITEM),
                               to);
}

static void gemm_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const struct sk_pack *p = job->g.pack;
    const uint32_t panel = item / job->n_row_part * job->item_panels,
                   n_panel = min_of(p->n_panel - panel, job->item_panels);
    const uint32_t first = item % job->n_row_part * job->part_tiles, end = min_of(first + job->part_tiles, job->n_tile);

    for (uint32_t tile = first; tile < end; tile++)
        job->cpu->k.gemm[p->dtype](&job->g, panel, n_panel, tile * SK_TILE_ROWS, tile_rows(job, tile));
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

void sk_cpu_linear(struct sk_backend *be, const struct sk_op_linear *op)
{
    const struct sk_pack *p = &op->mat->pack;
    const size_t row_bytes = sk_tile_row_bytes(p->dtype, p->n_in);
    const uint32_t pass_rows = (uint32_t)(PASS_BYTES / row_bytes / SK_TILE_ROWS * SK_TILE_ROWS);

    sk_assert(pass_rows > 0); /* n_in <= 65,536 */
    for (uint32_t r = 0; r < op->n_row; r += pass_rows) {
        struct job job = {.cpu = be->ctx,
                          .x = (const float *)sk_cpu_ptr(op->x) + (size_t)r * op->ld_x,
                          .ld_x = op->ld_x,
                          .n_row = min_of(op->n_row - r, pass_rows)};
        job.n_tile = ceil_div(job.n_row, SK_TILE_ROWS);
        job.g = (struct sk_gemm){.pack = p,
                                 .weight = sk_cpu_ptr(op->mat->data),
                                 .x = job.cpu->scratch,
                                 .bias = sk_cpu_ptr(op->bias),
                                 .out = (float *)sk_cpu_ptr(op->out) + (size_t)r * op->ld_out,
                                 .ld_out = op->ld_out,
                                 .add = op->add};
        sk_cpu_run(job.cpu, job.n_tile * ceil_div(p->n_in, TILE_ITEM), (uint64_t)job.n_row * p->n_in, tile_item, &job);
        run_gemm(&job);
    }
}
