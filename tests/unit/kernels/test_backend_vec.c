/* embed, add, gather, narrow, widen, checksum and what comes before a linear (norm, act) of every backend and level
 * against kernels/ref, and each row alone against itself among others. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

enum { N_ROW = 17 };

static const uint32_t widths[] = {1, 8, 15, 16, 17, 31, 64, 100, 128, 576, 1100};
enum { N_WIDTH = sizeof widths / sizeof widths[0] };

/* `want` and `got` hold n_row rows; |difference| <= tol * (1 + |want|). */
static void check_rows(const float *want, const float *got, uint32_t n_row, uint32_t width, uint32_t ld, double tol,
                       const char *what)
{
    for (uint32_t r = 0; r < n_row; r++) {
        for (uint32_t i = 0; i < width; i++) {
            double a = got[(size_t)r * ld + i], b = want[(size_t)r * ld + i];
            if (!(fabs(a - b) <= tol * (1 + fabs(b))))
                fail_msg("%s, width %u: row %u, column %u: %.9g, not %.9g", what, width, r, i, a, b);
        }
    }
    kern_assert_pad(got, n_row, width, ld);
}

/* What an op with rows in and rows out makes of rows first..first+n_row-1. */
typedef void (*row_op)(struct sk_backend *be, const void *arg, const float *in, uint32_t n_row, float *ret);

/* Against ref; with two threads; and each row alone. in: N_ROW rows of ld_in. */
static void check_op(const struct kern *k, row_op op, const void *arg, const float *in, uint32_t ld_in, uint32_t width,
                     double tol, const char *what)
{
    const uint32_t ld = (uint32_t)SK_ALIGN16(width);
    float *want = kern_zeros((size_t)N_ROW * ld * 4), *all = kern_zeros((size_t)N_ROW * ld * 4),
          *got = kern_zeros((size_t)N_ROW * ld * 4);
    op(k->ref, arg, in, N_ROW, want);
    op(k->one, arg, in, N_ROW, all);
    check_rows(want, all, N_ROW, width, ld, tol, what);
    op(k->two, arg, in, N_ROW, got);
    kern_assert_same_bits(all, got, (size_t)N_ROW * ld * 4, what);
    for (uint32_t r = 0; r < N_ROW; r += 3) {
        op(k->one, arg, in + (size_t)r * ld_in, 1, got);
        kern_assert_same_bits(all + (size_t)r * ld, got, ld * 4, what);
    }
    sk_free(want), sk_free(all), sk_free(got);
}

/* What comes before a linear is seen through one that changes nothing: f32 weights, the identity. */
static struct sk_mat identity(struct sk_backend *be, uint32_t n)
{
    struct sk_mat mat = {0};
    assert_int_equal(sk_pack_layout(&mat.pack, SK_F32, n, n, n), 0);
    void *data = kern_zeros(mat.pack.bytes);
    float *row = kern_zeros(n * sizeof *row);
    for (uint32_t i = 0; i < n; i++) {
        row[i] = 1;
        sk_pack_put_row(&mat.pack, data, i, row);
        row[i] = 0;
    }
    mat.data = kern_put(be, data, mat.pack.bytes);
    sk_free(data), sk_free(row);
    return mat;
}

struct pre {
    struct sk_op_pre op; /* bias.a != 0: there is one */
    uint32_t width, ld_in;
    struct sk_mat one, two, ref; /* of each backend */
};

static void run_pre(struct sk_backend *be, const void *arg, const float *in, uint32_t n_row, float *ret)
{
    const struct pre *pre = arg;
    const uint32_t ld = (uint32_t)SK_ALIGN16(pre->width);
    float *weight = kern_rows(20, 1, pre->width, ld), *bias = kern_rows(21, 1, pre->width, ld);
    const struct sk_mat *mat = strcmp(be->name, "ref") == 0 ? &pre->ref : be->n_thread == 1 ? &pre->one : &pre->two;
    struct sk_op_linear op = {.x = kern_put(be, in, (size_t)n_row * pre->ld_in * sizeof *in),
                              .out = kern_new(be, (size_t)n_row * ld * sizeof *ret),
                              .ld_out = ld,
                              .ld_x = pre->ld_in,
                              .pre = pre->op,
                              .mat = mat,
                              .n_row = n_row};
    op.pre.weight = kern_put(be, weight, ld * sizeof *weight);
    if (pre->op.bias.a != 0)
        op.pre.bias = kern_put(be, bias, ld * sizeof *bias);
    be->linear(be, &op);
    kern_get(be, op.out, ret, (size_t)n_row * ld * sizeof *ret);
    kern_free(be, op.x);
    kern_free(be, op.out);
    kern_free(be, op.pre.weight);
    if (pre->op.bias.a != 0)
        kern_free(be, op.pre.bias);
    sk_free(weight);
    sk_free(bias);
}

static void bind(struct pre *pre, const struct kern *k)
{
    pre->one = identity(k->one, pre->width);
    pre->two = identity(k->two, pre->width);
    pre->ref = identity(k->ref, pre->width);
}

static void unbind(const struct pre *pre, const struct kern *k)
{
    kern_free(k->one, pre->one.data);
    kern_free(k->two, pre->two.data);
    kern_free(k->ref, pre->ref.data);
}

static void check_norm(const struct kern *k)
{
    for (int i = 0; i < N_WIDTH; i++) {
        uint32_t dim = widths[i], ld = (uint32_t)SK_ALIGN16(dim);
        float *x = kern_rows(22, N_ROW, dim, ld);
        for (uint32_t c = 0; c < dim; c++) {
            x[ld + c] *= 1000;
            x[2 * ld + c] = 0;
            x[3 * ld + c] += 30; /* a mean far from 0 */
        }
        struct pre pre = {.op = {.eps = 1e-5f}, .width = dim, .ld_in = ld};
        bind(&pre, k);
        for (int mode = 0; mode < 4; mode++) {
            pre.op.kind = mode & 1 ? SK_PRE_LAYER_NORM : SK_PRE_RMS_NORM;
            pre.op.bias.a = mode & 2;
            /* One value in a LayerNorm is its own mean: the rest is rounding, scaled up. */
            check_op(k, run_pre, &pre, x, ld, dim, 2e-5, mode & 1 ? "LayerNorm" : "RMS norm");
        }
        unbind(&pre, k);
        sk_free(x);
    }
}

static void check_act(const struct kern *k)
{
    static const char *const names[] = {"silu", "gelu tanh", "gelu erf", "relu"};
    for (int i = 0; i < N_WIDTH; i++) {
        struct pre pre = {.width = widths[i]};
        bind(&pre, k);
        for (int mode = 0; mode < 8; mode++) {
            uint32_t width = widths[i], n_in = width * (1 + (uint32_t)(mode & 1)), ld_in = (uint32_t)SK_ALIGN16(n_in);
            pre.op.kind = mode & 1 ? SK_PRE_GATED_ACT : SK_PRE_ACT;
            pre.op.act = (enum sk_op_act_kind)(mode / 2);
            pre.ld_in = ld_in;
            float *in = kern_rows(23, N_ROW, n_in, ld_in);
            for (uint32_t c = 0; c < width; c++) {
                in[ld_in + c] *= 30; /* far out on both sides */
                in[2 * ld_in + c] *= 1e-3f;
                in[3 * ld_in + c] = c % 2 ? -0.0f : 1e4f;
            }
            check_op(k, run_pre, &pre, in, ld_in, width, 2e-6, names[mode / 2]);
            sk_free(in);
        }
        unbind(&pre, k);
    }
}

enum { N_VOCAB = 37 };

/* By a table of rows first..first + n - 1 of the vocabulary. */
static void run_embed(struct sk_backend *be, enum sk_dtype dtype, uint32_t dim, bool pos_table, uint32_t first,
                      uint32_t n, float *ret)
{
    enum { N_SLOT = 3, MAX_LEN = 20 };
    const uint32_t ld = (uint32_t)SK_ALIGN16(dim),
                   slab = dim % 2 == 0 && dim / 2 % (uint32_t)sk_pack_unit(dtype) == 0 ? dim / 2 : dim;
    int32_t slot[N_ROW], pos[N_ROW], token[N_SLOT * MAX_LEN];
    for (uint32_t i = 0; i < N_SLOT * MAX_LEN; i++)
        token[i] = (int32_t)kern_below(30, i, N_VOCAB);
    for (uint32_t r = 0; r < N_ROW; r++) {
        slot[r] = (int32_t)kern_below(31, r, N_SLOT);
        pos[r] = (int32_t)kern_below(32, r, MAX_LEN);
    }
    struct sk_mat table = kern_mat_rows(be, 33, dtype, first, n, dim, slab),
                  place = kern_mat(be, 34, SK_F32, MAX_LEN, dim, dim);
    struct sk_rows rows = {.n_row = N_ROW,
                           .slot = kern_put(be, slot, sizeof slot),
                           .pos = kern_put(be, pos, sizeof pos),
                           .token = kern_put(be, token, sizeof token),
                           .max_len = MAX_LEN};
    struct sk_op_embed op = {.out = kern_put(be, ret, (size_t)N_ROW * ld * 4), /* anything is there before */
                             .ld = ld,
                             .first = first,
                             .table = &table,
                             .pos_table = pos_table ? &place : NULL,
                             .rows = &rows};
    be->embed(be, &op);
    kern_get(be, op.out, ret, (size_t)N_ROW * ld * 4);
    kern_free_all(be);
}

/* Ranks with a part of the table each: a row has its bits from one of them and zeros from the others. */
static void check_parts(struct sk_backend *be, enum sk_dtype dtype, uint32_t dim)
{
    static const uint32_t cuts[] = {0, 5, 6, 22, N_VOCAB};
    const size_t n = (size_t)N_ROW * SK_ALIGN16(dim);
    float *want = kern_zeros(n * 4), *sum = kern_zeros(n * 4), *got = kern_zeros(n * 4);

    run_embed(be, dtype, dim, false, 0, N_VOCAB, want);
    for (int i = 0; i < 4; i++) {
        memset(got, 0xff, n * 4);
        run_embed(be, dtype, dim, false, cuts[i], cuts[i + 1] - cuts[i], got);
        for (size_t j = 0; j < n; j++) {
            assert_true(got[j] == 0 || memcmp(&got[j], &want[j], 4) == 0);
            sum[j] += got[j];
        }
    }
    kern_assert_near(sum, want, n, 0, "parts of embed");
    sk_free(want), sk_free(sum), sk_free(got);
}

static void check_embed(const struct kern *k)
{
    for (int i = 0; i < N_WIDTH; i++) {
        for (int dtype = SK_F32; dtype < SK_DTYPE_COUNT; dtype++) {
            uint32_t dim = widths[i];
            if (dim % (uint32_t)sk_pack_unit((enum sk_dtype)dtype) != 0)
                continue;
            size_t n = (size_t)N_ROW * SK_ALIGN16(dim);
            float *want = kern_zeros(n * 4), *got = kern_zeros(n * 4);
            for (int place = 0; place < 2; place++) {
                run_embed(k->ref, (enum sk_dtype)dtype, dim, place, 0, N_VOCAB, want);
                run_embed(k->two, (enum sk_dtype)dtype, dim, place, 0, N_VOCAB, got);
                check_rows(want, got, N_ROW, dim, (uint32_t)SK_ALIGN16(dim), 1e-7, "embed");
            }
            check_parts(k->two, (enum sk_dtype)dtype, dim);
            sk_free(want), sk_free(got);
        }
    }
}

/* No rounding to differ in: the bits are ref's. */
static void run_add_gather(struct sk_backend *be, const float *a, const float *b, const int32_t index[N_ROW],
                           uint32_t ld, float *ret)
{
    const size_t bytes = (size_t)N_ROW * ld * sizeof *a;
    struct sk_op_gather op = {.in = kern_put(be, a, bytes),
                              .index = kern_put(be, index, N_ROW * sizeof *index),
                              .out = kern_new(be, bytes),
                              .n_row = N_ROW,
                              .ld = ld};
    be->add(be, op.in, kern_put(be, b, bytes), (uint64_t)N_ROW * ld);
    be->gather(be, &op);
    kern_get(be, op.out, ret, bytes);
    kern_free_all(be);
}

static void check_add_gather(const struct kern *k)
{
    int32_t index[N_ROW];
    for (uint32_t r = 0; r < N_ROW; r++)
        index[r] = (int32_t)kern_below(40, r, N_ROW);
    for (int i = 0; i < N_WIDTH; i++) {
        uint32_t ld = (uint32_t)SK_ALIGN16(widths[i]);
        float *a = kern_rows(41, N_ROW, widths[i], ld), *b = kern_rows(42, N_ROW, widths[i], ld);
        float *want = kern_zeros((size_t)N_ROW * ld * 4), *got = kern_zeros((size_t)N_ROW * ld * 4);
        run_add_gather(k->ref, a, b, index, ld, want);
        run_add_gather(k->two, a, b, index, ld, got);
        kern_assert_same_bits(want, got, (size_t)N_ROW * ld * 4, "add and gather");
        sk_free(a), sk_free(b), sk_free(want), sk_free(got);
    }
}

/* Any bits: one in four a NaN or infinite, one in four denormal, and halves between two bf16. */
static float *any_floats(uint32_t n)
{
    float *ret = kern_zeros(n * sizeof *ret);

    for (uint32_t i = 0; i < n; i++) {
        const uint32_t kind = kern_below(43, i, 4), low = kern_below(44, i, 1 << 16);
        uint32_t bits = kern_below(45, i, 1 << 16) << 16;
        bits = kind == 0 ? bits | 0x7f800000 : kind == 1 ? bits & 0x807f0000 : bits;
        bits |= low % 8 == 0 ? 0x8000 : low % 8 == 1 ? 0 : low;
        memcpy(&ret[i], &bits, sizeof bits);
    }
    return ret;
}

struct flat {
    uint16_t *narrow;
    float *widen;
    uint64_t sum;
};

static void run_flat(struct sk_backend *be, const float *x, uint32_t n, struct flat *ret)
{
    struct sk_dev in = kern_put(be, x, n * 4), half = kern_new(be, n * 2), out = kern_new(be, n * 4),
                  sum = kern_new(be, 8);

    be->narrow(be, half, in, n);
    be->widen(be, out, half, n);
    be->checksum(be, sum, in, n);
    kern_get(be, half, ret->narrow, n * 2);
    kern_get(be, out, ret->widen, n * 4);
    kern_get(be, sum, &ret->sum, 8);
    kern_free_all(be);
}

static void check_flat(const struct kern *k)
{
    static const uint32_t sizes[] = {16, 48, 576, 4096, 100000}; /* the last one in stretches, by two threads */
    struct flat want = {kern_zeros(100000 * 2), kern_zeros(100000 * 4), 0},
                got = {kern_zeros(100000 * 2), kern_zeros(100000 * 4), 0};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const uint32_t n = sizes[i];
        float *x = any_floats(n), last;
        run_flat(k->ref, x, n, &want);
        run_flat(k->two, x, n, &got);
        kern_assert_same_bits(got.narrow, want.narrow, n * 2, "narrow");
        kern_assert_same_bits(got.widen, want.widen, n * 4, "widen");
        assert_int_equal(got.sum, want.sum);
        last = x[n - 1];
        x[n - 1] = x[0];
        x[0] = last;
        run_flat(k->two, x, n, &got);
        assert_true(got.sum != want.sum);
        sk_free(x);
    }
    sk_free(want.narrow), sk_free(want.widen), sk_free(got.narrow), sk_free(got.widen);
}

static void norm(void **state)
{
    kern_each(check_norm);
}

static void act(void **state)
{
    kern_each(check_act);
}

static void embed(void **state)
{
    kern_each(check_embed);
}

static void add_and_gather(void **state)
{
    kern_each(check_add_gather);
}

static void narrow_widen_and_checksum(void **state)
{
    kern_each(check_flat);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(norm), cmocka_unit_test(act), cmocka_unit_test(embed),
                                       cmocka_unit_test(add_and_gather), cmocka_unit_test(narrow_widen_and_checksum)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
