/* Which of two replicas a request goes to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "comm/base/mem.h"
#include "server/job/engine.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[64];

static void again(uint32_t max_seqs)
{
    memset(answers, 0, sizeof answers);
    fake.max_seqs = max_seqs;
    fake_up_at(0);
    fake_up_at(1);
}

static const struct replica *at(uint32_t i)
{
    return &fake.engine->replicas[i];
}

static uint32_t replica_of(int32_t first)
{
    for (uint32_t i = 0; i < fake.n_seq; i++) {
        if (fake.seq[i].first == first && !fake.seq[i].cancelled)
            return fake.seq[i].replica;
    }
    fail_msg("%d is nowhere", first);
    return 0;
}

static void check(int i, uint32_t n_tok)
{
    fake_check_whole(&answers[i], n_tok);
    memset(&answers[i], 0, sizeof answers[i]); /* for the next request */
}

static void check_all(int n, uint32_t n_tok)
{
    fake_run_out();
    for (int i = 0; i < n; i++)
        check(i, n_tok);
}

/* Without prefixes: the one with the fewer outstanding tokens, of prompts and answers. */
static void test_least_outstanding(void **state)
{
    again(8);
    fake_ask(&answers[0], "", 1, 20, 100);
    assert_int_equal(replica_of(1), 0);
    assert_int_equal(at(0)->todo_tok, 120);
    fake_ask(&answers[1], "", 2, 20, 10);
    fake_ask(&answers[2], "", 3, 20, 10);
    fake_ask(&answers[3], "", 4, 20, 10);
    assert_int_equal(replica_of(2) + replica_of(3) + replica_of(4), 3);
    assert_int_equal(at(1)->todo_tok, 90);
    fake_step();
    assert_int_equal(at(0)->todo_tok, 99);
    assert_int_equal(at(1)->todo_tok, 27);
    fake_run_out();
    assert_int_equal(at(0)->todo_tok + at(1)->todo_tok, 0);
    check(0, 100);
    for (int i = 1; i < 4; i++)
        check(i, 10);
}

/* One that may be long counts no more than one that is. */
static void test_long_answers(void **state)
{
    again(8);
    fake_ask(&answers[0], "", 1, 20, 50000);
    assert_true(at(0)->todo_tok < 1000);
    sk_job_free(answers[0].job);
    assert_int_equal(at(0)->todo_tok, 0);
    fake_run_out();
}

static void test_prefix_first(void **state)
{
    again(8);
    for (int round = 0; round < 3; round++) {
        fake_ask(&answers[0], "", 1, 100, 3);
        fake_ask(&answers[1], "", 2, 100, 3);
        assert_int_equal(replica_of(1), 0);
        assert_int_equal(replica_of(2), 1);
        check_all(2, 3);
        fake_ask(&answers[1], "", 2, 100, 3); /* also where the other one would be as good */
        assert_int_equal(replica_of(2), 1);
        fake_run_out();
        check(1, 3);
    }
    assert_int_equal(at(0)->n_routed, 2);
    assert_int_equal(at(1)->n_routed, 5);
    assert_true(sk_metric_value(fake.metrics, SK_METRIC_REPLICA_ROUTED, "1", NULL) == 5);
}

/* 96 tokens of prefix are worth 96 tokens of work, not more. */
static void test_prefix_and_load(void **state)
{
    again(8);
    fake_ask(&answers[0], "", 1, 100, 3);
    check_all(1, 3);
    fake_ask(&answers[0], "", 5, 20, 60); /* the other one's turn */
    assert_int_equal(replica_of(5), 1);
    fake_ask(&answers[1], "", 6, 20, 150);
    assert_int_equal(replica_of(6), 0); /* 170 tokens there, 80 here */
    fake_ask(&answers[2], "", 1, 100, 3);
    assert_int_equal(replica_of(1), 0);
    fake_ask(&answers[3], "", 7, 100, 3); /* 0 has 177, 1 has 80: a new one goes to 1 */
    assert_int_equal(replica_of(7), 1);
    sk_job_free(answers[3].job);
    fake_ask(&answers[4], "", 1, 100, 3);
    assert_int_equal(fake_at(0), 2); /* 177 - 80 > 96: there is more to do than is saved */
    fake_run_out();
    check(0, 60);
    check(1, 150);
    check(2, 3);
    check(4, 3);
}

/* Of another salt nothing is shared. */
static void test_salt(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(8);
    fake_ask(&answers[0], "", 1, 100, 3);
    check_all(1, 3);
    struct sk_job_req req = fake_req(&answers[0], &p, 1, 100, 3);
    p.salt = 77;
    assert_int_equal(fake_submit(&answers[0], &req, &err), 0);
    assert_int_equal(replica_of(1), 1);
    check_all(1, 3);
    assert_int_equal(at(0)->n_routed + at(1)->n_routed, 0);
}

/* A restart empties its cache. */
static void test_cleared(void **state)
{
    again(8);
    fake_ask(&answers[0], "", 1, 100, 3);
    check_all(1, 3);
    fake_down_at(0, NULL, 0);
    fake_up_at(0);
    fake_ask(&answers[0], "", 1, 100, 3);
    assert_int_equal(at(0)->n_routed + at(1)->n_routed, 0);
    check_all(1, 3);
}

static void test_siblings(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(8);
    for (int i = 0; i < 3; i++) {
        struct sk_job_req req = fake_req(&answers[i], &p, 1 + i, 50, 5);
        req.n_choice = 4;
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    assert_int_equal(fake.n_frame_prompt, 3);
    assert_int_equal(fake_at(0) % 4, 0);
    assert_int_equal(fake_at(0) + fake_at(1), 12);
    check_all(3, 5);
}

/* A full replica gets nothing, whatever its prefixes; when both are full, requests wait in one queue. */
static void test_full(void **state)
{
    again(2);
    for (int i = 0; i < 6; i++)
        fake_ask(&answers[i], "", 1, 100, 6);
    assert_int_equal(fake_at(0), 2);
    assert_int_equal(fake_at(1), 2);
    assert_int_equal(fake.engine->fair.n_waiting, 2);
    check_all(6, 6);
}

/* What one of them lets wait holds back only what would go there. */
static void test_held(void **state)
{
    again(4);
    fake.max_running = 1;
    fake_ask(&answers[0], "", 1, 20, 40);
    fake_ask(&answers[1], "", 2, 20, 40);
    fake_ask(&answers[2], "", 3, 20, 40);
    fake_step();
    assert_int_equal(sk_engine_n_held(fake.engine), 1);
    fake_ask(&answers[3], "", 4, 20, 40);
    assert_int_equal(fake_at(0) + fake_at(1), 4);
    fake_step();
    assert_int_equal(sk_engine_n_held(fake.engine), 2);
    fake_ask(&answers[4], "", 5, 20, 40);
    assert_int_equal(fake.engine->fair.n_waiting, 1);
    fake.max_running = 4;
    check_all(5, 40);
}

/* Short of memory for the chain: it is routed by load alone. */
static void test_short_of_memory(void **state)
{
    again(8);
    fake_ask(&answers[0], "", 1, 100, 3);
    check_all(1, 3);
    const int32_t tok[64] = {9};
    sk_mem_fail_at(1, 1);
    assert_null(sk_route_find_for(fake.engine, tok, 64, 0));
    sk_mem_fail_at(0, 0);
    assert_ptr_equal(sk_route_find_for(fake.engine, tok, 64, 0), at(1));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_least_outstanding, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_long_answers, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_prefix_first, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_prefix_and_load, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_salt, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_cleared, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_siblings, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_full, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_held, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_short_of_memory, fake_open_two, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
