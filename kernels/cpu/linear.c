/* linear: rows are quantised once per op (8-bit and 4-bit weights), then panels x row tiles are shared out. */
#include "kernels/cpu/cpu.h"

enum {
    QUANT_BYTES = 4 << 20,  /* quantised rows at a time: they stay in cache while all panels pass */
    QUANT_ITEM = 1024,      /* inputs of one tile */
    ITEM_BYTES = 128 << 10, /* weights of an item: they stay in a core's cache while all its row tiles pass */
    ITEMS_PER_THREAD = 8    /* so that the last item is waited for an eighth of the op at most */
};

struct job {
    struct sk_cpu *cpu;
    struct sk_gemm g;
    const float *x; /* rows of this pass */
    uint32_t n_row, n_tile;
    uint32_t item_panels, n_row_part, part_tiles; /* an item: item_panels panels x part_tiles tiles */
};

static uint32_t ceil_div(uint32_t a, uint32_t b)
{
    return (a + b - 1) / b;
}

static uint32_t tile_rows(const struct job *job, uint32_t tile)
{
    const uint32_t left = job->n_row - tile * SK_TILE_ROWS;
    return left < SK_TILE_ROWS ? left : SK_TILE_ROWS;
}

/* A stretch of QUANT_ITEM inputs of a tile. */
static void quant_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const struct sk_pack *p = job->g.pack;
    const uint32_t n_part = ceil_div(p->n_in, QUANT_ITEM), tile = item / n_part, from = item % n_part * QUANT_ITEM;
    const uint32_t n = p->n_in - from < QUANT_ITEM ? p->n_in - from : QUANT_ITEM, n_row = tile_rows(job, tile);
    const size_t tile_at = (size_t)tile * SK_TILE_ROWS * (p->n_in / SK_QBLOCK) * SK_QUANT_ROW_BYTES;
    const size_t at = (size_t)n_row * (from / SK_QBLOCK) * SK_QUANT_ROW_BYTES;

    job->cpu->k.quant(p->dtype, job->x + tile * SK_TILE_ROWS * job->g.ld_x + from, job->g.ld_x, n_row, n,
                      (uint8_t *)job->cpu->scratch + tile_at + at);
}

static void gemm_item(void *ctx, uint32_t item, int worker)
{
    const struct job *job = ctx;
    const uint32_t panel = item / job->n_row_part * job->item_panels, first = item % job->n_row_part * job->part_tiles;
    const uint32_t n_left = job->g.pack->n_panel - panel, n_panel = n_left < job->item_panels ? n_left : job->item_panels;
    const uint32_t end = first + job->part_tiles < job->n_tile ? first + job->part_tiles : job->n_tile;
    const sk_gemm_fn gemm = job->cpu->k.gemm[job->g.pack->dtype];

    for (uint32_t tile = first; tile < end; tile++)
        gemm(&job->g, panel, n_panel, tile * SK_TILE_ROWS, tile_rows(job, tile));
}

/* Items of whole panels; where panels are too few for the threads, rows are cut, too. */
static void run_gemm(struct job *job)
{
    const struct sk_pack *p = job->g.pack;
    const uint32_t want = (uint32_t)sk_pool_size(job->cpu->pool) * ITEMS_PER_THREAD;
    const uint64_t panel_bytes = p->panel_stride * p->n_slab, fit = ITEM_BYTES / panel_bytes;

    job->item_panels = p->n_panel / want;
    if (job->item_panels > fit)
        job->item_panels = (uint32_t)fit;
    if (job->item_panels == 0)
        job->item_panels = 1;
    const uint32_t n_group = ceil_div(p->n_panel, job->item_panels), parts = n_group >= want ? 1 : ceil_div(want, n_group);
    job->part_tiles = ceil_div(job->n_tile, parts);
    job->n_row_part = ceil_div(job->n_tile, job->part_tiles);
    sk_cpu_run(job->cpu, n_group * job->n_row_part, panel_bytes * p->n_panel, gemm_item, job);
}

static void run_pass(struct job *job, bool quantised)
{
    const uint32_t n_in = job->g.pack->n_in;

    job->n_tile = ceil_div(job->n_row, SK_TILE_ROWS);
    if (quantised) {
        sk_cpu_run(job->cpu, job->n_tile * ceil_div(n_in, QUANT_ITEM), (uint64_t)job->n_row * n_in, quant_item, job);
        job->g.x = job->cpu->scratch;
    } else {
        job->g.x = job->x;
    }
    run_gemm(job);
}

void sk_cpu_linear(struct sk_backend *be, const struct sk_op_linear *op)
{
    const struct sk_pack *p = &op->mat->pack;
    const bool quantised = p->dtype == SK_Q8 || p->dtype == SK_Q4;
    uint64_t pass_rows = op->n_row;

    if (quantised) {
        pass_rows = QUANT_BYTES / ((uint64_t)(p->n_in / SK_QBLOCK) * SK_QUANT_ROW_BYTES) / SK_TILE_ROWS * SK_TILE_ROWS;
        sk_assert(pass_rows > 0); /* n_in <= 209,696 */
    }
    for (uint64_t r = 0; r < op->n_row; r += pass_rows) {
        const uint64_t left = op->n_row - r;
        struct job job = {.cpu = be->ctx,
                          .g = {.pack = p,
                                .weight = sk_cpu_ptr(op->mat->data),
                                .bias = sk_cpu_ptr(op->bias),
                                .out = (float *)sk_cpu_ptr(op->out) + r * op->ld_out,
                                .ld_x = op->ld_x,
                                .ld_out = op->ld_out,
                                .add = op->add},
                          .x = (const float *)sk_cpu_ptr(op->x) + r * op->ld_x,
                          .n_row = (uint32_t)(left < pass_rows ? left : pass_rows)};
        run_pass(&job, quantised);
    }
}
