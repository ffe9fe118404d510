/* The flight recorder over a pretended rank, which checks that every position reads what belongs there: whenever a
 * segment is looked at, it replays alone, row for row. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "engine/batch/flight.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/workload.h"

struct recorded { /* a rig with a flight recorder, and what a replay of it is opened with */
    struct rig rig;
    struct sk_board board;
    struct sk_flight *flight;
    struct sk_loop_conf replay;
    uint32_t n_stage;
    uint64_t n_segment, n_step, n_row; /* replayed */
};

static void open_recorded(struct recorded *r, struct sk_loop_conf c, uint32_t n_stage, uint32_t max_plan,
                          size_t segment_bytes)
{
    struct sk_err err = {0};
    struct sk_record_head h = {.limits = {.n_vocab = c.n_vocab, .n_group = c.kv.n_group, .max_len = c.max_len}};
    int fd;
    *r = (struct recorded){.replay = c, .n_stage = n_stage};
    r->replay.max_seqs++;
    h.limits.max_slot = r->replay.max_seqs;
    h.limits.max_row = h.limits.max_result = c.max_row;
    for (uint32_t g = 0; g < c.kv.n_group; g++)
        h.limits.n_blk[g] = r->replay.kv.n_blk[g] += sk_flight_spare(&c.kv, g, c.max_len, c.max_row);
    assert_int_equal(sk_board_make(c.max_seqs, max_plan, segment_bytes, &fd, &r->board, &err), 0);
    close(fd);
    if (sk_flight_open(&r->board, &h, &c, &r->flight, &err))
        fail_msg("%s", err.msg);
    c.board = &r->board;
    c.flight = r->flight;
    rig_open_stages(&r->rig, &c, n_stage, max_plan);
}

static void close_recorded(struct recorded *r)
{
    rig_close(&r->rig);
    sk_flight_close(r->flight);
    sk_board_unmap(&r->board);
}

/* 1 = it was there, and was replayed. */
static int replay_segment(struct recorded *r, int index, struct sk_replay_stats *ret)
{
    struct sk_err err = {0};
    struct sk_buf b;
    struct sk_player *p;
    struct sk_record_head h;
    char path[64];
    uint64_t number;
    sk_buf_init(&b, r->board.segment_bytes);
    int rc = sk_board_copy_segment(&r->board, index, &b, &number);
    assert_true(rc >= 0);
    if (rc == 1) {
        FILE *f = tmpfile();
        assert_non_null(f);
        assert_int_equal(fwrite(b.p, 1, b.n, f), b.n);
        assert_int_equal(fflush(f), 0);
        snprintf(path, sizeof path, "/proc/self/fd/%d", fileno(f));
        struct sk_crew *crew = pretend_new(&r->replay);
        assert_int_equal(sk_player_open(path, &p, &h, &err), 0);
        if (sk_replay(p, crew, true, ret, &err))
            fail_msg("segment %llu: %s", (unsigned long long)number, err.msg);
        sk_player_close(p);
        pretend_free(crew);
        fclose(f);
        assert_true(ret->n_bare <= r->rig.loop->seqs->n_plan);
        r->n_segment++;
        r->n_step += ret->n_step;
        r->n_row += ret->n_row;
    }
    sk_buf_done(&b);
    return rc;
}

static void replay_both(struct recorded *r)
{
    struct sk_replay_stats s;
    replay_segment(r, 0, &s);
    replay_segment(r, 1, &s);
}

static void preempt_youngest(struct sk_loop *l)
{
    struct sk_seq *q = l->seqs->run.last;
    if (!q || q == l->seqs->run.first || q->n_plan > 0)
        return;
    sk_apply_leave(l, q);
    q->n_preempt++;
    sk_seq_to(l->seqs, q, SK_SEQ_WAIT);
}

static void random_flight(struct recorded *r, uint64_t seed)
{
    static struct workload w;
    struct dice d = {seed};
    memset(&w, 0, sizeof w);
    for (uint32_t i = 0; i < N_REQ; i++) {
        workload_make(&w, i, &r->rig.conf, &d);
        w.first[i] = front_submit(&r->rig.front, &w.req[i]);
        for (uint32_t n = roll(&d, 5); n > 0; n--) {
            front_step(&r->rig.front);
            if (roll(&d, 6) == 0)
                preempt_youngest(r->rig.loop);
        }
        if (roll(&d, 9) == 0) {
            uint32_t victim = roll(&d, r->rig.front.n_seq);
            w.cancelled[victim] = true;
            front_cancel(&r->rig.front, victim);
        }
        if (roll(&d, 5) == 0)
            replay_both(r);
    }
    while (front_step(&r->rig.front))
        if (roll(&d, 20) == 0)
            replay_both(r);
    replay_both(r);
    workload_expect(&w, &r->rig);
    invariants_idle(r->rig.loop);
}

static void random_flights(uint32_t n_stage)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        struct recorded r;
        struct sk_loop_conf c = rig_conf();
        c.max_queue = 400;
        c.kv.keep = seed % 4 != 3;
        c.kv.classes_equal = seed & 1;
        c.kv.n_blk[0] = seed & 2 ? 40 : 64;
        open_recorded(&r, c, n_stage, 1 + (uint32_t)seed * 5, 1 << 20);
        random_flight(&r, seed);
        assert_true(r.n_segment > 20 && r.n_row > 100);
        close_recorded(&r);
    }
}

static void random_window_flights(uint32_t n_stage)
{
    for (uint64_t seed = 100; seed < 112; seed++) {
        struct recorded r;
        struct sk_loop_conf c = rig_conf();
        c.max_queue = 400;
        c.max_row = 16;
        c.kv.n_group = seed & 1 ? 2 : 1;
        c.kv.window[0] = 11;
        c.kv.n_blk[0] = seed & 2 ? 9 : 40;
        c.kv.n_blk[1] = 34;
        c.kv.classes_equal = seed & 4;
        open_recorded(&r, c, n_stage, 16, 1 << 20);
        random_flight(&r, seed);
        assert_true(r.n_segment > 20 && r.n_row > 100);
        close_recorded(&r);
    }
}

static void test_random(void **state)
{
    random_flights(1);
    random_window_flights(1);
}

/* Plans that were under way when a segment was looked at have no rows in it. */
static void test_random_stages(void **state)
{
    random_flights(2);
    random_window_flights(3);
}

/* The last N to 2 N plans are there: those that the engine made, besides those that rebuild. */
static void test_bounds(void **state)
{
    enum { N = 10, N_STEP = 47 };
    struct recorded r;
    struct sk_replay_stats s;
    int32_t prompt[20];
    rig_ramp(prompt, 20, 1);
    open_recorded(&r, rig_conf(), 1, N, 1 << 20);
    const struct front_req q = rig_greedy(prompt, 20, N_STEP);
    front_submit(&r.rig.front, &q);
    for (int i = 0; i < N_STEP - 1; i++)
        assert_true(front_step(&r.rig.front));
    assert_int_equal(replay_segment(&r, 0, &s), 1);
    assert_int_equal(s.n_row, N);
    assert_int_equal(replay_segment(&r, 1, &s), 1);
    assert_int_equal(s.n_row, (N_STEP - 1) % N);
    rig_run(&r.rig);
    close_recorded(&r);
}

/* Small segments: begun anew when they are full; where even the state does not fit, nothing is there, and there is
 * again when it does. */
static void test_full(void **state)
{
    struct recorded r;
    struct sk_replay_stats s;
    int32_t prompt[60];
    uint32_t n_full = 0;
    rig_ramp(prompt, 60, 1);
    open_recorded(&r, rig_conf(), 1, 1000, 12000);
    struct front_req q = rig_greedy(prompt, 60, 40);
    front_submit(&r.rig.front, &q);
    for (int i = 0; i < 10; i++)
        assert_true(front_step(&r.rig.front));
    assert_int_equal(replay_segment(&r, 1, &s), 1);
    for (int32_t i = 0; i < 6; i++) {
        prompt[0] = 10 + i;
        front_submit(&r.rig.front, &q);
    }
    while (front_step(&r.rig.front)) {
        n_full += replay_segment(&r, 1, &s) == 0 && replay_segment(&r, 0, &s) == 0;
    }
    assert_true(n_full > 0);
    prompt[0] = 3;
    q.params.max_tokens = 2;
    front_submit(&r.rig.front, &q);
    rig_run(&r.rig);
    assert_int_equal(replay_segment(&r, 1, &s), 1);
    close_recorded(&r);
}

/* A plan is there before it runs: a crash in it leaves it as the last one, without rows. */
static void test_crash_in_step(void **state)
{
    struct recorded r;
    struct sk_buf b;
    uint64_t number;
    int32_t prompt[9];
    rig_ramp(prompt, 9, 1);
    open_recorded(&r, rig_conf(), 1, 100, 1 << 20);
    const struct front_req q = rig_greedy(prompt, 9, 5);
    front_submit(&r.rig.front, &q);
    front_step(&r.rig.front);
    struct sk_loop *l = r.rig.loop;
    sk_sched_next(&l->sched, l->seqs, l->pool, &l->todo);
    l->step++;
    sk_flight_prepare(r.flight, l);
    assert_int_equal(sk_apply_plan(l), 0);
    sk_flight_plan(r.flight, l);

    sk_buf_init(&b, r.board.segment_bytes);
    assert_int_equal(sk_board_copy_segment(&r.board, 1, &b, &number), 1);
    const struct sk_plan_head *last = (const void *)(b.p + b.n - l->plan.n);
    assert_int_equal(last->magic, SK_PLAN_MAGIC);
    assert_int_equal(last->step, 2);
    sk_buf_done(&b);
    close_recorded(&r);
}

static void test_allocates_nothing(void **state)
{
    struct recorded r;
    int32_t prompt[30];
    rig_ramp(prompt, 30, 1);
    open_recorded(&r, rig_conf(), 1, 5, 1 << 20);
    const struct front_req q = rig_greedy(prompt, 30, 60);
    front_submit(&r.rig.front, &q);
    front_step(&r.rig.front);
    uint64_t n = sk_mem_count();
    for (int i = 0; i < 40; i++)
        front_step(&r.rig.front);
    assert_true(sk_mem_count() == n);
    rig_run(&r.rig);
    close_recorded(&r);
}

static int quiet(void **state)
{
    sk_log_level_set(SK_LOG_ERROR);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random), cmocka_unit_test(test_random_stages), cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_full),   cmocka_unit_test(test_crash_in_step), cmocka_unit_test(test_allocates_nothing),
    };
    return cmocka_run_group_tests(tests, quiet, NULL);
}
