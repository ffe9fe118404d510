/* The cost model on steps whose times are made up. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine/batch/cost.h"

/* A machine: what each unit of work really takes. */
static const struct sk_cost_rate truth = {.us = {[SK_COST_PROMPT_ROW] = 300,
                                                 [SK_COST_PROMPT_PAIR] = 0.2,
                                                 [SK_COST_DECODE_ROW] = 600,
                                                 [SK_COST_DECODE_PAIR] = 0.9,
                                                 [SK_COST_STEP] = 4000}};

static uint64_t dice;

static uint32_t draw(uint32_t n) /* 0 .. n - 1 */
{
    dice = dice * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(dice >> 33) % n;
}

static struct sk_cost_work work(uint32_t n_prompt, uint32_t pos, uint32_t n_decode, uint32_t depth)
{
    struct sk_cost_work w = sk_cost_no_work();
    sk_cost_add(&w, true, pos, n_prompt);
    for (uint32_t i = 0; i < n_decode; i++)
        sk_cost_add(&w, false, depth, 1);
    return w;
}

/* As they come when a server works: decode rows, and chunks of any size now and then. */
static struct sk_cost_work any_work(void)
{
    uint32_t n_prompt = draw(3) == 0 ? 1 + draw(512) : 0;
    return work(n_prompt, draw(2000), draw(32) + (n_prompt == 0), draw(2000));
}

static double ratio(const struct sk_cost *c, const struct sk_cost_work *w)
{
    return sk_cost_us(&c->rate, w) / sk_cost_us(&truth, w);
}

static void is_close(const struct sk_cost *c, double within)
{
    for (int i = 0; i < 200; i++) {
        struct sk_cost_work w = any_work();
        double r = ratio(c, &w);
        if (fabs(r - 1) > within)
            fail_msg("%.0f rows of prompts, %.0f of answers: forecast %.3f of the time", w.n[SK_COST_PROMPT_ROW],
                     w.n[SK_COST_DECODE_ROW], r);
    }
}

static void test_work(void **unused)
{
    struct sk_cost_work w = sk_cost_no_work();
    assert_true(w.n[SK_COST_STEP] == 1 && w.n[SK_COST_PROMPT_ROW] == 0);
    sk_cost_add(&w, true, 10, 3); /* 11 + 12 + 13 positions */
    sk_cost_add(&w, true, 0, 1);
    sk_cost_add(&w, false, 7, 1);
    assert_true(w.n[SK_COST_PROMPT_ROW] == 4 && w.n[SK_COST_PROMPT_PAIR] == 37);
    assert_true(w.n[SK_COST_DECODE_ROW] == 1 && w.n[SK_COST_DECODE_PAIR] == 8);
}

/* Before the first step the guess counts; after one, what it took: of twice the rows, twice that. */
static void test_beginning(void **unused)
{
    struct sk_cost c;
    struct sk_cost_work one = work(128, 0, 0, 0), two = work(256, 0, 0, 0);
    sk_cost_init(&c, 1000);
    assert_true(sk_cost_us(&c.rate, &one) == 128000);
    sk_cost_learn(&c, &one, 80000);
    assert_true(fabs(sk_cost_us(&c.rate, &one) - 80000) < 1);
    assert_true(fabs(sk_cost_us(&c.rate, &two) - 160000) < 1);
}

static void test_exact(void **unused)
{
    struct sk_cost c;
    sk_cost_init(&c, 0);
    for (int i = 0; i < 2000; i++) {
        struct sk_cost_work w = any_work();
        sk_cost_learn(&c, &w, sk_cost_us(&truth, &w));
    }
    is_close(&c, 0.02);
    assert_true(c.rate.spread < 1.02);
}

/* Times that vary by a tenth, and one in thirty that is ten times too long because the CPU was taken away. */
static void test_noise(void **unused)
{
    struct sk_cost c;
    sk_cost_init(&c, 0);
    for (int i = 0; i < 2000; i++) {
        struct sk_cost_work w = any_work();
        double us = sk_cost_us(&truth, &w) * (0.9 + draw(201) / 1000.0);
        sk_cost_learn(&c, &w, draw(30) == 0 ? 10 * us : us);
    }
    is_close(&c, 0.2);
}

/* The spread is what one step of twenty is beyond. */
static void test_spread(void **unused)
{
    struct sk_cost c;
    uint32_t n_beyond = 0, n = 20000;
    sk_cost_init(&c, 0);
    for (uint32_t i = 0; i < n; i++) {
        struct sk_cost_work w = work(100, 0, 8, 100);
        double us = 40000 * (0.8 + draw(401) / 1000.0), limit = c.rate.spread * sk_cost_us(&c.rate, &w);
        n_beyond += i > n / 2 && us > limit;
        sk_cost_learn(&c, &w, us);
    }
    assert_in_range(n_beyond, n / 2 / 40, n / 2 / 12);
    assert_true(c.rate.spread > 1.1 && c.rate.spread < 1.25);
}

/* Whatever times come: rates stay numbers that are not negative. */
static void test_bounds(void **unused)
{
    struct sk_cost c;
    sk_cost_init(&c, 0);
    for (int i = 0; i < 20000; i++) {
        struct sk_cost_work w = draw(50) ? any_work() : sk_cost_no_work();
        static const double times[] = {0, 1, 1e3, 1e6, 1e12};
        sk_cost_learn(&c, &w, times[draw(5)] * draw(1000));
        for (int k = 0; k < SK_COST_TERMS; k++)
            assert_true(c.rate.us[k] >= 0 && isfinite(c.rate.us[k]));
        assert_true(c.rate.spread >= 1 && c.rate.spread <= SK_COST_MAX_SPREAD);
    }
}

/* A machine that becomes three times slower, or faster, is followed. */
static void test_change(void **unused)
{
    static const double speeds[] = {1, 3, 1, 1.0 / 3};
    struct sk_cost c;
    sk_cost_init(&c, 0);
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < 1500; i++) {
            struct sk_cost_work w = any_work();
            sk_cost_learn(&c, &w, speeds[s] * sk_cost_us(&truth, &w));
        }
        for (int i = 0; i < 100; i++) {
            struct sk_cost_work w = any_work();
            assert_true(fabs(ratio(&c, &w) / speeds[s] - 1) < 0.1);
        }
    }
}

/* However long nothing but answers is computed, what prompts take is not forgotten. */
static void test_memory(void **unused)
{
    struct sk_cost c;
    sk_cost_init(&c, 0);
    for (int i = 0; i < 1000; i++) {
        struct sk_cost_work w = any_work();
        sk_cost_learn(&c, &w, sk_cost_us(&truth, &w));
    }
    for (uint32_t i = 0; i < 100000; i++) {
        struct sk_cost_work w = work(0, 0, 32, 100 + i % 1000);
        sk_cost_learn(&c, &w, sk_cost_us(&truth, &w));
    }
    is_close(&c, 0.05);
}

/* As many rows as fit, and not one more. */
static void test_rows(void **unused)
{
    struct sk_cost_rate r = truth;
    r.spread = 1;
    for (int i = 0; i < 2000; i++) {
        bool prompt = draw(2);
        uint32_t pos = draw(30000);
        double us = draw(200000);
        struct sk_cost_work fits = {0}, beyond = {0};
        r.us[SK_COST_PROMPT_PAIR] = i % 3 ? truth.us[SK_COST_PROMPT_PAIR] : 0;
        uint32_t n = sk_cost_rows(&r, prompt, pos, us, 100000);
        sk_cost_add(&fits, prompt, pos, n);
        sk_cost_add(&beyond, prompt, pos, n + 1);
        assert_true(sk_cost_us(&r, &fits) <= us * 1.000001 && sk_cost_us(&r, &beyond) >= us * 0.999999);
        assert_int_equal(sk_cost_rows(&r, prompt, pos, us, n / 2), n / 2);
    }
    assert_int_equal(sk_cost_rows(&r, true, 0, -1, 100), 0);
    r = (struct sk_cost_rate){.spread = 1};
    assert_int_equal(sk_cost_rows(&r, true, 0, 1, 100), 100); /* nothing is known to take time */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work),   cmocka_unit_test(test_beginning), cmocka_unit_test(test_exact),
        cmocka_unit_test(test_noise),  cmocka_unit_test(test_spread),    cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_change), cmocka_unit_test(test_memory),    cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
