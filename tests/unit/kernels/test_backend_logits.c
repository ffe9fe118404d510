/* logits_process, sample and top_n of every backend and level against kernels/ref: the same tokens, and log-probs
 * within rounding; each row alone and among others, with one thread and two. */
#include "tests/unit/kernels/sampling.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"

static const uint32_t vocabs[] = {5, 16, 100, 1003, 5000};

static bool same_result(const struct sk_result_row *a, const struct sk_result_row *b)
{
    return memcmp(a, b, offsetof(struct sk_result_row, top)) == 0 &&
           memcmp(a->top, b->top, a->n_top * sizeof a->top[0]) == 0;
}

static void check_rows(const struct kern *k, const struct sampling_input *in)
{
    struct sampling_output want, all, got;
    char what[96];
    want.work = kern_zeros((size_t)SAMPLING_ROWS * in->ld * 4);
    all.work = kern_zeros((size_t)SAMPLING_ROWS * in->ld * 4);
    got.work = kern_zeros((size_t)SAMPLING_ROWS * in->ld * 4);
    sampling_compute(k->ref, in, 0, SAMPLING_ROWS, &want);
    sampling_compute(k->one, in, 0, SAMPLING_ROWS, &all);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
        snprintf(what, sizeof what, "%s, vocabulary of %u, row %u", k->one->isa, in->n_vocab, r);
        sampling_check(&want.result[r], &all.result[r], what);
        kern_assert_same_bits(want.work + (size_t)r * in->ld, all.work + (size_t)r * in->ld, in->n_vocab * 4,
                              what); /* the same few roundings */
    }
    assert_memory_equal(want.token, all.token, sizeof all.token);

    sampling_compute(k->two, in, 0, SAMPLING_ROWS, &got);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
        assert_true(same_result(&all.result[r], &got.result[r]));
    assert_memory_equal(got.token, all.token, sizeof all.token);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
        sampling_compute(k->one, in, r, 1, &got);
        assert_true(same_result(&all.result[r], &got.result[0]));
    }
    sk_free(want.work), sk_free(all.work), sk_free(got.work);
}

static void check_backend(const struct kern *k)
{
    for (size_t i = 0; i < sizeof vocabs / sizeof vocabs[0]; i++) {
        struct sampling_input in = {.n_vocab = vocabs[i], .ld = (uint32_t)SK_ALIGN16(vocabs[i])};
        for (uint32_t spread = 0; spread < 3; spread++) {
            in.logits = kern_rows(60 + spread, SAMPLING_ROWS, in.n_vocab, in.ld);
            for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
                in.samp[r] = sampling_samp(r);
                for (uint32_t c = 0; c < in.n_vocab; c++) {
                    float *l = &in.logits[(size_t)r * in.ld + c];
                    *l = spread == 0   ? *l * 4
                         : spread == 1 ? roundf(*l * 2)
                                       : *l * 100; /* usual; full of ties; extreme */
                }
            }
            for (uint32_t t = 0; t < SAMPLING_SLOTS * SAMPLING_LEN; t++)
                in.token[t] = (int32_t)kern_below(70, t, in.n_vocab);
            check_rows(k, &in);
            sk_free(in.logits);
        }
    }
}

static void logits(void **state)
{
    kern_each(check_backend);
}

/* --- the filters, alone and together, on many kinds of rows --- */

/* The tokens of n_row rows of one kind, each with other filters. */
static void check_tokens(const struct kern *k, uint32_t n_vocab, enum sampling_shape shape, uint32_t how,
                         uint32_t first)
{
    static struct sampling_input in;
    static struct sampling_output want, got;
    char what[96];

    in = (struct sampling_input){.n_vocab = n_vocab, .ld = (uint32_t)SK_ALIGN16(n_vocab)};
    in.logits = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
    want.work = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
    got.work = kern_zeros((size_t)SAMPLING_ROWS * in.ld * sizeof(float));
    sampling_fill(&in, shape, how, first);
    sampling_compute(k->ref, &in, 0, SAMPLING_ROWS, &want);
    sampling_compute(k->one, &in, 0, SAMPLING_ROWS, &got);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++) {
        snprintf(what, sizeof what, "%s, vocabulary of %u, shape %d, spoilt %u, filters %u", k->one->isa, n_vocab,
                 (int)shape, how, first + r);
        if (want.result[r].id != got.result[r].id)
            fail_msg("%s: token %d, not %d", what, got.result[r].id, want.result[r].id);
    }
    sampling_compute(k->two, &in, 0, SAMPLING_ROWS, &got);
    for (uint32_t r = 0; r < SAMPLING_ROWS; r++)
        assert_int_equal(want.result[r].id, got.result[r].id);
    sk_free(in.logits), sk_free(want.work), sk_free(got.work);
}

static void check_filters(const struct kern *k)
{
    for (uint32_t n = 1; n <= 1000; n += n < 20 ? 1 : 111)
        for (uint32_t i = 0; i < SAMPLING_SHAPES * 4; i++)
            check_tokens(k, n, i % SAMPLING_SHAPES, i / SAMPLING_SHAPES, n * 131 + 32 * i);
    for (uint32_t i = 0; i < SAMPLING_SHAPES; i += 2)
        check_tokens(k, 20011, i, i % 3, 32 * i);
}

static void tokens_are_those_of_the_reference(void **state)
{
    kern_each(check_filters);
}

/* One vocabulary as large as they come. */
static void check_large(const struct kern *k)
{
    check_tokens(k, 151936, SAMPLING_PEAKED, 0, 0);
    check_tokens(k, 151936, SAMPLING_FLAT, 1, 32);
}

static void tokens_of_a_large_vocabulary(void **state)
{
    kern_each(check_large);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(logits), cmocka_unit_test(tokens_are_those_of_the_reference),
                                       cmocka_unit_test(tokens_of_a_large_vocabulary)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
