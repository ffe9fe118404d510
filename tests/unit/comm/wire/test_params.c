#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <string.h>
#include <cmocka.h>

#include "comm/base/err.h"
#include "comm/wire/params.h"

enum { N_VOCAB = 100 };

static int32_t bits(float f)
{
    int32_t i;
    memcpy(&i, &f, sizeof i);
    return i;
}

static void defaults_are_valid(void **state)
{
    struct sk_params p;
    sk_params_default(&p);
    assert_int_equal(sk_params_list_len(&p), 0);
    assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), 0);
    assert_int_equal(p.max_tokens, 16);
    assert_true(p.temperature == 1 && p.top_p == 1 && p.typical_p == 1 && p.repetition_penalty == 1);
    assert_int_equal(p.n_logprobs, -1);
}

static void floats_have_bounds(void **state)
{
    static const struct {
        size_t at;
        float ok, low, high;
    } row[] = {
        {offsetof(struct sk_params, temperature), 0, -0.1f, INFINITY},
        {offsetof(struct sk_params, temperature), 1e-5f, 1e-38f, 2e6f},
        {offsetof(struct sk_params, top_p), 0.5f, 0, 1.01f},
        {offsetof(struct sk_params, min_p), 0, -0.1f, 1.01f},
        {offsetof(struct sk_params, typical_p), 0.5f, 0, 1.01f},
        {offsetof(struct sk_params, eta_cutoff), 0, -0.1f, 1.01f},
        {offsetof(struct sk_params, epsilon_cutoff), 0, -0.1f, 1.01f},
        {offsetof(struct sk_params, repetition_penalty), 2, 0, INFINITY},
        {offsetof(struct sk_params, presence_penalty), -2, -INFINITY, INFINITY},
        {offsetof(struct sk_params, frequency_penalty), -2, -INFINITY, INFINITY},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct sk_params p;
        float *f = (float *)((char *)&p + row[i].at);
        sk_params_default(&p);
        *f = row[i].ok;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), 0);
        *f = row[i].low;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), -SK_ERANGE);
        *f = row[i].high;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), -SK_ERANGE);
        *f = NAN;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), -SK_ERANGE);
    }
}

static void integers_have_bounds(void **state)
{
    static const struct {
        size_t at;
        int32_t ok, bad;
        int rc;
    } row[] = {
        {offsetof(struct sk_params, n_logprobs), 20, 21, -SK_ERANGE},
        {offsetof(struct sk_params, n_logprobs), -1, -2, -SK_ERANGE},
        {offsetof(struct sk_params, n_prompt_logprobs), 20, 21, -SK_ERANGE},
        {offsetof(struct sk_params, top_k), 0, -1, -SK_ERANGE},
        {offsetof(struct sk_params, no_repeat_ngram), 3, -1, -SK_ERANGE},
        {offsetof(struct sk_params, no_repeat_ngram), 3, INT32_MAX, -SK_ERANGE},
        {offsetof(struct sk_params, flags), 3, 4, -SK_EPROTO},
        {offsetof(struct sk_params, zero), 0, 1, -SK_EPROTO},
    };
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        struct sk_params p;
        int32_t *x = (int32_t *)((char *)&p + row[i].at);
        sk_params_default(&p);
        *x = row[i].ok;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), 0);
        *x = row[i].bad;
        assert_int_equal(sk_params_check(&p, NULL, 0, N_VOCAB), row[i].rc);
    }
}

static void every_word_of_the_list_is_checked(void **state)
{
    /* 2 stop ids, 2 biases, 3 allowed, bad words {1, 7} {2, 8, 9} */
    const int32_t good[] = {1, 99, 3, 4, bits(-100), bits(2.5f), 10, 11, 12, 1, 7, 2, 8, 9};
    const size_t n = sizeof good / sizeof good[0];
    struct sk_params p;
    sk_params_default(&p);
    p.n_stop_ids = 2;
    p.n_bias = 2;
    p.n_allowed = 3;
    p.n_bad_word = 5;
    assert_int_equal(sk_params_list_len(&p), n);
    assert_int_equal(sk_params_check(&p, good, n, N_VOCAB), 0);
    assert_int_equal(sk_params_check(&p, good, n - 1, N_VOCAB), -SK_EPROTO);
    assert_int_equal(sk_params_check(&p, good, n, 99), -SK_ERANGE); /* id 99 is outside */

    for (size_t i = 0; i < n; i++) {
        int32_t bad[sizeof good / sizeof good[0]];
        memcpy(bad, good, sizeof good);
        bad[i] = i == 4 || i == 5 ? bits(NAN) : N_VOCAB;
        assert_int_equal(sk_params_check(&p, bad, n, N_VOCAB), -SK_ERANGE);
        if (i == 4 || i == 5)
            continue;
        bad[i] = -1;
        assert_int_equal(sk_params_check(&p, bad, n, N_VOCAB), -SK_ERANGE);
    }

    int32_t empty_word[sizeof good / sizeof good[0]];
    memcpy(empty_word, good, sizeof good);
    empty_word[9] = 0;
    assert_int_equal(sk_params_check(&p, empty_word, n, N_VOCAB), -SK_ERANGE);
}

static void counts_cannot_overflow(void **state)
{
    struct sk_params p;
    int32_t list[4] = {0};
    sk_params_default(&p);
    p.n_bias = 0x80000002u; /* twice that is 4 in 32 bits */
    assert_int_equal(sk_params_check(&p, list, 4, N_VOCAB), -SK_EPROTO);
    sk_params_default(&p);
    p.n_stop_ids = UINT32_MAX;
    p.n_allowed = 5;
    assert_int_equal(sk_params_check(&p, list, 4, N_VOCAB), -SK_EPROTO);
    sk_params_default(&p);
    p.n_stop_ids = SK_MAX_LIST + 1;
    assert_int_equal(sk_params_check(&p, list, SK_MAX_LIST + 1, N_VOCAB), -SK_EPROTO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_valid),     cmocka_unit_test(floats_have_bounds),
        cmocka_unit_test(integers_have_bounds),   cmocka_unit_test(every_word_of_the_list_is_checked),
        cmocka_unit_test(counts_cannot_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
