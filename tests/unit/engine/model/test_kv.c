#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/mem.h"
#include "engine/model/kv.h"
#include "tests/unit/engine/fixture.h"

static struct sk_backend *be;

static int setup(void **state)
{
    struct sk_err err;
    return sk_ref_open(&(struct sk_backend_conf){.n_thread = 1}, &be, &err);
}

static int teardown(void **state)
{
    be->close(be);
    return 0;
}

/* 2 of 3 layers see 64 positions. */
static void make_desc(struct sk_desc *d)
{
    struct sk_err err;
    fixture_desc(d);
    d->n_layer = 3;
    d->layers[0].window = d->layers[2].window = 64;
    assert_int_equal(sk_desc_check(d, &err), 0);
    assert_int_equal(d->n_group, 2);
}

static void groups_share_by_need(void **state)
{
    struct sk_desc d;
    struct sk_kv_need n;
    struct sk_err err;
    struct sk_kv_conf c = {.bytes = 10 << 20,
                           .dtype = SK_BF16,
                           .max_slot = 8,
                           .max_len = 256,
                           .max_row = 33,
                           .n_kv_head = 2,
                           .layer = {0, 3}};
    make_desc(&d);
    uint32_t win = d.layer_group[0], all = d.layer_group[1];
    assert_int_equal(sk_kv_plan(&d, be, &c, &n, &err), 0);
    assert_int_equal(n.ld_table, 8);
    assert_int_equal(n.seq_blk[all], 8);
    assert_int_equal(n.seq_blk[win], 64 / 32 + 2 + 2);
    assert_int_equal(n.layer_block, be->kv_block_bytes(be, SK_BF16, 2, 16));
    assert_int_equal(n.block[win], 2 * n.layer_block);
    assert_int_equal(n.bytes, n.n_blk[win] * n.block[win] + n.n_blk[all] * n.block[all]);
    assert_true(n.bytes <= c.bytes && c.bytes - n.bytes < n.block[win] + n.block[all]);
    /* the same number of longest sequences fits either group */
    assert_true(n.n_blk[win] / n.seq_blk[win] == n.n_blk[all] / n.seq_blk[all]);

    c.max_row = 4096; /* a window never holds more than all */
    assert_int_equal(sk_kv_plan(&d, be, &c, &n, &err), 0);
    assert_int_equal(n.seq_blk[win], 8);
}

static void too_little_is_said_with_numbers(void **state)
{
    struct sk_desc d;
    struct sk_kv_need n;
    struct sk_err err = {0};
    struct sk_kv_conf c = {
        .bytes = 3000, .dtype = SK_F32, .max_slot = 1, .max_len = 256, .max_row = 32, .n_kv_head = 2, .layer = {0, 3}};
    make_desc(&d);
    assert_int_equal(sk_kv_plan(&d, be, &c, &n, &err), -SK_EINVAL);
    assert_string_equal(err.param, "kv-memory");
    assert_non_null(strstr(err.msg, "3000 bytes"));
    c.bytes = UINT64_MAX; /* no overflow; as many blocks as a number can name */
    assert_int_equal(sk_kv_plan(&d, be, &c, &n, &err), 0);
    assert_int_equal(n.n_blk[0], INT32_MAX);
}

static void layers_do_not_overlap(void **state)
{
    struct sk_desc d;
    struct sk_kv kv;
    struct sk_err err;
    struct sk_kv_conf c = {.bytes = 1 << 20,
                           .dtype = SK_F32,
                           .max_slot = 4,
                           .max_len = 256,
                           .max_row = 32,
                           .n_kv_head = 2,
                           .layer = {0, 3}};
    make_desc(&d);
    assert_int_equal(sk_kv_open(&kv, &d, be, &c, &err), 0);
    /* Every block of every layer has bytes of its own, and together they have all. */
    uint8_t *used = test_calloc(kv.need.bytes, 1);
    for (uint32_t l = 0; l < 3; l++) {
        const struct sk_kv_layer *layer = &kv.layer[l];
        assert_int_equal(layer->n_blk, kv.need.n_blk[d.layer_group[l]]);
        for (uint32_t b = 0; b < layer->n_blk; b++) {
            uint64_t at = layer->data.a - kv.mem.a + b * layer->block_bytes;
            assert_true(at % 64 == 0 && at + kv.need.layer_block <= kv.need.bytes);
            for (uint64_t i = 0; i < kv.need.layer_block; i++)
                assert_int_equal(used[at + i]++, 0);
        }
    }
    assert_null(memchr(used, 0, kv.need.bytes));
    test_free(used);
    /* A block of a group's layers lies together. */
    assert_int_equal(kv.layer[0].block_bytes, kv.need.block[d.layer_group[0]]);
    assert_int_equal(kv.table[1].a - kv.table[0].a, 4 * 8 * sizeof(int32_t));
    sk_kv_close(&kv);

    for (uint64_t n = 1; n <= 3; n++) { /* layers, blocks, tables */
        sk_mem_fail_at(n, 0);
        assert_int_equal(sk_kv_open(&kv, &d, be, &c, &err), -SK_ENOMEM);
        sk_mem_fail_at(0, 0);
        sk_kv_close(&kv);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_share_by_need),
        cmocka_unit_test(too_little_is_said_with_numbers),
        cmocka_unit_test(layers_do_not_overlap),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
