/* Tuning changes how work is cut, never a bit of a result; what is out of bounds is refused. */
#include "tests/unit/kernels/kern.h"

#include <string.h>
#include "comm/base/mem.h"

enum { N_ROW = 37, N_OUT = 131, N_IN = 1120, LD_IN = 2 * N_IN, LD_OUT = 144 };

static const struct sk_tune tunes[] = {
    {.pass_bytes = 4 << 20, .item_bytes = 128 << 10, .items_per_thread = 8, .own_rows = 4},
    {.pass_bytes = 64 << 10, .item_bytes = 4 << 10, .items_per_thread = 256, .own_rows = 0},
    {.pass_bytes = 16 << 20, .item_bytes = 64 << 20, .items_per_thread = 1, .own_rows = 16},
};

/* NULL where this CPU is below the backend's lowest level. */
static struct sk_backend *open_cpu(const struct sk_tune *tune)
{
    struct sk_backend *be = NULL;
    struct sk_err err = {0};
    const int rc = sk_cpu_open(&(struct sk_backend_conf){.n_thread = 3, .tune = tune}, &be, &err);
    if (rc != -SK_EUNSUP)
        assert_int_equal(rc, 0);
    return be;
}

static void compute(struct sk_backend *be, enum sk_dtype dtype, uint32_t n_row, float *ret)
{
    float *x = kern_rows(1, N_ROW, LD_IN, LD_IN), *weight = kern_rows(2, 1, N_IN, N_IN);
    const struct sk_mat mat = kern_mat(be, 3, dtype, N_OUT, N_IN, N_IN);
    struct sk_op_linear op = {.out = kern_new(be, (size_t)n_row * LD_OUT * 4),
                              .x = kern_put(be, x, (size_t)n_row * LD_IN * 4),
                              .ld_out = LD_OUT,
                              .ld_x = LD_IN,
                              .mat = &mat,
                              .n_row = n_row,
                              .n_prompt_row = n_row / 2};
    op.pre.eps = 1e-5f;
    op.pre.weight = kern_put(be, weight, N_IN * 4);
    for (int kind = SK_PRE_NONE; kind <= SK_PRE_GATED_ACT; kind++) {
        op.pre.kind = (enum sk_op_pre_kind)kind;
        op.add = kind > 0; /* all of them together */
        be->linear(be, &op);
    }
    kern_get(be, op.out, ret, (size_t)n_row * LD_OUT * 4);
    kern_free_all(be);
    sk_free(x), sk_free(weight);
}

static void results_are_the_same(void **state)
{
    static const uint32_t n_rows[] = {1, 4, 5, 16, 17, N_ROW};
    static float want[N_ROW * LD_OUT], got[N_ROW * LD_OUT];
    struct sk_backend *first = open_cpu(NULL);
    if (first == NULL)
        skip();
    for (size_t t = 0; t < sizeof tunes / sizeof *tunes; t++) {
        struct sk_backend *be = open_cpu(&tunes[t]);
        for (int dtype = SK_F32; dtype < SK_DTYPE_COUNT; dtype++) {
            for (size_t i = 0; i < sizeof n_rows / sizeof *n_rows; i++) {
                compute(first, (enum sk_dtype)dtype, n_rows[i], want);
                compute(be, (enum sk_dtype)dtype, n_rows[i], got);
                kern_assert_same_bits(want, got, (size_t)n_rows[i] * LD_OUT * 4, sk_dtype_name((enum sk_dtype)dtype));
            }
        }
        be->close(be);
    }
    first->close(first);
}

static void out_of_bounds_is_refused(void **state)
{
    static const struct {
        const char *name;
        struct sk_tune tune;
    } bad[] = {
        {"pass_bytes", {.pass_bytes = 1, .item_bytes = 4 << 10, .items_per_thread = 1}},
        {"pass_bytes", {.pass_bytes = (16 << 20) + 1, .item_bytes = 4 << 10, .items_per_thread = 1}},
        {"item_bytes", {.pass_bytes = 1 << 20, .item_bytes = 0, .items_per_thread = 1}},
        {"item_bytes", {.pass_bytes = 1 << 20, .item_bytes = 1u << 31, .items_per_thread = 1}},
        {"items_per_thread", {.pass_bytes = 1 << 20, .item_bytes = 4 << 10, .items_per_thread = 0}},
        {"items_per_thread", {.pass_bytes = 1 << 20, .item_bytes = 4 << 10, .items_per_thread = 257}},
        {"own_rows", {.pass_bytes = 1 << 20, .item_bytes = 4 << 10, .items_per_thread = 1, .own_rows = 17}},
    };
    struct sk_backend *be = open_cpu(NULL);
    if (be == NULL)
        skip();
    be->close(be);
    be = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct sk_err err = {0};
        assert_int_equal(sk_cpu_open(&(struct sk_backend_conf){.n_thread = 1, .tune = &bad[i].tune}, &be, &err),
                         -SK_EINVAL);
        assert_string_equal(err.param, bad[i].name);
        assert_null(be);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_the_same),
        cmocka_unit_test(out_of_bounds_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
