#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "engine/build/bake.h"
#include "engine/build/quant.h"

static void *load(const char *name, size_t *ret_n)
{
    const char *root = getenv("SK_SRCDIR");
    char path[512];
    static const size_t max = 1 << 16;
    void *p = malloc(max);

    snprintf(path, sizeof path, "%s/tests/golden/quants/%s", root ? root : ".", name);
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    *ret_n = fread(p, 1, max, f);
    fclose(f);
    return p;
}

static const struct {
    const char *name;
    uint32_t type;
} types[] = {
    {"F16", SK_SRC_F16}, {"BF16", SK_SRC_BF16}, {"Q4_0", SK_SRC_Q4_0}, {"Q4_1", SK_SRC_Q4_1}, {"Q8_0", SK_SRC_Q8_0}};

/* Bit for bit what GGML's own dequantisation gives. */
static void test_golden(void **state)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        char name[32];
        size_t n_q, n_f;
        uint64_t bytes;
        snprintf(name, sizeof name, "%s.q", types[i].name);
        uint8_t *q = load(name, &n_q);
        snprintf(name, sizeof name, "%s.f32", types[i].name);
        float *want = load(name, &n_f);
        uint64_t n = n_f / sizeof(float);
        assert_int_equal(sk_src_type_bytes(types[i].type, n, &bytes), 0);
        assert_int_equal(bytes, n_q);
        float *got = malloc(n_f);
        sk_quant_read(types[i].type, q, n, got);
        for (uint64_t k = 0; k < n; k++)
            assert_true(got[k] == want[k] || (isnan(got[k]) && isnan(want[k])));
        free(got);
        free(want);
        free(q);
    }
}

/* Blocks that are taken over mean the same in a pack of that dtype; those of Q4_0 with a scale whose 8-fold is not in
 * f16 get an infinite m in a pack of q4, which sk_bake_matrix refuses. */
static void check_blocks(const char *type_name, uint32_t type, enum sk_dtype dtype)
{
    char name[32];
    size_t n_q, n_f;
    snprintf(name, sizeof name, "%s.q", type_name);
    uint8_t *q = load(name, &n_q);
    snprintf(name, sizeof name, "%s.f32", type_name);
    float *want = load(name, &n_f);
    uint32_t n = (uint32_t)(n_f / sizeof(float));
    struct sk_block *blocks = malloc(n / SK_QBLOCK * sizeof *blocks);
    struct sk_pack p;
    assert_int_equal(sk_pack_layout(&p, dtype, 1, n, n), 0);
    void *data = calloc(1, p.bytes);
    float *got = malloc(n_f);
    sk_quant_blocks(type, dtype, q, n / SK_QBLOCK, blocks);
    sk_pack_put_blocks(&p, data, 0, blocks);
    sk_pack_get_row(&p, data, 0, got);
    for (uint32_t k = 0; k < n; k++) {
        const struct sk_block *b = &blocks[k / SK_QBLOCK];
        if (type == SK_SRC_Q4_0 && dtype == SK_Q4 && fabsf(sk_f16_to_f32(b->d)) * 8 >= 65520)
            assert_true(isinf(sk_f16_to_f32(b->m)));
        else if (!(got[k] == want[k]))
            fail_msg("%s: value %u is %g instead of %g", type_name, k, (double)got[k], (double)want[k]);
    }
    free(got);
    free(data);
    free(blocks);
    free(want);
    free(q);
}

static void test_blocks_exact(void **state)
{
    check_blocks("Q4_0", SK_SRC_Q4_0, SK_Q4S);
    check_blocks("Q4_0", SK_SRC_Q4_0, SK_Q4);
    check_blocks("Q4_1", SK_SRC_Q4_1, SK_Q4);
    check_blocks("Q8_0", SK_SRC_Q8_0, SK_Q8);
}

static struct sk_src_tensor src(uint32_t type)
{
    return (struct sk_src_tensor){.name = "t", .type = type};
}

/* The choice for a matrix made of tensors of two types. */
static struct sk_quant_choice choose(uint32_t a, uint32_t b, uint32_t n_in, const char *mode)
{
    struct sk_src_tensor ta = src(a), tb = src(b);
    struct sk_recipe r = {.n_out = 32,
                          .n_in = n_in,
                          .src_in = n_in,
                          .in_run = n_in,
                          .in_stride = n_in,
                          .n_part = 2,
                          .parts = {{.t = &ta}, {.t = &tb}}};
    struct sk_quant_choice c;

    sk_quant_choose(&r, mode, &c);
    return c;
}

static void test_choose(void **state)
{
    struct sk_quant_choice c = choose(SK_SRC_Q4_0, SK_SRC_Q4_1, 64, "keep");
    assert_true(c.dtype == SK_Q4 && c.blocks && c.note[0]);
    c = choose(SK_SRC_Q4_0, SK_SRC_Q4_0, 64, "keep");
    assert_true(c.dtype == SK_Q4S && c.blocks && !c.note[0]);
    c = choose(SK_SRC_Q4_0, SK_SRC_Q8_0, 64, "keep");
    assert_true(c.dtype == SK_Q8 && !c.blocks && c.note[0]);
    c = choose(SK_SRC_Q4_0, SK_SRC_F16, 64, "keep");
    assert_true(c.dtype == SK_F32 && !c.blocks && c.note[0]);
    c = choose(SK_SRC_F16, SK_SRC_BF16, 64, "keep");
    assert_true(c.dtype == SK_F32);
    c = choose(SK_SRC_BF16, SK_SRC_BF16, 63, "keep");
    assert_true(c.dtype == SK_F32 && c.note[0]);
    c = choose(SK_SRC_F32, SK_SRC_F32, 72, "q4");
    assert_true(c.dtype == SK_BF16 && strstr(c.note, "multiple of 32"));
    c = choose(SK_SRC_F32, SK_SRC_F32, 72, "f32");
    assert_true(c.dtype == SK_F32 && !c.note[0]);
    c = choose(SK_SRC_Q4_1, SK_SRC_Q4_1, 64, "q4");
    assert_true(c.dtype == SK_Q4 && c.blocks);
    c = choose(SK_SRC_Q4_0, SK_SRC_Q4_0, 64, "q4");
    assert_true(c.dtype == SK_Q4 && c.blocks && !c.note[0]);
    c = choose(SK_SRC_Q4_1, SK_SRC_Q4_1, 64, "q4s");
    assert_true(c.dtype == SK_Q4S && !c.blocks && !c.note[0]);
    c = choose(SK_SRC_Q4_1, SK_SRC_Q4_1, 64, "q8");
    assert_true(c.dtype == SK_Q8 && !c.blocks);

    struct sk_src_tensor t = src(SK_SRC_Q4_0);
    struct sk_recipe r = {.lookup = true,
                          .n_out = 32,
                          .n_in = 64,
                          .src_in = 64,
                          .in_run = 64,
                          .in_stride = 64,
                          .n_part = 1,
                          .parts = {{.t = &t}}};
    sk_quant_choose(&r, "q4", &c);
    assert_true(c.dtype == SK_Q8 && c.note[0]);
    sk_quant_choose(&r, "q4s", &c);
    assert_true(c.dtype == SK_Q8 && c.note[0]);
    sk_quant_choose(&r, "keep", &c);
    assert_true(c.dtype == SK_Q4S && c.blocks);
    r.exact = true;
    sk_quant_choose(&r, "q4", &c);
    assert_true(c.dtype == SK_F32 && !c.note[0]);

    /* 8 heads of 24 come to lie at multiples of 32: blocks do not fit any more. */
    r = (struct sk_recipe){
        .n_out = 32, .n_in = 256, .src_in = 192, .in_run = 24, .in_stride = 32, .n_part = 1, .parts = {{.t = &t}}};
    sk_quant_choose(&r, "keep", &c);
    assert_true(c.dtype == SK_BF16 && !c.blocks && strstr(c.note, "padded"));
    sk_quant_choose(&r, "q4", &c);
    assert_true(c.dtype == SK_Q4 && !c.blocks);
}

static uint32_t slab(uint32_t cut_unit, uint32_t n_in, uint32_t n_cut, enum sk_dtype t)
{
    struct sk_recipe r = {.split = SK_SPLIT_IN, .cut_unit = cut_unit, .n_in = n_in, .n_cut = n_cut};

    return sk_quant_slab(&r, t);
}

static void test_slab(void **state)
{
    assert_int_equal(slab(64, 576, 9, SK_Q4), 64);       /* 9 heads */
    assert_int_equal(slab(1, 1536, 9, SK_Q4), 128);      /* 24 units of 64, in 12 slabs */
    assert_int_equal(slab(128, 4096, 32, SK_BF16), 128); /* 32 heads, a slab each */
    assert_int_equal(slab(1, 8192, 32, SK_Q4), 256);     /* 32 slabs */
    assert_int_equal(slab(1, 11008, 32, SK_Q4), 256);    /* 172 units in 43: in 4 they are too few */
    assert_int_equal(slab(64, 64 * 17, 17, SK_F32), 64);
    assert_int_equal(slab(64, 64 * 71, 71, SK_Q4), 64);
    assert_int_equal(slab(16, 144, 9, SK_F32), 16); /* 64 does not divide */
    assert_int_equal(slab(16, 128, 8, SK_F32), 16); /* 64 does, but there are 8 heads */
    assert_int_equal(slab(16, 128, 8, SK_Q8), 32);  /* a block has two of them */
    assert_int_equal(slab(48, 192, 4, SK_Q8), 96);
    assert_int_equal(slab(1, 176, 4, SK_Q8), 176); /* never asked for: does not fit */
    assert_int_equal(slab(1, 176, 4, SK_F32), 16);
    assert_int_equal(slab(1, 4096, 1, SK_F32), 4096); /* one head: nothing is ever cut */
    struct sk_recipe r = {.split = SK_SPLIT_OUT, .cut_unit = 16, .n_in = 4096};
    assert_int_equal(sk_quant_slab(&r, SK_Q4), 4096);
}

/* Two tensors of two heads of 3 rows each, padded to 4; the first in rotary order is covered by the builds of GGUF
 * files. */
static void test_bake(void **state)
{
    float a[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, b[12] = {20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31};
    struct sk_src_tensor ta = {.name = "a", .type = SK_SRC_F32, .n_dim = 2, .dims = {6, 2}, .data = (const uint8_t *)a};
    struct sk_src_tensor tb = {.name = "b", .type = SK_SRC_F32, .n_dim = 2, .dims = {2, 6}, .data = (const uint8_t *)b};
    struct sk_recipe r = {.name = "ab",
                          .n_out = 16,
                          .n_in = 4,
                          .src_in = 2,
                          .in_run = 1,
                          .in_stride = 2,
                          .n_part = 2,
                          .parts = {{.t = &ta, .n_row = 6, .run = 3, .stride = 4},
                                    {.t = &tb, .n_row = 6, .run = 3, .stride = 4, .out_at = 8, .transposed = true}}};
    struct sk_quant_choice c = {.dtype = SK_F32};
    struct sk_pack p;
    struct sk_err err = {0};
    float row[4];

    assert_int_equal(sk_pack_layout(&p, SK_F32, 16, 4, 4), 0);
    uint8_t *data = calloc(1, p.bytes);
    assert_int_equal(sk_bake_matrix(&r, &c, &p, data, 3, &err), 0);
    static const float want[16][2] = {{0, 1},   {2, 3},   {4, 5},   {0, 0}, {6, 7},   {8, 9},   {10, 11}, {0, 0},
                                      {20, 26}, {21, 27}, {22, 28}, {0, 0}, {23, 29}, {24, 30}, {25, 31}, {0, 0}};
    for (uint32_t i = 0; i < 16; i++) {
        sk_pack_get_row(&p, data, i, row);
        assert_true(row[0] == want[i][0] && row[1] == 0 && row[2] == want[i][1] && row[3] == 0);
    }
    a[7] = NAN;
    assert_int_equal(sk_bake_matrix(&r, &c, &p, data, 1, &err), -SK_EFORMAT);
    assert_non_null(strstr(err.msg, "tensor a, row 3:")); /* the checkpoint's tensor, its row */
    a[7] = 3.3999e38f;                                    /* finite, but not in bf16 */
    assert_int_equal(sk_bake_matrix(&r, &c, &p, data, 1, &err), 0);
    struct sk_pack narrow;
    assert_int_equal(sk_pack_layout(&narrow, SK_BF16, 16, 4, 4), 0);
    assert_true(narrow.bytes <= p.bytes);
    assert_int_equal(sk_bake_matrix(&r, &c, &narrow, data, 1, &err), -SK_EFORMAT);
    a[7] = 3.3895e38f; /* the largest of bf16, nearly */
    assert_int_equal(sk_bake_matrix(&r, &c, &narrow, data, 1, &err), 0);
    free(data);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden), cmocka_unit_test(test_blocks_exact), cmocka_unit_test(test_choose),
        cmocka_unit_test(test_slab),   cmocka_unit_test(test_bake),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
