/* How much is drafted: by a sequence's record, by what rows take, and by what is left for it. Over a pretended rank,
 * whose rows with seeds from PRETEND_REPEATS on repeat themselves. */
#include <string.h>

#include "comm/base/clock.h"
#include "comm/base/mem.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

static void test_record(void **state)
{
    struct sk_draft_pace p = {0};
    float first = sk_draft_rate(&p);
    assert_true(first > 0 && first < 1);
    for (int i = 0; i < 10; i++)
        sk_draft_learn(&p, 8, 8);
    assert_true(sk_draft_rate(&p) > 0.95f && p.wait == 0);
    sk_draft_learn(&p, 8, 3);
    assert_true(sk_draft_rate(&p) > 0.8f && p.wait == 0);
    sk_draft_learn(&p, 8, 0);
    assert_int_equal(p.wait, 0); /* once is no reason */
    uint32_t wait[8];
    for (int i = 0; i < 8; i++) {
        sk_draft_learn(&p, 8, 0);
        wait[i] = p.wait;
        assert_true(i == 0 || wait[i] == (2 * wait[i - 1] < SK_DRAFT_MAX_WAIT ? 2 * wait[i - 1] : SK_DRAFT_MAX_WAIT));
    }
    assert_true(wait[0] > 0 && wait[7] == SK_DRAFT_MAX_WAIT && sk_draft_rate(&p) < 0.4f);
    sk_draft_learn(&p, 1, 1);
    assert_int_equal(p.wait, 0);
    for (int i = 0; i < 1000; i++)
        sk_draft_learn(&p, 32, 0);
    assert_true(sk_draft_rate(&p) > 0 && sk_draft_rate(&p) < 0.01f && p.wait == SK_DRAFT_MAX_WAIT);
}

/* n requests whose answers repeat themselves; row_us: the cost model is told that beside 1,000 us each row takes so
 * much, and the clock stands still, so that nothing else is learned. Returns tokens of answers per step. */
static double run_load(uint32_t n, double row_us, struct sk_wire_stats *ret)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[8][8];
    struct front_req q[8];
    uint32_t s[8];
    c.draft.max = 6;
    rig_open(&r, &c);
    sk_clock_set(1);
    for (uint32_t i = 0; i < n; i++) {
        rig_ramp(prompt[i], 8, (int32_t)i);
        q[i] = rig_greedy(prompt[i], 8, 100);
        q[i].params.seed = PRETEND_REPEATS + i;
        s[i] = front_submit(&r.front, &q[i]);
    }
    do {
        memset(&r.loop->cost.rate.us, 0, sizeof r.loop->cost.rate.us);
        r.loop->cost.rate.us[SK_COST_STEP] = 1000;
        r.loop->cost.rate.us[SK_COST_DECODE_ROW] = r.loop->cost.rate.us[SK_COST_PROMPT_ROW] = row_us;
        invariants_check(r.loop);
    } while (front_step(&r.front));
    for (uint32_t i = 0; i < n; i++)
        rig_expect(&r, s[i], &q[i]);
    sk_loop_stats(r.loop, ret);
    sk_clock_set(0);
    rig_close(&r);
    return (double)ret->decode_tok / (double)ret->steps;
}

static void test_cheap_rows_are_drafted(void **state)
{
    struct sk_wire_stats s;
    assert_true(run_load(1, 10, &s) > 3);
    assert_true(s.accept_tok > 60 && s.accept_tok <= s.draft_tok);
}

/* A row that takes as long as reading the weights does: alone it is worth a draft that is likely right, in a step of
 * eight not even one that is sure. */
static void test_a_full_batch_drafts_less(void **state)
{
    struct sk_wire_stats alone, many;
    run_load(1, 1000, &alone);
    run_load(8, 1000, &many);
    assert_true(alone.accept_tok > 30);
    assert_true(many.draft_tok / 8 < alone.draft_tok / 4); /* beside prompts, and to find out what rows take */
}

/* A row that takes as long as a step: but for the few that find out what they take, none. */
static void test_dear_rows_are_not_drafted(void **state)
{
    struct sk_wire_stats s;
    run_load(1, 1e6, &s);
    assert_true(s.draft_tok <= 4 * 4 && s.steps > 80);
}

/* Steps of 32 rows with a long prompt beside: the chunks are not cut for drafts. */
static void test_drafts_take_what_is_left(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[2][100];
    c.draft = (struct sk_draft_conf){.max = SK_DRAFT_MAX, .always = true};
    rig_open(&r, &c);
    rig_ramp(prompt[0], 8, 1);
    rig_ramp(prompt[1], 100, 2);
    struct front_req a = rig_greedy(prompt[0], 8, 100), b = rig_greedy(prompt[1], 100, 2);
    a.params.seed = PRETEND_REPEATS;
    uint32_t sa = front_submit(&r.front, &a);
    while (r.loop->stats.draft_tok == 0)
        assert_true(front_step(&r.front));
    assert_true(r.loop->todo.n_row > 1);
    uint32_t sb = front_submit(&r.front, &b);
    front_step(&r.front);
    assert_int_equal(r.loop->todo.n_run, 2);
    assert_int_equal(r.loop->todo.run[0].n, 31); /* the prompt's, all but the row of the answer */
    assert_int_equal(r.loop->todo.run[1].n_draft, 0);
    rig_run(&r);
    rig_expect(&r, sa, &a);
    rig_expect(&r, sb, &b);
    rig_close(&r);
}

/* A pool that holds the two just so: no draft takes the block that the other needs. */
static void test_drafts_preempt_nobody(void **state)
{
    struct sk_wire_stats s;
    for (int draft = 0; draft < 2; draft++) {
        struct rig r;
        struct sk_loop_conf c = rig_conf();
        int32_t prompt[2][8];
        struct front_req q[2];
        uint32_t id[2];
        c.kv.n_blk[0] = 2 * 12;
        c.draft = (struct sk_draft_conf){.max = draft ? 8 : 0, .always = true};
        rig_open(&r, &c);
        for (int i = 0; i < 2; i++) {
            rig_ramp(prompt[i], 8, i);
            q[i] = rig_greedy(prompt[i], 8, 40);
            q[i].params.seed = PRETEND_REPEATS + (uint64_t)i;
            id[i] = front_submit(&r.front, &q[i]);
        }
        rig_run(&r);
        for (int i = 0; i < 2; i++)
            rig_expect(&r, id[i], &q[i]);
        sk_loop_stats(r.loop, &s);
        assert_int_equal(s.preemptions, 0);
        rig_close(&r);
    }
    assert_true(s.draft_tok > 0);
}

static void test_warm_steps_allocate_nothing(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t prompt[8];
    c.draft = (struct sk_draft_conf){.max = 8, .always = true};
    rig_open(&r, &c);
    rig_ramp(prompt, 8, 1);
    struct front_req q = rig_greedy(prompt, 8, 100);
    q.params.seed = PRETEND_REPEATS;
    uint32_t first = front_submit(&r.front, &q), second = 0;
    rig_run(&r);
    second = front_submit(&r.front, &q);
    uint64_t before = sk_mem_count();
    while (front_step(&r.front))
        ;
    assert_int_equal(sk_mem_count(), before);
    rig_expect(&r, first, &q);
    rig_expect(&r, second, &q);
    assert_true(r.loop->stats.accept_tok > 50);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_cheap_rows_are_drafted),
        cmocka_unit_test(test_a_full_batch_drafts_less),
        cmocka_unit_test(test_dear_rows_are_not_drafted),
        cmocka_unit_test(test_drafts_take_what_is_left),
        cmocka_unit_test(test_drafts_preempt_nobody),
        cmocka_unit_test(test_warm_steps_allocate_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
