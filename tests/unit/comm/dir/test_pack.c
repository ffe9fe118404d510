#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/err.h"
#include "comm/dir/pack.h"

static uint32_t seed;

static float random_float(void)
{
    seed = seed * 1664525 + 1013904223;
    return (float)(int32_t)seed * 0x1p-31f;
}

static void test_layout(void **state)
{
    struct sk_pack p;

    assert_int_equal(sk_pack_layout(&p, SK_F32, 17, 5, 5), 0);
    assert_int_equal(p.n_panel, 2);
    assert_int_equal(p.n_slab, 1);
    assert_int_equal(p.panel_stride, 5 * 64);
    assert_int_equal(p.bytes, 2 * 5 * 64);
    assert_int_equal(sk_pack_layout(&p, SK_Q8, 16, 96, 32), 0);
    assert_int_equal(p.panel_stride, 576); /* 512 + 32, up to a multiple of 64 */
    assert_int_equal(p.slab_stride, 576);
    assert_int_equal(p.bytes, 3 * 576);
    assert_int_equal(sk_pack_layout(&p, SK_Q4, 16, 64, 64), 0);
    assert_int_equal(p.bytes, 2 * 320);
    assert_int_equal(sk_pack_layout(&p, SK_Q4S, 16, 64, 32), 0);
    assert_int_equal(p.panel_stride, 320); /* 256 + 32, up to a multiple of 64 */
    assert_int_equal(sk_pack_layout(&p, SK_Q4S, 16, 64, 64), 0);
    assert_int_equal(p.bytes, 2 * 288);
    assert_int_equal(sk_pack_layout(&p, SK_BF16, 16, 6, 2), 0);
    assert_int_equal(p.bytes, 3 * 64);

    assert_int_equal(sk_pack_layout(&p, SK_BF16, 16, 5, 5), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_Q8, 16, 48, 48), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_Q4, 16, 64, 48), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_Q4S, 16, 48, 48), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_F32, 16, 10, 3), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_F32, 0, 10, 10), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_F32, 1, 0, 1), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_F32, 1, 1, 0), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, SK_F32, UINT32_MAX, UINT32_MAX, UINT32_MAX), -SK_EINVAL);
    assert_int_equal(sk_pack_layout(&p, (enum sk_dtype)7, 16, 32, 32), -SK_EINVAL);
}

/* Rows come back as they went in, rounded to the dtype, whatever the slab; other rows are untouched. */
static void check_floats(enum sk_dtype t, uint32_t n_out, uint32_t n_in, uint32_t slab)
{
    struct sk_pack p;
    assert_int_equal(sk_pack_layout(&p, t, n_out, n_in, slab), 0);
    void *data = aligned_alloc(64, p.bytes);
    float *rows = malloc((size_t)n_out * n_in * sizeof *rows), *back = malloc(n_in * sizeof *back);

    memset(data, 0, p.bytes);
    for (uint32_t i = 0; i < n_out * n_in; i++)
        rows[i] = random_float();
    for (uint32_t r = n_out; r--;)
        sk_pack_put_row(&p, data, r, rows + (size_t)r * n_in);
    for (uint32_t r = 0; r < n_out; r++) {
        sk_pack_get_row(&p, data, r, back);
        for (uint32_t i = 0; i < n_in; i++) {
            float x = rows[(size_t)r * n_in + i];
            float want = t == SK_F32   ? x
                         : t == SK_F16 ? sk_f16_to_f32(sk_f32_to_f16(x))
                                       : sk_bf16_to_f32(sk_f32_to_bf16(x));
            assert_true(back[i] == want);
        }
    }
    for (uint32_t r = n_out; r < p.n_panel * SK_PANEL; r++) {
        sk_pack_get_row(&p, data, r, back);
        for (uint32_t i = 0; i < n_in; i++)
            assert_true(back[i] == 0);
    }
    free(back);
    free(rows);
    free(data);
}

static void test_floats(void **state)
{
    check_floats(SK_F32, 17, 15, 5);
    check_floats(SK_F32, 1, 1, 1);
    check_floats(SK_F16, 33, 12, 12);
    check_floats(SK_F16, 16, 12, 3);
    check_floats(SK_BF16, 5, 12, 12);
    check_floats(SK_BF16, 40, 12, 2);
}

static void check_blocks(enum sk_dtype t, uint32_t n_out, uint32_t n_in, uint32_t slab)
{
    struct sk_pack p;
    assert_int_equal(sk_pack_layout(&p, t, n_out, n_in, slab), 0);
    uint32_t n = n_in / SK_QBLOCK;
    void *data = aligned_alloc(64, p.bytes);
    struct sk_block *blocks = calloc((size_t)n_out * n, sizeof *blocks);
    float *back = malloc(n_in * sizeof *back);

    memset(data, 0, p.bytes);
    for (uint32_t i = 0; i < n_out * n; i++) {
        blocks[i].d = sk_f32_to_f16(random_float());
        blocks[i].m = t == SK_Q4 ? sk_f32_to_f16(random_float()) : 0;
        for (int j = 0; j < SK_QBLOCK; j++)
            blocks[i].q[j] = (int8_t)(t == SK_Q8 ? (int)(random_float() * 128) : (int)(fabsf(random_float()) * 15.99f));
    }
    blocks[0].q[0] = t == SK_Q8 ? -128 : 15;
    blocks[0].q[31] = t == SK_Q8 ? 127 : 0;
    for (uint32_t r = 0; r < n_out; r++)
        sk_pack_put_blocks(&p, data, r, blocks + (size_t)r * n);
    for (uint32_t r = 0; r < n_out; r++) {
        sk_pack_get_row(&p, data, r, back);
        for (uint32_t i = 0; i < n_in; i++) {
            const struct sk_block *b = &blocks[(size_t)r * n + i / SK_QBLOCK];
            int q = b->q[i % SK_QBLOCK] - (t == SK_Q4S ? 8 : 0);
            float want = sk_f16_to_f32(b->d) * (float)q + sk_f16_to_f32(b->m);
            assert_true(back[i] == want);
        }
    }
    free(back);
    free(blocks);
    free(data);
}

static void test_blocks(void **state)
{
    check_blocks(SK_Q8, 17, 96, 32);
    check_blocks(SK_Q8, 16, 96, 96);
    check_blocks(SK_Q4, 33, 128, 64);
    check_blocks(SK_Q4, 3, 32, 32);
    check_blocks(SK_Q4S, 33, 128, 64);
    check_blocks(SK_Q4S, 16, 96, 32);
    check_blocks(SK_Q4S, 3, 96, 96);
}

/* The bytes themselves: what kernels are written against. */
static void test_bytes(void **state)
{
    struct sk_pack p;
    uint8_t data[704] __attribute__((aligned(64))) = {0};
    struct sk_block b = {.d = 0x3c00, .m = 0x4000};

    assert_int_equal(sk_pack_layout(&p, SK_Q8, 16, 32, 32), 0);
    for (int i = 0; i < SK_QBLOCK; i++)
        b.q[i] = (int8_t)(i - 16);
    sk_pack_put_blocks(&p, data, 3, &b);
    for (int i = 0; i < SK_QBLOCK; i++)
        assert_int_equal(data[i / 4 * 64 + 3 * 4 + i % 4], i - 16 + 128);
    assert_int_equal(data[512 + 3 * 2 + 1], 0x3c);

    memset(data, 0, sizeof data);
    assert_int_equal(sk_pack_layout(&p, SK_Q4, 16, 64, 64), 0);
    struct sk_block two[2] = {b, b};
    for (int i = 0; i < SK_QBLOCK; i++)
        two[0].q[i] = two[1].q[i] = (int8_t)(i & 15 ? i & 15 : i / 16);
    sk_pack_put_blocks(&p, data, 5, two);
    for (int g = 0; g < 4; g++)
        for (int j = 0; j < 4; j++)
            assert_int_equal(data[256 + g * 64 + 5 * 4 + j], two[1].q[4 * g + j] | two[1].q[16 + 4 * g + j] << 4);
    assert_int_equal(data[512 + 64 + 5 * 2 + 1], 0x3c); /* d of the second block */
    assert_int_equal(data[512 + 96 + 5 * 2 + 1], 0x40); /* m of the second block */

    memset(data, 0, sizeof data);
    assert_int_equal(sk_pack_layout(&p, SK_Q4S, 16, 64, 64), 0);
    sk_pack_put_blocks(&p, data, 5, two);
    for (int g = 0; g < 4; g++)
        for (int j = 0; j < 4; j++)
            assert_int_equal(data[256 + g * 64 + 5 * 4 + j], two[1].q[4 * g + j] | two[1].q[16 + 4 * g + j] << 4);
    assert_int_equal(data[512 + 32 + 5 * 2 + 1], 0x3c); /* d of the second block */

    uint16_t *u16 = (uint16_t *)data;
    float row[4] = {1, 2, 3, 4};
    memset(data, 0, sizeof data);
    assert_int_equal(sk_pack_layout(&p, SK_BF16, 16, 4, 4), 0);
    sk_pack_put_row(&p, data, 7, row);
    assert_int_equal(u16[7 * 2], 0x3f80);
    assert_int_equal(u16[7 * 2 + 1], 0x4000);
    assert_int_equal(u16[32 + 7 * 2], 0x4040);
    assert_int_equal(u16[32 + 7 * 2 + 1], 0x4080);
}

/* No value is further off than half a step of the block's own grid (and what rounding d and m to f16 adds). */
static void test_quant(void **state)
{
    float x[SK_QBLOCK];
    struct sk_block b;

    for (int k = 0; k < 2000; k++) {
        float scale = ldexpf(1, k % 20 - 10), max = 0, low = INFINITY, high = -INFINITY;
        for (int i = 0; i < SK_QBLOCK; i++) {
            x[i] = random_float() * scale;
            max = fmaxf(max, fabsf(x[i]));
            low = fminf(low, x[i]);
            high = fmaxf(high, x[i]);
        }
        sk_block_quant(SK_Q8, x, &b);
        assert_int_equal(b.m, 0);
        for (int i = 0; i < SK_QBLOCK; i++)
            assert_true(fabsf(sk_f16_to_f32(b.d) * (float)b.q[i] - x[i]) <= max / 127 * 0.5f + max * 0x1p-10f);
        sk_block_quant(SK_Q4, x, &b);
        for (int i = 0; i < SK_QBLOCK; i++) {
            assert_in_range(b.q[i], 0, 15);
            float back = sk_f16_to_f32(b.d) * (float)b.q[i] + sk_f16_to_f32(b.m);
            assert_true(fabsf(back - x[i]) <= (high - low) / 15 * 0.5f + max * 0x1p-9f);
        }
        sk_block_quant(SK_Q4S, x, &b);
        assert_int_equal(b.m, 0);
        for (int i = 0; i < SK_QBLOCK; i++) { /* the end that is one step short of the largest is off by a step */
            float step = max / 8, back = sk_f16_to_f32(b.d) * (float)(b.q[i] - 8), off = fabsf(back - x[i]);
            assert_in_range(b.q[i], 0, 15);
            assert_true(off <= step * (b.q[i] == 15 ? 1 : 0.5f) + max * 0x1p-9f);
            assert_true(fabsf(x[i]) < max || b.q[i] == 0);
        }
    }
    memset(x, 0, sizeof x);
    sk_block_quant(SK_Q8, x, &b);
    assert_true(b.d == 0 && b.q[0] == 0);
    sk_block_quant(SK_Q4, x, &b);
    assert_true(b.d == 0 && b.m == 0 && b.q[31] == 0);
    sk_block_quant(SK_Q4S, x, &b);
    assert_true(sk_f16_to_f32(b.d) == 0 && b.m == 0 && b.q[31] == 8);
    for (int i = 0; i < SK_QBLOCK; i++)
        x[i] = 0.75f;
    sk_block_quant(SK_Q4, x, &b);
    assert_true(sk_f16_to_f32(b.m) == 0.75f && b.d == 0);
}

int main(void)
{
    static const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout), cmocka_unit_test(test_floats), cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_bytes),  cmocka_unit_test(test_quant),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
