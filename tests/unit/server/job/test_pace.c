#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "engine/batch/sched.h"
#include "server/job/pace.h"

/* n steps of an engine that takes 10 ms and 200 us for each row. */
static void take(struct sk_pace *p, uint32_t n_step, uint32_t prompt_tok, uint32_t decode_tok, uint32_t n_end)
{
    const struct sk_wire_stats d = {.steps = n_step,
                                    .prompt_tok = prompt_tok,
                                    .decode_tok = decode_tok,
                                    .busy_us = n_step * 10000 + 200 * (prompt_tok + decode_tok)};
    sk_pace_take(p, &d, n_end);
}

static void test_converges(void **state)
{
    struct sk_pace p = {0};
    assert_false(sk_pace_is_known(&p));
    take(&p, 10, 5000, 20, 0);
    assert_false(sk_pace_is_known(&p)); /* it has not seen what a step without a prompt takes */
    for (int i = 0; i < 100; i++) {
        take(&p, 10, 0, 10, 0);
        take(&p, 5, 2000, 100, 1);
        take(&p, 10, 0, 300, 1);
    }
    assert_true(sk_pace_is_known(&p));
    assert_float_equal(p.base_us, 10000, 500);
    assert_float_equal(p.row_us, 200, 10);
    assert_float_equal(sk_pace_step_us(&p, 50), 20000, 800);
    assert_float_equal(sk_pace_fill_us(&p, 1024, 0, 512, 0), 224800, 6000);
    assert_float_equal(sk_pace_fill_us(&p, 1024, 256, 512, 0), 4 * 61200 + 204800, 10000); /* beside 256 others */
    assert_float_equal(sk_pace_drain_us(&p, 10), 5 * (102000 + 470000 + 160000), 400000);
}

/* Beside answers a step takes no more of a prompt than lets it end within the target. */
static void test_chunks(void **state)
{
    struct sk_pace p = {.base_us = 10000, .row_us = 200, .has_row = true, .has_step = true};
    _Static_assert((int)SK_PACE_LEAST_CHUNK == (int)SK_SCHED_LEAST_CHUNK &&
                       (int)SK_PACE_LEAST_TARGET_US == (int)SK_SCHED_LEAST_TARGET_US,
                   "what the engine does");
    assert_float_equal(sk_pace_fill_us(&p, 1024, 1, 512, 60e6), 204800 + 3 * 10200, 1);
    assert_float_equal(sk_pace_fill_us(&p, 1024, 1, 512, 20200), 204800 + 21 * 10200, 1); /* 50 rows */
    assert_float_equal(sk_pace_fill_us(&p, 1024, 1, 512, 1000), 204800 + 32 * 10200, 1);  /* out of reach */
    assert_float_equal(sk_pace_fill_us(&p, 1024, 1, 512, 0), 204800 + 14 * 10200, 1);     /* 25 ms: 74 rows */
    assert_float_equal(sk_pace_fill_us(&p, 1024, 100, 512, 0), 204800 + 7 * 30000, 1);    /* 60 ms: 150 rows */
    assert_float_equal(sk_pace_fill_us(&p, 1024, 0, 512, 1000), 204800 + 2 * 10000, 1);   /* nobody waits */
}

static void test_nothing(void **state)
{
    struct sk_pace p = {0};
    take(&p, 0, 0, 0, 0);
    assert_false(sk_pace_is_known(&p));
    assert_float_equal(sk_pace_drain_us(&p, 5), 0, 0);
    take(&p, 10, 1000, 0, 0);
    assert_true(p.has_row && !p.has_step);
    assert_float_equal(sk_pace_drain_us(&p, 5), 0, 0); /* none has ended */
}

/* Prompts that the cache has are not computed. */
static void test_cached(void **state)
{
    struct sk_pace p = {0};
    for (int i = 0; i < 100; i++)
        sk_pace_take(&p, &(struct sk_wire_stats){.cache_query_tok = 1000, .cache_hit_tok = 750}, 0);
    assert_float_equal(p.cached, 0.75, 0.01);
}

/* A new speed is believed after a second or so of work, and never less than nothing. */
static void test_follows(void **state)
{
    struct sk_pace p = {0};
    for (int i = 0; i < 20; i++) {
        take(&p, 10, 5000, 0, 1);
        take(&p, 10, 0, 10, 1);
    }
    const struct sk_wire_stats slow = {.steps = 10, .decode_tok = 10, .busy_us = 1000000},
                               odd = {.steps = 10, .decode_tok = 10000, .busy_us = 1000};
    for (int i = 0; i < 6; i++)
        sk_pace_take(&p, &slow, 0);
    assert_true(p.base_us > 90000);
    for (int i = 0; i < 1000; i++)
        sk_pace_take(&p, &odd, 0);
    assert_true(p.base_us >= 0 && p.row_us > 0);
    double us = sk_pace_step_us(&p, 1);
    sk_pace_doubt(&p);
    assert_true(sk_pace_step_us(&p, 1) < us);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_converges), cmocka_unit_test(test_chunks),  cmocka_unit_test(test_nothing),
        cmocka_unit_test(test_cached),    cmocka_unit_test(test_follows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
