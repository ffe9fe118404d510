/* linear of every backend and level: against kernels/ref within what the arithmetic of the weights' dtype allows, and
 * bit for bit against itself however the rows are put together. */
#include "tests/unit/kernels/kern.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

enum { MAX_ROW = 64, MAX_OUT = 50, MAX_IN = 1536, LD_OUT = 64 };

static const struct shape {
    enum sk_dtype dtype;
    uint32_t n_out, slab_k, n_slab;
    bool bias, add;
} shapes[] = {
    {SK_F32, 1, 33, 1, false, false},  {SK_F32, 16, 7, 9, true, false},   {SK_F32, 50, 256, 6, true, true},
    {SK_F32, 31, 100, 3, false, true}, {SK_F32, 17, 1, 32, true, true},   {SK_F16, 2, 33, 1, true, false},
    {SK_F16, 33, 64, 9, false, false}, {SK_F16, 48, 1536, 1, true, true}, {SK_F16, 15, 25, 5, false, true},
    {SK_BF16, 3, 34, 1, true, false},  {SK_BF16, 32, 64, 7, true, true},  {SK_BF16, 47, 1152, 1, false, false},
    {SK_BF16, 18, 2, 33, true, false}, {SK_Q8, 1, 32, 1, false, false},   {SK_Q8, 16, 64, 9, true, true},
    {SK_Q8, 49, 1536, 1, true, false}, {SK_Q8, 34, 192, 2, false, true},  {SK_Q8, 20, 32, 5, true, false},
    {SK_Q4, 1, 32, 1, true, false},    {SK_Q4, 16, 64, 8, false, true},   {SK_Q4, 50, 1536, 1, true, true},
    {SK_Q4, 35, 192, 3, false, false}, {SK_Q4, 19, 96, 4, true, false},   {SK_Q4S, 1, 32, 1, true, false},
    {SK_Q4S, 16, 64, 8, false, true},  {SK_Q4S, 50, 1536, 1, true, true}, {SK_Q4S, 35, 192, 3, false, false},
    {SK_Q4S, 19, 96, 4, true, false},
};

/* Inputs of a shape on the host, the same for each backend. */
struct input {
    struct shape shape;
    uint32_t n_in, ld;
    float *x, *bias, *old;
};

/* A backend and the matrix in its memory. */
struct side {
    struct sk_backend *be;
    struct sk_mat mat;
};

/* Rows first..first+n_row-1 of the input, of which n_prompt are prompt class. */
struct part {
    uint32_t first, n_row, n_prompt;
};

static struct side side_of(struct sk_backend *be, const struct input *in)
{
    return (struct side){be, kern_mat(be, 1, in->shape.dtype, in->shape.n_out, in->n_in, in->shape.slab_k)};
}

static void compute(const struct side *side, const struct input *in, struct part part, float *ret)
{
    struct sk_backend *be = side->be;
    const size_t bytes = (size_t)part.n_row * LD_OUT * sizeof *ret;
    struct sk_op_linear op = {
        .out = kern_put(be, in->old + (size_t)part.first * LD_OUT, bytes),
        .x = kern_put(be, in->x + (size_t)part.first * in->ld, (size_t)part.n_row * in->ld * sizeof(float)),
        .bias = in->shape.bias ? kern_put(be, in->bias, LD_OUT * sizeof(float)) : (struct sk_dev){0},
        .ld_out = LD_OUT,
        .ld_x = in->ld,
        .mat = &side->mat,
        .n_row = part.n_row,
        .n_prompt_row = part.n_prompt,
        .add = in->shape.add,
    };
    be->linear(be, &op);
    kern_get(be, op.out, ret, bytes);
    kern_free(be, op.out);
    kern_free(be, op.x);
    if (in->shape.bias)
        kern_free(be, op.bias);
}

/* Six times the standard deviation of the error that rounding activations causes, + f32 summation. f32, f16 and bf16
 * weights may meet activations rounded to no less than bf16 for bf16, f32 for the others; those in blocks int8 blocks
 * of 32, error even in +- absmax / 254. */
static double tolerance(const struct input *in, const float *w, const float *x)
{
    double var = 0, size = 1;
    for (uint32_t b = 0; b < in->n_in; b += SK_QBLOCK) {
        uint32_t end = b + SK_QBLOCK < in->n_in ? b + SK_QBLOCK : in->n_in;
        double max = 0, sq = 0;
        for (uint32_t i = b; i < end; i++) {
            max = fmax(max, fabs(x[i]));
            sq += (double)w[i] * w[i];
            size += fabs((double)w[i] * x[i]);
            if (in->shape.dtype == SK_BF16)
                var += pow((double)w[i] * x[i] * 0x1p-9, 2) / 3;
        }
        if (sk_dtype_in_blocks(in->shape.dtype))
            var += sq * pow(max / 254, 2) / 3;
    }
    return 6 * sqrt(var) + size * 1e-6;
}

static void check_against_ref(const struct input *in, const float *want, const float *got, const char *what)
{
    float w[MAX_IN];
    for (uint32_t o = 0; o < in->shape.n_out; o++) {
        kern_mat_row(1, in->shape.dtype, in->n_in, o, w);
        for (uint32_t r = 0; r < MAX_ROW; r++) {
            size_t at = (size_t)r * LD_OUT + o;
            double tol = tolerance(in, w, in->x + (size_t)r * in->ld);
            if (!(fabs((double)got[at] - want[at]) <= tol))
                fail_msg("%s: row %u, output %u: %.9g, not %.9g (+- %.3g)", what, r, o, got[at], want[at], tol);
        }
    }
    kern_assert_pad(got, MAX_ROW, in->shape.n_out, LD_OUT);
}

static const struct part parts[] = {
    {0, 1, 0},  {0, 1, 1},    {5, 1, 0},    {63, 1, 1},  {0, 2, 1},  {7, 2, 0},   {3, 3, 3},
    {1, 3, 1},  {2, 5, 2},    {40, 5, 5},   {9, 8, 4},   {8, 8, 8},  {0, 16, 16}, {3, 16, 7},
    {0, 17, 0}, {20, 17, 17}, {31, 33, 16}, {0, 33, 33}, {0, 64, 1}, {0, 64, 63},
};

enum { N_PART = sizeof parts / sizeof parts[0], MAX_HEIGHT = 33 }; /* then every number of rows up to this */

static void check_shape(const struct kern *k, const struct shape *shape)
{
    const uint32_t n_in = shape->slab_k * shape->n_slab, ld = (uint32_t)SK_ALIGN16(n_in);
    struct input in = {*shape,
                       n_in,
                       ld,
                       kern_rows(2, MAX_ROW, n_in, ld),
                       kern_rows(3, 1, shape->n_out, LD_OUT),
                       kern_rows(4, MAX_ROW, shape->n_out, LD_OUT)};
    float *want = kern_zeros((size_t)MAX_ROW * LD_OUT * 4), *got = kern_zeros((size_t)MAX_ROW * LD_OUT * 4);
    float *prompt = kern_zeros((size_t)MAX_ROW * LD_OUT * 4), *decode = kern_zeros((size_t)MAX_ROW * LD_OUT * 4);
    const struct side ref = side_of(k->ref, &in), one = side_of(k->one, &in), two = side_of(k->two, &in);
    char what[96];

    snprintf(what, sizeof what, "%s %s, %u outputs, %u slabs of %u", k->one->isa, sk_dtype_name(shape->dtype),
             shape->n_out, shape->n_slab, shape->slab_k);
    for (uint32_t i = 0; i < n_in; i++) {
        in.x[5 * ld + i] = 0;     /* a block without scale */
        in.x[6 * ld + i] *= 1e4f; /* and large ones */
        in.x[7 * ld + i] *= 1e-4f;
    }
    compute(&ref, &in, (struct part){0, MAX_ROW, 0}, want);
    compute(&one, &in, (struct part){0, MAX_ROW, MAX_ROW}, prompt);
    compute(&one, &in, (struct part){0, MAX_ROW, 0}, decode);
    check_against_ref(&in, want, prompt, what);
    check_against_ref(&in, want, decode, what);
    if (k->one->classes_equal)
        kern_assert_same_bits(prompt, decode, (size_t)MAX_ROW * LD_OUT * 4, what);
    for (uint32_t i = 0; i < N_PART + MAX_HEIGHT; i++) {
        const uint32_t height = i - N_PART + 1;
        const struct part p = i < N_PART ? parts[i] : (struct part){height % 31, height, i % 3 * height / 2};
        for (int n_thread = 1; n_thread <= 2; n_thread++) {
            compute(n_thread == 1 ? &one : &two, &in, p, got);
            for (uint32_t r = 0; r < p.n_row; r++)
                kern_assert_same_bits(got + (size_t)r * LD_OUT,
                                      (r < p.n_prompt ? prompt : decode) + (size_t)(p.first + r) * LD_OUT,
                                      shape->n_out * sizeof *got, what);
        }
    }
    kern_free_all(k->ref);
    kern_free_all(k->one);
    kern_free_all(k->two);
    sk_free(in.x), sk_free(in.bias), sk_free(in.old);
    sk_free(want), sk_free(got), sk_free(prompt), sk_free(decode);
}

static void check_backend(const struct kern *k)
{
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++)
        check_shape(k, &shapes[i]);
}

static void linear(void **state)
{
    kern_each(check_backend);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(linear)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
