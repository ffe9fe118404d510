#define _GNU_SOURCE 1
#include "kernels/cpu/cpu.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "comm/base/mem.h"

enum { SMALL_FLOATS = 8 << 10, HUGE_BYTES = SK_CPU_HUGE_BYTES };

void sk_cpu_run(struct sk_cpu *cpu, uint32_t n_item, uint64_t n_float, sk_pool_fn fn, void *ctx)
{
    sk_cpu_run_stages(cpu, &(struct sk_pool_stage){fn, n_item}, 1, n_float, ctx);
}

void sk_cpu_run_stages(struct sk_cpu *cpu, const struct sk_pool_stage *stage, uint32_t n_stage, uint64_t n_float,
                       void *ctx)
{
    if (n_float > SMALL_FLOATS)
        sk_pool_run(cpu->pool, stage, n_stage, ctx);
    else
        sk_pool_run_alone(stage, n_stage, ctx);
}

/* Fresh pages: zeroed, and paid for when touched. What is big begins on a huge page and asks for more of them:
 * streaming through 4 KiB pages costs a tenth of the bandwidth. */
static void *map_pages(uint64_t bytes)
{
    const uint64_t slack = bytes >= HUGE_BYTES ? HUGE_BYTES : 0;
    if (bytes > SIZE_MAX - slack)
        return NULL;
    char *p = mmap(NULL, bytes + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return NULL;
    if (slack > 0) {
        const size_t before = -(uintptr_t)p % HUGE_BYTES;
        if (before > 0)
            munmap(p, before);
        p += before;
        const size_t end = (bytes + 4095) & ~(uint64_t)4095;
        if (before + end < bytes + slack)
            munmap(p + end, bytes + slack - before - end);
        madvise(p, bytes, MADV_HUGEPAGE); /* a wish: without it all is as right and a little slower */
    }
    return p;
}

static struct sk_dev cpu_alloc(struct sk_backend *be, uint64_t bytes)
{
    return (struct sk_dev){(uintptr_t)map_pages(bytes)};
}

static void cpu_free(struct sk_backend *be, struct sk_dev d, uint64_t bytes)
{
    if (d.a != 0)
        munmap(sk_cpu_ptr(d), bytes);
}

static struct sk_dev cpu_adopt(struct sk_backend *be, const void *host, uint64_t bytes)
{
    return (struct sk_dev){(uintptr_t)host};
}

static void cpu_release(struct sk_backend *be, struct sk_dev d, uint64_t bytes)
{
}

static void cpu_upload(struct sk_backend *be, struct sk_dev dst, const void *src, uint64_t bytes)
{
    memcpy(sk_cpu_ptr(dst), src, bytes);
}

static void cpu_copy(struct sk_backend *be, struct sk_dev dst, struct sk_dev src, uint64_t bytes)
{
    memmove(sk_cpu_ptr(dst), sk_cpu_ptr(src), bytes);
}

static void cpu_fetch(struct sk_backend *be, void *dst, struct sk_dev src, uint64_t bytes)
{
    memcpy(dst, sk_cpu_ptr(src), bytes);
}

static int cpu_wait(struct sk_backend *be)
{
    const struct sk_cpu *cpu = be->ctx;
    return cpu->failed ? -SK_EINTERNAL : 0;
}

static void cpu_close(struct sk_backend *be)
{
    struct sk_cpu *cpu = be->ctx;
    if (cpu->worker != NULL)
        munmap(cpu->worker, (size_t)sk_pool_size(cpu->pool) * sizeof *cpu->worker);
    sk_pool_close(cpu->pool);
    if (cpu->scratch != NULL)
        munmap(cpu->scratch, SK_CPU_SCRATCH_BYTES);
    sk_free(cpu->row_scratch);
    sk_free(cpu);
}

static const struct sk_backend cpu_table = {
    .name = "cpu",
    .alloc = cpu_alloc,
    .free = cpu_free,
    .adopt = cpu_adopt,
    .release = cpu_release,
    .kv_block_bytes = sk_cpu_kv_block_bytes,
    .upload = cpu_upload,
    .copy = cpu_copy,
    .embed = sk_cpu_embed,
    .linear = sk_cpu_linear,
    .linear_reduce = sk_cpu_linear_reduce,
    .attention = sk_cpu_attention,
    .add = sk_cpu_add,
    .gather = sk_cpu_gather,
    .narrow = sk_cpu_narrow,
    .widen = sk_cpu_widen,
    .checksum = sk_cpu_checksum,
    .logits_process = sk_cpu_logits_process,
    .sample = sk_cpu_sample,
    .top_n = sk_cpu_top_n,
    .vote = sk_cpu_vote,
    .vote_bytes = sk_cpu_vote_bytes,
    .fetch = cpu_fetch,
    .wait = cpu_wait,
    .close = cpu_close,
};

const struct sk_tune sk_tune_default = {
    .pass_bytes = 4 << 20, .item_bytes = 128 << 10, .items_per_thread = 8, .own_rows = 4};

int sk_tune_check(const struct sk_tune *t, struct sk_err *err)
{
    const struct {
        const char *name;
        uint32_t value, min, max;
    } fields[] = {{"pass_bytes", t->pass_bytes, 64 << 10, SK_CPU_SCRATCH_BYTES},
                  {"item_bytes", t->item_bytes, 4 << 10, 64 << 20},
                  {"items_per_thread", t->items_per_thread, 1, 256},
                  {"own_rows", t->own_rows, 0, SK_TILE_ROWS}};
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (fields[i].value < fields[i].min || fields[i].value > fields[i].max)
            return sk_err_set(err, SK_EINVAL, fields[i].name, "tuning: %s is %u: %u to %u are possible", fields[i].name,
                              fields[i].value, fields[i].min, fields[i].max);
    return 0;
}

int sk_cpu_open(const struct sk_backend_conf *conf, struct sk_backend **ret, struct sk_err *err)
{
    enum sk_isa isa = SK_ISA_NONE;
    int rc = sk_isa_choose(sk_isa_detect(), getenv("SKEIN_ISA"), &isa, err);
    if (rc < 0)
        return rc;
    rc = conf->tune != NULL ? sk_tune_check(conf->tune, err) : 0;
    if (rc < 0)
        return rc;
    struct sk_cpu *cpu = sk_calloc(1, sizeof *cpu);
    if (cpu == NULL)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    cpu->tune = conf->tune != NULL ? *conf->tune : sk_tune_default;
    cpu->be = cpu_table;
    cpu->be.isa = sk_isa_name(isa);
    cpu->be.ctx = cpu;
    sk_ktab_fill(&cpu->k, isa);
    cpu->be.classes_equal = sk_ktab_classes_equal(&cpu->k);
    cpu->scratch = map_pages(SK_CPU_SCRATCH_BYTES);
    if (cpu->scratch == NULL) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for the kernels' scratch");
        goto out;
    }
    rc = sk_pool_open(conf->n_thread, conf->pin, &cpu->pool, err);
    if (rc < 0)
        goto out;
    cpu->be.n_thread = (uint32_t)sk_pool_size(cpu->pool);
    cpu->worker = map_pages((uint64_t)cpu->be.n_thread * sizeof *cpu->worker);
    if (cpu->worker == NULL) {
        rc = sk_err_set(err, SK_ENOMEM, NULL, "no memory for the scratch of %u threads", cpu->be.n_thread);
        goto out;
    }
    *ret = &cpu->be;
out:
    if (rc < 0)
        cpu_close(&cpu->be);
    return rc;
}
