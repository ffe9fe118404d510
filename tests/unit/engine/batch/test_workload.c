/* A randomised workload over a pretended rank, with tiny pools: every answer is what its request gives alone, whatever
 * else goes on, and the state's invariants hold after every step. */
#include <string.h>

#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/workload.h"

static void random_workload(const struct sk_loop_conf *c, uint64_t seed, struct sk_wire_stats *ret_stats)
{
    static struct workload w;
    struct rig r;
    struct dice d = {seed};
    memset(&w, 0, sizeof w);
    rig_open(&r, c);
    for (uint32_t i = 0; i < N_REQ; i++) {
        workload_make(&w, i, c, &d);
        w.first[i] = front_submit(&r.front, &w.req[i]);
        for (uint32_t n = roll(&d, 4); n > 0; n--) {
            const struct sk_seq *oldest = r.loop->seqs->run.first;
            uint64_t id = oldest ? oldest->id : 0;
            uint32_t before = oldest ? oldest->n_preempt : 0;
            front_step(&r.front);
            invariants_check(r.loop);
            assert_true(!oldest || oldest->id != id || oldest->n_preempt == before); /* the oldest is never preempted */
        }
        if (roll(&d, 8) == 0) {
            uint32_t victim = roll(&d, r.front.n_seq);
            w.cancelled[victim] = true;
            front_cancel(&r.front, victim);
            invariants_check(r.loop);
        }
    }
    rig_run(&r);
    workload_expect(&w, &r);
    sk_loop_stats(r.loop, ret_stats);
    rig_close(&r);
}

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
        random_workload(&c, seed, &s);
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
        random_workload(&c, seed, &s);
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
