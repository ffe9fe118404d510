/* PEEK and VIEW, and the bill of each sequence. */
#include <string.h>

#include "comm/base/clock.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

static uint32_t cached(struct rig *r, const int32_t *tok, uint32_t n, uint64_t salt)
{
    front_peek(&r->front, tok, n, salt);
    return r->front.view->n_cached;
}

/* Whole blocks, never the last token, and only under the same salt. */
static void test_cached(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[30];
    rig_ramp(p, 30, 1);
    rig_open(&r, &c);
    assert_int_equal(cached(&r, p, 30, 0), 0);
    struct front_req q = rig_greedy(p, 22, 1);
    front_submit(&r.front, &q);
    rig_run(&r);
    assert_int_equal(cached(&r, p, 22, 0), 20);
    assert_int_equal(cached(&r, p, 21, 0), 20);
    assert_int_equal(cached(&r, p, 20, 0), 16);
    assert_int_equal(cached(&r, p, 30, 0), 20);
    assert_int_equal(cached(&r, p, 30, 5), 0);
    assert_int_equal(cached(&r, p, 1, 0), 0);
    assert_int_equal(cached(&r, p, 0, 0), 0);
    p[9] = 33;
    assert_int_equal(cached(&r, p, 30, 0), 8);
    rig_close(&r);
}

/* Asking does not keep a block from being evicted: the least recently held one still goes first. */
static void test_touches_nothing(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t a[30], b[30], d[30];
    c.kv.n_blk[0] = 16;
    c.max_len = 60;
    rig_ramp(a, 30, 1);
    rig_ramp(b, 30, 20);
    rig_ramp(d, 30, 33);
    rig_open(&r, &c);
    struct front_req qa = rig_greedy(a, 22, 1), qb = rig_greedy(b, 22, 1), qd = rig_greedy(d, 26, 1);
    front_submit(&r.front, &qa);
    rig_run(&r);
    front_submit(&r.front, &qb);
    rig_run(&r);
    assert_int_equal(cached(&r, b, 22, 0), 20);
    assert_int_equal(cached(&r, a, 22, 0), 20); /* last: were it touched, b would go first */
    invariants_idle(r.loop);
    front_submit(&r.front, &qd);
    rig_run(&r);
    assert_int_equal(cached(&r, b, 22, 0), 20);
    assert_true(cached(&r, a, 22, 0) < 20);
    rig_close(&r);
}

static void test_sequences(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[40];
    c.max_seqs = 2;
    rig_open(&r, &c);
    front_peek(&r.front, NULL, 0, 0);
    assert_int_equal(r.front.view->n_seq, 0);
    for (int32_t i = 0; i < 4; i++) {
        rig_ramp(p, 10, i * 10);
        struct front_req q = rig_greedy(p, 10, 5);
        front_submit(&r.front, &q);
    }
    front_step(&r.front);
    front_step(&r.front);
    assert_int_equal(r.front.n_waiting, 2);
    front_peek(&r.front, NULL, 0, 0);
    const struct sk_wire_view *v = r.front.view;
    const struct sk_wire_view_seq *s = sk_wire_view_seqs(v);
    assert_int_equal(v->n_seq, 4);
    assert_int_equal(v->stats.running, 2);
    assert_int_equal(v->stats.steps, 2);
    for (uint32_t i = 0; i < 4; i++) {
        assert_int_equal(s[i].job, i + 1);
        assert_int_equal(s[i].state, i < 2 ? SK_VIEW_RUNNING : SK_VIEW_WAITING);
        assert_int_equal(s[i].n_prompt, 10);
        assert_int_equal(s[i].n_tok, i < 2 ? 12 : 10);
        assert_int_equal(s[i].n_computed, i < 2 ? 11 : 0);
        assert_int_equal(s[i].n_blk, i < 2 ? 3 : 0);
    }
    rig_run(&r);
    front_peek(&r.front, NULL, 0, 0);
    assert_int_equal(r.front.view->n_seq, 0);
    rig_close(&r);
}

/* As many as there may be. */
static void test_full(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[4] = {1, 2, 3, 4};
    rig_open(&r, &c);
    struct front_req q = rig_greedy(p, 4, 2);
    for (uint32_t i = 0; i < sk_loop_credit(r.loop); i++)
        front_submit(&r.front, &q);
    front_peek(&r.front, NULL, 0, 0);
    assert_int_equal(r.front.view->n_seq, sk_loop_credit(r.loop));
    rig_run(&r);
    rig_close(&r);
}

/* ---- the bill ---- */

static uint64_t now; /* the clock is held still, but for: */

/* 1 ms passes between steps: blocks are held, nothing computes. */
static void tick(struct rig *r)
{
    sk_clock_set(now += 1000);
    front_step(&r->front);
}

static void test_blocks_held(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[10];
    sk_clock_set(now = 1000000);
    rig_ramp(p, 10, 1);
    rig_open(&r, &c);
    struct front_req q = rig_greedy(p, 10, 4); /* 10 computed, then 11, 12: 3 blocks all the time */
    uint32_t s = front_submit(&r.front, &q);
    for (uint64_t i = 0; i < 4; i++) {
        tick(&r);
        assert_true(r.front.seqs[s].blk_us == i * 3 * 1000);
        assert_true(r.front.seqs[s].cpu_us == 0);
    }
    assert_int_equal(r.front.seqs[s].finish, SK_FINISH_LENGTH);

    uint32_t t = front_submit(&r.front, &q); /* waits: holds nothing */
    sk_clock_set(now += 50000);
    tick(&r);
    tick(&r);
    assert_true(r.front.seqs[t].blk_us == 3 * 1000);
    front_cancel(&r.front, t);
    rig_run(&r);
    assert_true(r.front.seqs[t].blk_us == 3 * 1000);
    sk_clock_set(0);
    rig_close(&r);
}

/* A step's time is shared by rows, and all of it is somebody's. */
static void test_shares(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[30];
    c.n_thread = 4;
    sk_clock_set(now = 1000000);
    rig_ramp(p, 30, 1);
    rig_open(&r, &c);
    pretend_slow(r.crew, 3200);
    struct front_req qa = rig_greedy(p, 24, 1);
    uint32_t a = front_submit(&r.front, &qa);
    rig_ramp(p, 30, 9);
    struct front_req qb = rig_greedy(p, 8, 2);
    uint32_t b = front_submit(&r.front, &qb);
    front_step(&r.front);
    assert_true(r.front.seqs[a].cpu_us == 4 * 3200 * 24 / 32);
    assert_true(r.front.seqs[b].cpu_us == 4 * 3200 * 8 / 32);
    front_step(&r.front);
    assert_true(r.front.seqs[b].cpu_us == 4 * 3200 * 8 / 32 + 4 * 3200);
    rig_run(&r);
    sk_clock_set(0);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_cached), cmocka_unit_test(test_touches_nothing), cmocka_unit_test(test_sequences),
        cmocka_unit_test(test_full),   cmocka_unit_test(test_blocks_held),     cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
