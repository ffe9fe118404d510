/* A randomised workload over a pretended rank, with tiny pools: every answer is what its request gives alone, whatever
 * else goes on, and the state's invariants hold after every step. */
#include "tests/unit/engine/batch/workload.h"

static void test_random(void **state)
{
    struct sk_wire_stats s;
    uint64_t preempted = 0, hit = 0, right = 0, wrong = 0;
    for (uint64_t seed = 0; seed < 16; seed++) {
        struct sk_loop_conf c = rig_conf();
        c.max_queue = 400;
        c.kv.keep = seed & 1;
        c.kv.classes_equal = seed & 2;
        c.no_evict = seed & 4;
        c.kv.n_blk[0] = seed & 8 ? 40 : 64; /* one sequence of max_len is 32 */
        c.draft = (struct sk_draft_conf){.max = (uint32_t)seed % 10, .always = true};
        workload_run(&c, 1, seed, &s);
        right += s.accept_tok;
        wrong += s.draft_tok - s.accept_tok;
        assert_true(c.draft.max > 0 || s.draft_tok == 0);
        preempted += s.preemptions;
        hit += s.cache_hit_tok;
        if (c.no_evict)
            assert_int_equal(s.preemptions, 0);
    }
    assert_true(preempted > 20 && hit > 1000 && right > 1000 && wrong > 300);
}

static void test_random_windows(void **state)
{
    struct sk_wire_stats s;
    uint64_t preempted = 0, hit = 0;
    for (uint64_t seed = 100; seed < 116; seed++) {
        struct sk_loop_conf c = rig_conf();
        c.max_queue = 400;
        c.max_row = 16;
        c.kv.n_group = seed & 1 ? 2 : 1;
        c.kv.window[0] = 11;
        c.kv.n_blk[0] = seed & 2 ? 9 : 40;
        c.kv.n_blk[1] = 34;
        c.kv.classes_equal = seed & 4;
        c.no_evict = seed & 8;
        c.draft = (struct sk_draft_conf){.max = (uint32_t)seed % 6, .always = true};
        workload_run(&c, 1, seed, &s);
        preempted += s.preemptions;
        hit += s.cache_hit_tok;
        if (c.no_evict)
            assert_int_equal(s.preemptions, 0);
    }
    assert_true(preempted > 20 && hit > 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_random_windows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
