/* Several plans under way, as with pipeline stages, over a pretended crew whose rows come when chance says so: answers
 * are those of one plan at a time, nothing waits for rows that it does not need, and the work is divided over the
 * stages. */
#include <string.h>

#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/workload.h"

static void test_random(void **state)
{
    struct sk_wire_stats s;
    uint64_t preempted = 0, hit = 0, right = 0, wrong = 0;
    for (uint64_t seed = 0; seed < 24; seed++) {
        struct sk_loop_conf c = rig_conf();
        c.max_queue = 400;
        c.kv.keep = seed & 1;
        c.kv.classes_equal = seed & 2;
        c.no_evict = seed & 4;
        c.kv.n_blk[0] = seed & 8 ? 40 : 64; /* one sequence of max_len is 32 */
        c.draft = (struct sk_draft_conf){.max = (uint32_t)seed % 10, .always = true};
        workload_run(&c, 2 + (uint32_t)seed % 4, seed, &s);
        right += s.accept_tok;
        wrong += s.draft_tok - s.accept_tok;
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
    for (uint64_t seed = 100; seed < 124; seed++) {
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
        workload_run(&c, 2 + (uint32_t)seed % 3, seed, &s);
        preempted += s.preemptions;
        hit += s.cache_hit_tok;
        if (c.no_evict)
            assert_int_equal(s.preemptions, 0);
    }
    assert_true(preempted > 20 && hit > 500);
}

static struct sk_loop_conf big_conf(void)
{
    struct sk_loop_conf c = rig_conf();
    c.max_seqs = 64;
    c.max_row = 256;
    c.max_len = 256;
    c.kv.block_tok = 8;
    c.kv.n_blk[0] = 512;
    return c;
}

/* Sequences that generate run in as many groups as there are stages, each of its share, and none in two. */
static void test_groups(void **state)
{
    for (uint32_t n_stage = 2; n_stage <= 4; n_stage++) {
        enum { N = 62, N_TOK = 40 };
        struct sk_loop_conf c = big_conf();
        struct rig r;
        int32_t prompt[4];
        uint32_t n_full = 0, n_plan = 0, share = (N + n_stage - 1) / n_stage;
        rig_ramp(prompt, 4, 1);
        rig_open_stages(&r, &c, n_stage, n_stage);
        const struct front_req q = rig_greedy(prompt, 4, N_TOK);
        for (int i = 0; i < N; i++)
            front_submit(&r.front, &q);
        while (r.loop->stats.decode_tok < 3 * N)
            front_step(&r.front);
        uint64_t step = r.loop->step;
        while (r.loop->stats.decode_tok < (N_TOK - 10) * N) {
            front_step(&r.front);
            invariants_check(r.loop);
            assert_true(r.loop->seqs->n_plan <= n_stage);
            if (r.loop->step == step)
                continue;
            step = r.loop->step;
            n_plan++;
            assert_true(r.loop->todo.n_run <= share);
            n_full += r.loop->todo.n_run + n_stage >= share;
        }
        assert_true(n_full == n_plan && n_plan >= 10 * n_stage);
        rig_run(&r);
        rig_close(&r);
    }
}

/* A prompt's chunks follow one another without waiting, and none is too small or more than a stage's part. */
static void test_prompt_alone(void **state)
{
    struct sk_loop_conf c = big_conf();
    int32_t prompt[250];
    uint32_t most = 0;
    rig_ramp(prompt, 250, 1);
    const struct front_req q = rig_greedy(prompt, 250, 3);
    for (uint64_t seed = 0; seed < 8; seed++) {
        struct rig r;
        rig_open_stages(&r, &c, 2, seed);
        uint32_t seq = front_submit(&r.front, &q);
        while (r.loop->stats.prompt_tok < 250) {
            front_step(&r.front);
            invariants_check(r.loop);
            assert_true(r.loop->todo.n_row <= 128);
        }
        assert_true(r.loop->step <= 5); /* of 64 rows */
        most = pretend_most(r.crew) > most ? pretend_most(r.crew) : most;
        rig_run(&r);
        rig_expect(&r, seq, &q);
        rig_close(&r);
    }
    assert_int_equal(most, 3);
}

/* What is under way is not closed: a cancelled sequence ends when its rows are back, and takes part no more. */
static void test_cancel(void **state)
{
    struct sk_loop_conf c = rig_conf();
    struct rig r;
    int32_t prompt[100];
    rig_ramp(prompt, 100, 1);
    rig_open_stages(&r, &c, 3, 7);
    const struct front_req q = rig_greedy(prompt, 100, 20);
    uint32_t seq = front_submit(&r.front, &q);
    while (r.loop->seqs->n_plan < 2)
        front_step(&r.front);
    struct sk_seq *s = r.loop->seqs->run.first;
    uint64_t step = r.loop->step;
    front_cancel(&r.front, seq);
    front_cancel(&r.front, seq);
    assert_true(s->state == SK_SEQ_RUN && s->cancelled && s->n_plan == 2);
    rig_run(&r);
    assert_int_equal(r.loop->step, step);
    assert_int_equal(r.front.seqs[seq].finish, SK_FINISH_CANCEL);
    assert_int_equal(r.front.seqs[seq].n_item, 0);
    rig_close(&r);
}

/* With one sequence there is nothing to divide, and nothing to plan until its token is back. */
static void test_one(void **state)
{
    struct sk_loop_conf c = rig_conf();
    struct rig r;
    int32_t prompt[20];
    rig_ramp(prompt, 20, 1);
    rig_open_stages(&r, &c, 2, 3);
    const struct front_req q = rig_greedy(prompt, 20, 30);
    uint32_t seq = front_submit(&r.front, &q);
    rig_run(&r);
    assert_int_equal(r.loop->step, 30);
    rig_expect(&r, seq, &q);
    rig_close(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),       cmocka_unit_test(test_random_windows), cmocka_unit_test(test_groups),
        cmocka_unit_test(test_prompt_alone), cmocka_unit_test(test_cancel),         cmocka_unit_test(test_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
