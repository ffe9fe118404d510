#define _GNU_SOURCE 1
#include "tests/bench/roof.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "comm/base/clock.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/pool.h"

enum { MIB = 1 << 20, ROUNDS = 20 * 1000, TRIES = 5, PARTS = 4 /* items a thread: one that is late costs a quarter */ };

struct job {
    double (*multiply)(uint32_t n_round); /* NULL: read */
    const char *mem;
    size_t part_bytes;
};

static void item(void *ctx, uint32_t i, int worker)
{
    const struct job *j = ctx;
    if (j->multiply != NULL)
        j->multiply(ROUNDS);
    else
        roof_read(j->mem + i * j->part_bytes, j->part_bytes);
}

/* Of several tries the best: other work on the machine only ever adds time. */
static double best(struct sk_pool *pool, struct job *job, double units)
{
    const struct sk_pool_stage stage = {item, (uint32_t)sk_pool_size(pool) * PARTS};
    double rate = 0;

    for (int i = 0; i < TRIES; i++) {
        const uint64_t begin = sk_clock_ns();
        sk_pool_run(pool, &stage, 1, job);
        const double s = (double)(sk_clock_ns() - begin) * 1e-9;
        rate = units / s > rate ? units / s : rate;
    }
    return rate;
}

static bool has(uint32_t isa, enum sk_isa level)
{
    return isa >> level & 1;
}

static double read_rate(struct sk_pool *pool, const char *mem, size_t bytes)
{
    const size_t n_item = (size_t)sk_pool_size(pool) * PARTS, part = bytes / n_item / 256 * 256;
    struct job job = {.mem = mem, .part_bytes = part};
    return best(pool, &job, (double)(part * n_item));
}

static double multiply_rate(struct sk_pool *pool, double (*multiply)(uint32_t n_round), bool there)
{
    struct job job = {.multiply = multiply};
    return there ? best(pool, &job, multiply(1) * ROUNDS * sk_pool_size(pool) * PARTS) : 0;
}

int roof_measure(int n_thread, struct roof *ret)
{
    const uint32_t isa = sk_isa_detect();
    const size_t bytes = (size_t)1024 * MIB;
    struct sk_pool *pool;
    char *mem = mmap(NULL, bytes + 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (!has(isa, SK_ISA_AVX512_VNNI) || mem == MAP_FAILED || sk_pool_open(n_thread, false, &pool, NULL) < 0)
        return -1;
    madvise(mem, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096)
        mem[i] = 1;
    *ret = (struct roof){
        .n_thread = sk_pool_size(pool),
        .read = read_rate(pool, mem, bytes),
        .read_96m = read_rate(pool, mem, (size_t)96 * MIB),
        .int8 = multiply_rate(pool, roof_int8, true),
        .f32 = multiply_rate(pool, roof_f32, true),
        .bf16 = multiply_rate(pool, roof_bf16, has(isa, SK_ISA_AVX512_BF16)),
        .amx_bf16 = multiply_rate(pool, roof_amx_bf16, has(isa, SK_ISA_AMX)),
        .amx_int8 = multiply_rate(pool, roof_amx_int8, has(isa, SK_ISA_AMX)),
    };
    sk_pool_close(pool);
    munmap(mem, bytes + 4096);
    return 0;
}
