/* bench_kernels [THREADS]: speed of the cpu backend's ops on the shapes of SmolLM2-135M and of a 1B llama, beside what
 * the same machine can read and multiply at most. Weights are streamed from a set of copies larger than the caches, as
 * a decode step does. The least of several short runs counts: other work on the machine only ever adds time. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "kernels/kernels.h"
#include "tests/bench/roof.h"

enum {
    WEIGHT_BYTES = 160 << 20,
    MAX_COPY = 512,
    RUN_US = 200,
    ALL_US = 60 * 1000,
    MAX_ROW = 512,
    MAX_WIDTH = 16384,
    MAX_SLOT_TOK = 32 << 10 /* of all slots of an attention */
};

struct bench {
    struct sk_backend *be;
    struct roof roof;
    struct sk_dev weights, x, out, work; /* x, out: MAX_ROW x MAX_WIDTH floats */
};

static void *ptr(struct sk_dev d)
{
    return (void *)(uintptr_t)d.a; // NOLINT(performance-no-int-to-ptr): the cpu backend's memory is the host's
}

/* Least seconds of one call of fn, over runs of RUN_US. */
static double seconds(void (*fn)(void *ctx, uint32_t i), void *ctx)
{
    const uint64_t start = sk_clock_us();
    double best = 1e9;
    uint32_t i = 0;
    for (uint64_t begin = start, now = start; now - start < ALL_US; begin = now) {
        uint32_t n = 0;
        for (; now - begin < RUN_US; n++) {
            fn(ctx, i++);
            now = sk_clock_us();
        }
        const double s = (double)(now - begin) * 1e-6 / n;
        best = s < best ? s : best;
    }
    return best;
}

/* What multiplies weights of a dtype, or a KV cache: the fastest unit that the machine has for it. */
static double unit(const struct roof *r, enum sk_dtype dtype)
{
    if (sk_dtype_in_blocks(dtype))
        return r->int8;
    return dtype == SK_BF16 && r->amx_bf16 > 0 ? r->amx_bf16 : dtype == SK_BF16 && r->bf16 > 0 ? r->bf16 : r->f32;
}

/* --- linear --- */

struct linear_run {
    struct sk_backend *be;
    struct sk_op_linear op;
    struct sk_mat mat[MAX_COPY];
    uint32_t n_copy;
};

static void linear_once(void *ctx, uint32_t i)
{
    struct linear_run *r = ctx;
    r->op.mat = &r->mat[i % r->n_copy];
    r->be->linear(r->be, &r->op);
}

static void linear(const struct bench *b, enum sk_dtype dtype, uint32_t n_out, uint32_t n_in, uint32_t n_row)
{
    struct linear_run r = {.be = b->be};
    struct sk_pack pack;
    if (sk_pack_layout(&pack, dtype, n_out, n_in, n_in) < 0)
        exit(1);
    r.n_copy = (uint32_t)(WEIGHT_BYTES / pack.bytes);
    r.n_copy = r.n_copy > MAX_COPY ? MAX_COPY : r.n_copy;
    for (uint32_t i = 0; i < r.n_copy; i++)
        r.mat[i] = (struct sk_mat){.pack = pack, .data = sk_dev_at(b->weights, i * pack.bytes)};
    r.op = (struct sk_op_linear){
        .out = b->out, .x = b->x, .ld_out = SK_ALIGN16(n_out), .ld_x = SK_ALIGN16(n_in), .n_row = n_row};
    const double s = seconds(linear_once, &r), ops = 2.0 * n_out * n_in * n_row;
    const double peak = unit(&b->roof, dtype);
    printf("linear %-4s %6u x %5u  M %3u  %9.1f us  %6.1f GB/s (%3.0f %%)  %7.1f G%s/s (%3.0f %%)\n",
           sk_dtype_name(dtype), n_out, n_in, n_row, s * 1e6, (double)pack.bytes / s * 1e-9,
           100 * (double)pack.bytes / s / b->roof.read, ops / s * 1e-9, sk_dtype_in_blocks(dtype) ? "OP" : "FLOP",
           100 * ops / s / peak);
}

/* --- attention: n_row rows of one slot that end at position n_tok - 1, or one row each of n_row slots --- */

struct attention_run {
    struct sk_backend *be;
    struct sk_op_attention op;
};

static void attention_once(void *ctx, uint32_t i)
{
    const struct attention_run *r = ctx;
    r->be->attention(r->be, &r->op);
}

static void attention(const struct bench *b, enum sk_dtype dtype, uint32_t n_head, uint32_t n_kv_head, uint32_t n_row,
                      uint32_t n_tok, bool prompt)
{
    enum { DIM = 64 };
    static int32_t slot[MAX_ROW], pos[MAX_ROW], table[MAX_SLOT_TOK / SK_KV_BLOCK];
    const uint32_t n_slot = prompt ? 1 : n_row, ld_table = sk_kv_blocks(n_tok);
    struct sk_kv_layer kv = {
        .data = b->weights, .dtype = dtype, .n_kv_head = n_kv_head, .head_dim = DIM, .head_stride = DIM};
    struct sk_rows rows = {.n_row = n_row, .max_run_row = prompt ? n_row : 1, .max_pos = n_tok - 1};
    double n_pair = 0;

    kv.block_bytes = b->be->kv_block_bytes(b->be, dtype, n_kv_head, DIM);
    kv.n_blk = (uint32_t)(WEIGHT_BYTES / kv.block_bytes);
    for (uint32_t i = 0; i < n_slot * ld_table; i++)
        table[i] = (int32_t)(i % kv.n_blk);
    for (uint32_t i = 0; i < n_row; i++) {
        slot[i] = prompt ? 0 : (int32_t)i;
        pos[i] = (int32_t)(prompt ? n_tok - n_row + i : n_tok - 1);
        n_pair += pos[i] + 1;
    }
    rows.slot.a = (uintptr_t)slot;
    rows.pos.a = (uintptr_t)pos;
    struct attention_run r = {.be = b->be,
                              .op = {.out = b->out,
                                     .qkv = b->x,
                                     .ld_out = n_head * DIM,
                                     .ld_qkv = (n_head + 2 * n_kv_head) * DIM,
                                     .n_head = n_head,
                                     .head_ratio = n_head / n_kv_head,
                                     .scale = 0.125f,
                                     .rows = &rows,
                                     .table = {(uintptr_t)table},
                                     .ld_table = ld_table,
                                     .kv = &kv}};
    const double s = seconds(attention_once, &r), ops = 4.0 * DIM * n_head * n_pair;
    const double bytes = (prompt ? n_tok : n_pair) * kv.block_bytes / SK_KV_BLOCK;
    printf("attention %-4s heads %2u/%u  %s %3u rows, %4u tokens  %9.1f us  %6.1f GB/s (%3.0f %%)  %7.1f GFLOP/s "
           "(%3.0f %%)\n",
           sk_dtype_name(dtype), n_head, n_kv_head, prompt ? "prompt" : "decode", n_row, n_tok, s * 1e6,
           bytes / s * 1e-9, 100 * bytes / s / b->roof.read, ops / s * 1e-9,
           100 * ops / s / unit(&b->roof, dtype == SK_Q8 ? SK_BF16 : dtype));
}

/* --- the small ops --- */

struct small_run {
    struct sk_backend *be;
    struct sk_op_linear linear;
    struct sk_op_logits logits;
};

static void small_once(void *ctx, uint32_t i)
{
    const struct small_run *r = ctx;
    r->be->linear(r->be, &r->linear);
}

static void sample_once(void *ctx, uint32_t i)
{
    const struct small_run *r = ctx;
    r->be->sample(r->be, &r->logits);
}

static void top_n_once(void *ctx, uint32_t i)
{
    const struct small_run *r = ctx;
    r->be->top_n(r->be, &r->logits);
}

/* What comes before a linear, by what it adds to a matrix of one panel. */
static void small(const struct bench *b, uint32_t n_row)
{
    static const struct {
        const char *name;
        uint32_t n_in;
        struct sk_op_pre pre;
    } kinds[] = {{"nothing", 576, {.kind = SK_PRE_NONE}},
                 {"norm", 576, {.kind = SK_PRE_RMS_NORM, .eps = 1e-5f}},
                 {"nothing", 1536, {.kind = SK_PRE_NONE}},
                 {"silu, gated", 1536, {.kind = SK_PRE_GATED_ACT}}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        struct sk_mat mat = {.data = b->weights};
        if (sk_pack_layout(&mat.pack, SK_Q4, SK_PANEL, kinds[i].n_in, kinds[i].n_in) < 0)
            exit(1);
        struct small_run r = {.be = b->be};
        r.linear = (struct sk_op_linear){.out = b->out,
                                         .x = b->x,
                                         .ld_out = SK_PANEL,
                                         .ld_x = 2 * kinds[i].n_in,
                                         .pre = kinds[i].pre,
                                         .mat = &mat,
                                         .n_row = n_row};
        r.linear.pre.weight = b->x;
        printf("16 x %4u after %-12s M %3u  %9.1f us\n", kinds[i].n_in, kinds[i].name, n_row,
               seconds(small_once, &r) * 1e6);
    }
}

static void logits(const struct bench *b, uint32_t n_vocab)
{
    enum { MAX_LEN = 16 };
    static int32_t token[MAX_LEN];
    static struct sk_result_row result;
    static const struct {
        const char *name;
        struct sk_samp s;
    } kinds[] = {
        {"greedy", {.flags = SK_SAMP_GREEDY, .temperature = 1, .top_p = 1, .typical_p = 1}},
        {"temperature", {.temperature = 1, .top_p = 1, .typical_p = 1}},
        {"top_k 40", {.temperature = 1, .top_p = 1, .typical_p = 1, .top_k = 40}},
        {"top_p 0.9", {.temperature = 1, .top_p = 0.9f, .typical_p = 1}},
        {"min_p 0.05", {.temperature = 1, .top_p = 1, .min_p = 0.05f, .typical_p = 1}},
        {"typical 0.9", {.temperature = 1, .top_p = 1, .typical_p = 0.9f}},
    };
    struct small_run r = {.be = b->be};
    struct sk_samp samp;

    r.logits = (struct sk_op_logits){.logits = b->x,
                                     .work = b->work,
                                     .samp = {(uintptr_t)&samp},
                                     .token = {(uintptr_t)token},
                                     .result = {(uintptr_t)&result},
                                     .n_row = 1,
                                     .n_vocab = n_vocab,
                                     .ld = (uint32_t)SK_ALIGN16(n_vocab),
                                     .max_len = MAX_LEN};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        samp = kinds[i].s;
        samp.repetition_penalty = 1;
        samp.seed = 7;
        printf("sample %6u %-12s  %9.1f us\n", n_vocab, kinds[i].name, seconds(sample_once, &r) * 1e6);
    }
    samp.n_top = 20;
    samp.flags = SK_SAMP_LOGPROB;
    printf("top_n  %6u top 20        %9.1f us\n", n_vocab, seconds(top_n_once, &r) * 1e6);
}

int main(int argc, char **argv)
{
    static const struct {
        enum sk_dtype dtype;
        uint32_t n_out, n_in, max_row;
    } shapes[] = {
        {SK_Q4, 960, 576, 512},   {SK_Q4, 576, 576, 512},    {SK_Q4, 3072, 576, 512},   {SK_Q4, 576, 1536, 512},
        {SK_Q8, 49152, 576, 32},  {SK_Q8, 3072, 576, 512},   {SK_BF16, 3072, 576, 512}, {SK_F32, 3072, 576, 512},
        {SK_Q4, 8192, 2048, 512}, {SK_Q4S, 8192, 2048, 512}, {SK_Q8, 8192, 2048, 512},  {SK_BF16, 8192, 2048, 32},
    };
    static const uint32_t n_rows[] = {1, 8, 32, 512};
    const int n_thread = argc > 1 ? atoi(argv[1]) : 0;
    struct sk_err err = {0};
    struct bench b;

    if (sk_cpu_open(&(struct sk_backend_conf){.n_thread = n_thread}, &b.be, &err) < 0) {
        fprintf(stderr, "bench_kernels: %s\n", err.msg);
        return 1;
    }
    b.weights = b.be->alloc(b.be, WEIGHT_BYTES + 4096);
    b.x = b.be->alloc(b.be, (uint64_t)MAX_ROW * MAX_WIDTH * sizeof(float));
    b.out = b.be->alloc(b.be, (uint64_t)32 * 49152 * sizeof(float) + (uint64_t)MAX_ROW * MAX_WIDTH * sizeof(float));
    b.work = b.be->alloc(b.be, (uint64_t)256 * 1024 * sizeof(float));
    memset(ptr(b.weights), 0x11, WEIGHT_BYTES); /* small normal numbers in any format */
    for (size_t i = 0; i < (size_t)MAX_ROW * MAX_WIDTH; i++)
        ((float *)ptr(b.x))[i] = (float)((i * 2654435761u >> 16) % 4096) / 256 - 8; /* logits that differ by up to 16 */
    if (roof_measure(n_thread, &b.roof) < 0) {
        fprintf(stderr, "bench_kernels: no AVX-512 with VNNI to measure the roof with, or no memory\n");
        return 1;
    }
    printf("roof, %d threads: read %.1f GB/s, int8 %.0f GOP/s, bf16 %.0f GFLOP/s, f32 %.0f GFLOP/s", b.roof.n_thread,
           b.roof.read * 1e-9, b.roof.int8 * 1e-9, b.roof.bf16 * 1e-9, b.roof.f32 * 1e-9);
    printf(", AMX int8 %.0f GOP/s, bf16 %.0f GFLOP/s\n", b.roof.amx_int8 * 1e-9, b.roof.amx_bf16 * 1e-9);
    printf("backend %s\n", b.be->isa);
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (size_t j = 0; j < 4 && n_rows[j] <= shapes[i].max_row; j++)
            linear(&b, shapes[i].dtype, shapes[i].n_out, shapes[i].n_in, n_rows[j]);
    for (int i = 0; i < 3; i++) {
        const enum sk_dtype kv = i == 0 ? SK_F32 : i == 1 ? SK_BF16 : SK_Q8;
        attention(&b, kv, 9, 3, 1, 128, false);
        attention(&b, kv, 9, 3, 1, 2048, false);
        attention(&b, kv, 9, 3, 1, 32768, false);
        attention(&b, kv, 9, 3, 32, 512, false);
        attention(&b, kv, 9, 3, 512, 512, true);
        attention(&b, kv, 9, 3, 64, 32768, true);
        attention(&b, kv, 32, 8, 512, 512, true);
    }
    for (size_t j = 0; j < 4; j++)
        small(&b, n_rows[j]);
    logits(&b, 49152);
    logits(&b, 151936);
    b.be->close(b.be);
    return 0;
}
