#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <cmocka.h>

#include "clients/bench/agenda.h"
#include "clients/bench/stat.h"
#include "comm/base/err.h"
#include "comm/base/mem.h"

static bool near(double a, double b)
{
    return fabs(a - b) <= 1e-6 * (1 + fabs(b));
}

static void test_exact(void **state)
{
    struct sk_stat s;
    sk_stat_init(&s, 1000, 1);
    for (int i = 0; i <= 100; i++)
        sk_stat_add(&s, (i * 37) % 101); /* 0..100 in some order */
    struct sk_stat_figures f = sk_stat_figures(&s);
    assert_int_equal(f.n, 101);
    assert_false(f.sampled);
    assert_true(near(f.mean, 50) && near(f.p50, 50) && near(f.p90, 90) && near(f.p95, 95) && near(f.p99, 99));
    assert_true(near(f.max, 100));
    sk_stat_done(&s);
}

static void test_few(void **state)
{
    struct sk_stat s;
    sk_stat_init(&s, 10, 1);
    assert_int_equal(sk_stat_figures(&s).n, 0);
    assert_true(sk_stat_figures(&s).p99 == 0);
    sk_stat_add(&s, 3);
    assert_true(sk_stat_figures(&s).p50 == 3 && sk_stat_figures(&s).max == 3);
    sk_stat_add(&s, 5);
    assert_true(near(sk_stat_figures(&s).p50, 4)); /* between its neighbours */
    sk_stat_done(&s);
}

/* Beyond the cap: mean and maximum stay exact, percentiles come from a fair selection, and it says so. */
static void test_selection(void **state)
{
    struct sk_stat s;
    sk_stat_init(&s, 2000, 1);
    for (int i = 0; i < 100000; i++)
        sk_stat_add(&s, i);
    struct sk_stat_figures f = sk_stat_figures(&s);
    assert_true(f.sampled);
    assert_int_equal(f.n, 100000);
    assert_true(near(f.mean, 49999.5) && f.max == 99999);
    assert_true(fabs(f.p50 - 50000) < 5000 && fabs(f.p90 - 90000) < 3000);
    sk_stat_done(&s);
}

static void test_out_of_memory(void **state)
{
    struct sk_stat s;
    sk_stat_init(&s, 10, 1);
    sk_mem_fail_at(1, 1);
    assert_int_equal(sk_stat_add(&s, 1), -SK_ENOMEM);
    sk_mem_fail_at(0, 0);
    assert_int_equal(sk_stat_figures(&s).n, 0);
    sk_stat_done(&s);
}

static void test_series(void **state)
{
    struct sk_stat_series s = {.width_ns = 10};
    for (uint64_t t = 0; t < 20000; t++)
        sk_stat_series_add(&s, t, 1);
    double sum = 0;
    for (size_t i = 0; i < s.n_used; i++)
        sum += s.sum[i];
    assert_true(sum == 20000);
    assert_true(s.width_ns == 80 && s.n_used == 250 && s.sum[0] == 80);
}

static void test_ratio(void **state)
{
    const double a[] = {1, 2, 4, 0, 5}, b[] = {2, 4, 8, 7, 0};
    struct sk_stat_ratio r = sk_stat_ratio(a, b, 5);
    assert_int_equal(r.n, 3);
    assert_true(near(r.mean, 2) && near(r.low, 2) && near(r.high, 2) && near(r.least, 2) && near(r.most, 2));

    const double c[] = {1, 1}, d[] = {0.5, 2};
    r = sk_stat_ratio(c, d, 2);
    assert_true(near(r.mean, 1) && near(r.least, 0.5) && near(r.most, 2));
    assert_true(near(log(r.high), 12.706 * log(2)) && near(r.low * r.high, 1)); /* sd of +-log 2 is log 2 * sqrt 2 */
    assert_int_equal(sk_stat_ratio(c, d, 0).n, 0);
}

static void test_agenda(void **state)
{
    struct sk_agenda a = {0};
    uint64_t last = 0, n = 0;
    int tags[3];
    for (uint64_t i = 0; i < 1000; i++)
        assert_int_equal(sk_agenda_push(&a, 10 + i * 7919 % 997, NULL), 0);
    for (int i = 0; i < 3; i++)
        assert_int_equal(sk_agenda_push(&a, 5, &tags[i]), 0);
    for (int i = 0; i < 3; i++, sk_agenda_pop(&a))
        assert_ptr_equal(sk_agenda_first(&a)->what, &tags[i]); /* the same moment: in their order */
    for (; sk_agenda_first(&a); sk_agenda_pop(&a), n++) {
        assert_true(sk_agenda_first(&a)->due_ns >= last);
        last = sk_agenda_first(&a)->due_ns;
    }
    assert_int_equal(n, 1000);
    sk_agenda_done(&a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_exact),     cmocka_unit_test(test_few),
                                       cmocka_unit_test(test_selection), cmocka_unit_test(test_out_of_memory),
                                       cmocka_unit_test(test_series),    cmocka_unit_test(test_ratio),
                                       cmocka_unit_test(test_agenda)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
