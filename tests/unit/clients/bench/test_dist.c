#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "clients/bench/dist.h"

enum { N = 20000 };

static void check_mean(const char *text, double mean, double deviation)
{
    struct sk_dist d;
    struct sk_draw draw;
    double sum = 0, squares = 0;
    assert_int_equal(sk_dist_parse(text, "input", &d, NULL), 0);
    sk_draw_init(&draw, 7, SK_DRAW_ASK, 0);
    for (int i = 0; i < N; i++) {
        double x = (double)sk_dist_draw(&d, &draw, 1);
        sum += x;
        squares += x * x;
    }
    double m = sum / N, sd = sqrt(squares / N - m * m);
    assert_true(fabs(m - mean) < 0.03 * mean);
    assert_true(fabs(sd - deviation) < 0.05 * deviation + 0.5);
}

static void test_moments(void **state)
{
    check_mean("128", 128, 0);
    check_mean("fixed:128", 128, 0);
    check_mean("uniform:100:200", 150, 101 / sqrt(12));
    check_mean("normal:500:50", 500, 50);
    check_mean("lognormal:200:0.5", 200 * exp(0.125), 200 * exp(0.125) * sqrt(exp(0.25) - 1));
    check_mean("exp:300", 300, 300);
}

static void test_bounds(void **state)
{
    struct sk_dist d;
    struct sk_draw draw;
    bool low = false, high = false;
    sk_draw_init(&draw, 7, SK_DRAW_ASK, 0);
    assert_int_equal(sk_dist_parse("uniform:3:5", "input", &d, NULL), 0);
    for (int i = 0; i < 1000; i++) {
        int64_t x = sk_dist_draw(&d, &draw, 1);
        assert_in_range(x, 3, 5);
        low |= x == 3;
        high |= x == 5;
    }
    assert_true(low && high);
    assert_int_equal(sk_dist_parse("normal:2:1000", "input", &d, NULL), 0);
    for (int i = 0; i < 1000; i++)
        assert_true(sk_dist_draw(&d, &draw, 1) >= 1);
    assert_int_equal(sk_dist_parse("lognormal:1000000:20", "input", &d, NULL), 0);
    for (int i = 0; i < 1000; i++)
        assert_true(sk_dist_draw(&d, &draw, 1) <= SK_DIST_MAX);
}

static void test_bad(void **state)
{
    static const char *const bad[] = {
        "",     "x",   "uniform",     "uniform:",  "uniform:1", "uniform:1:2:3", "uniform:5:3", "-1",
        "1e99", "nan", "normal:1:-2", "gauss:1:2", "12 ",       "exp:",          "inf"};
    struct sk_err err;
    struct sk_dist d = {.a = 42};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (struct sk_err){0};
        assert_true(sk_dist_parse(bad[i], "output", &d, &err) < 0);
        assert_string_equal(err.param, "output");
        assert_non_null(strstr(err.msg, "output"));
    }
    assert_true(d.a == 42);
}

static void test_gaps(void **state)
{
    static const struct {
        enum sk_dist_gap kind;
        double shape, cv; /* standard deviation / mean */
    } all[] = {{SK_DIST_GAP_FIXED, 1, 0},
               {SK_DIST_GAP_POISSON, 1, 1},
               {SK_DIST_GAP_GAMMA, 1, 1},
               {SK_DIST_GAP_GAMMA, 0.25, 2},
               {SK_DIST_GAP_GAMMA, 4, 0.5}};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct sk_draw draw;
        double sum = 0, squares = 0;
        sk_draw_init(&draw, 3, SK_DRAW_GAP, i);
        for (int k = 0; k < N; k++) {
            double s = (double)sk_dist_gap_ns(all[i].kind, 50, all[i].shape, &draw) / 1e9;
            sum += s;
            squares += s * s;
        }
        double mean = sum / N, cv = sqrt(fmax(squares / N - mean * mean, 0)) / mean;
        assert_true(fabs(mean - 0.02) < 0.001);
        assert_true(fabs(cv - all[i].cv) < 0.06 * all[i].cv + 0.001);
    }
}

static void test_same_seed(void **state)
{
    struct sk_draw a, b, c;
    sk_draw_init(&a, 9, SK_DRAW_ASK, 4);
    sk_draw_init(&b, 9, SK_DRAW_ASK, 4);
    sk_draw_init(&c, 9, SK_DRAW_ASK, 5);
    int differ = 0;
    for (int i = 0; i < 100; i++) {
        uint64_t x = sk_draw_bits(&a);
        assert_true(x == sk_draw_bits(&b));
        differ += x != sk_draw_bits(&c);
    }
    assert_int_equal(differ, 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moments), cmocka_unit_test(test_bounds),
                                       cmocka_unit_test(test_bad), cmocka_unit_test(test_gaps),
                                       cmocka_unit_test(test_same_seed)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
