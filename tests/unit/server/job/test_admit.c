/* Who is refused and when to come again, and what is over its time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "comm/base/clock.h"
#include "server/job/engine.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[64];

static void again(uint32_t max_seqs)
{
    memset(answers, 0, sizeof answers);
    fake.max_seqs = max_seqs;
    fake_up();
}

/* The rates become known: prompts and answers of some requests, one after the other. */
static void measure(void)
{
    fake.stats = true;
    for (int i = 50; i < 60; i++) {
        fake_ask(&answers[i], "", 1 + i, 500, 30);
        fake_run_out();
        fake_check_whole(&answers[i], 30);
    }
    assert_true(sk_pace_is_known(&fake.engine->pace));
}

static void expect_refusal(uint32_t n_choice, uint32_t n_prompt, const char *holds)
{
    struct sk_params p;
    struct sk_err err = {0};
    struct answer a = {0};
    struct sk_job_req req = fake_req(&a, &p, 1, n_prompt, 10);
    req.n_choice = n_choice;
    assert_int_equal(fake_submit(&a, &req, &err), -SK_EQUEUE);
    assert_int_equal(err.code, SK_EQUEUE);
    if (!strstr(err.msg, holds))
        fail_msg("%s", err.msg);
    assert_true(err.retry_ms >= 100 && err.retry_ms <= 60000);
}

static void test_limits(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(4);
    fake.conf.max_queue = 3;
    struct sk_job_req req = fake_req(&answers[0], &p, 1, 10, 100000);
    assert_int_equal(fake_submit(&answers[0], &req, &err), -SK_ECTX);
    assert_non_null(strstr(err.msg, "maximum context length is 100000 tokens. However, you requested 100010"));
    for (int i = 0; i < 7; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 50);
    expect_refusal(1, 10, "7 sequences run or wait, and this request has 1 more; the limit is 7");
    sk_job_free(answers[6].job);
    expect_refusal(2, 10, "6 sequences run or wait");
    fake.conf.max_queue = 30;
    fake.conf.max_queue_tokens = 100;
    expect_refusal(1, 81, "the prompts that wait have 20 tokens, and this request has 81 more; the limit is 100");
    expect_refusal(3, 27, "has 81 more");
    fake.conf.journal_tokens = 100;
    expect_refusal(1, 41, "--journal-tokens");
    for (int i = 0; i < 6; i++)
        sk_job_free(answers[i].job);
    fake_ask(&answers[7], "", 8, 100, 5); /* on board at once: no matter that it is long */
    fake_run_out();
    fake_check_whole(&answers[7], 5);
}

static void expect_never(uint32_t n_choice, uint32_t n_prompt, const char *holds)
{
    struct sk_params p;
    struct sk_err err = {0};
    struct answer a = {0};
    struct sk_job_req req = fake_req(&a, &p, 1, n_prompt, 10);
    req.n_choice = n_choice;
    assert_int_equal(fake_submit(&a, &req, &err), -SK_ERANGE);
    assert_int_equal(err.retry_ms, 0);
    if (!strstr(err.msg, holds))
        fail_msg("%s", err.msg);
}

/* What no empty server could take is not told to come again. */
static void test_never(void **state)
{
    struct sk_params p;
    struct sk_err err = {0};
    again(2);
    fake.conf.max_queue = 4;
    fake.conf.max_queue_tokens = 100;
    fake.conf.journal_tokens = 200;
    expect_never(7, 1, "7 sequences; not more than 6");
    expect_never(3, 101, "have 101 tokens; not more than 100 can wait (--max-queue-tokens)");
    expect_never(6, 26, "have 104 tokens");
    expect_never(1, 201, "have 201 tokens; unfinished requests can hold not more than 200 (--journal-tokens)");
    struct sk_job_req req = fake_req(&answers[0], &p, 1, 25, 5);
    req.n_choice = 6; /* 4 of them wait, with 100 tokens */
    assert_int_equal(fake_submit(&answers[0], &req, &err), 0);
    expect_never(7, 1, "--max-queue"); /* also while others are there */
    expect_refusal(1, 25, "6 sequences run or wait");
    sk_job_free(answers[0].job);
    assert_int_equal(sk_job_fits(fake.engine, 6, 200, &err), 0);
    assert_int_equal(sk_job_fits(fake.engine, 7, 7, &err), -SK_ERANGE);
    assert_int_equal(sk_job_fits(fake.engine, 2, 201, &err), -SK_ERANGE);
    fake_run_out();
}

/* Retry-After follows the measured rate. */
static void test_retry(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(4);
    fake.conf.max_queue = 8;
    measure();
    double gap_us = sk_pace_drain_us(&fake.engine->pace, 1); /* alone: a step of a prompt and 29 of an answer */
    assert_true(gap_us > 300000 && gap_us < 400000);
    for (int i = 0; i < 12; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 50);
    struct sk_job_req req = fake_req(&answers[20], &p, 1, 10, 10);
    req.n_choice = 3;
    assert_int_equal(fake_submit(&answers[20], &req, &err), -SK_EQUEUE);
    assert_in_range(err.retry_ms, (uint64_t)(gap_us * 2.5 / 1e3), (uint64_t)(gap_us * 3.5 / 1e3));
    for (int i = 0; i < 12; i++)
        sk_job_free(answers[i].job);
    fake_run_out();
}

static int submit_due(struct answer *a, uint32_t n_prompt, uint32_t max_tokens, uint64_t first_us, uint64_t end_us,
                      struct sk_err *err)
{
    struct sk_params p;
    struct sk_job_req req = fake_req(a, &p, 1 + (int32_t)(a - answers), n_prompt, max_tokens);
    req.first_us = first_us ? fake.now_us + first_us : 0;
    req.end_us = end_us ? fake.now_us + end_us : 0;
    return fake_submit(a, &req, err);
}

static void check_due(const struct answer *a)
{
    assert_int_equal(a->n_over, 1);
    assert_int_equal(a->finish[0], SK_FINISH_ERROR);
    assert_int_equal(a->reason, SK_EDEADLINE);
    sk_job_free(a->job);
}

static void pass(uint64_t us)
{
    fake_pass(us);
    sk_due_run(fake.engine);
}

static void test_due_while_waiting(void **state)
{
    struct sk_err err;
    again(1);
    fake_ask(&answers[0], "", 1, 10, 1000);
    assert_int_equal(submit_due(&answers[1], 10, 10, 1000000, 0, &err), 0);
    assert_int_equal(submit_due(&answers[2], 10, 10, 0, 2000000, &err), 0);
    assert_int_equal(submit_due(&answers[3], 10, 10, 5000000, 3000000, &err), 0);
    pass(999999);
    assert_int_equal(answers[1].n_over, 0);
    pass(1);
    check_due(&answers[1]);
    pass(1000000);
    check_due(&answers[2]);
    assert_int_equal(answers[3].n_over, 0);
    pass(1000000);
    check_due(&answers[3]);
    assert_int_equal(fake.n_sent, 1); /* none of them was ever sent */
    sk_job_free(answers[0].job);
    fake_run_out();
}

static void test_due_on_board(void **state)
{
    struct sk_err err;
    again(4);
    assert_int_equal(submit_due(&answers[0], 5000, 10, 50000, 0, &err), 0);    /* its prompt takes too long */
    assert_int_equal(submit_due(&answers[1], 10, 1000, 0, 500000, &err), 0);   /* its answer does */
    assert_int_equal(submit_due(&answers[2], 10, 5, 900000, 900000, &err), 0); /* in time */
    assert_int_equal(submit_due(&answers[3], 10, 1000, 900000, 0, &err), 0);   /* has its first token */
    for (int i = 0; i < 5; i++) {
        fake_step();
        sk_due_run(fake.engine);
    }
    check_due(&answers[0]);
    while (fake.now_us < 1000000000 + 1000000) {
        fake_step();
        sk_due_run(fake.engine);
    }
    check_due(&answers[1]);
    assert_int_equal(fake.n_cancel, 2);
    fake_check_whole(&answers[2], 5);
    assert_int_equal(answers[3].n_over, 0);
    sk_job_free(answers[3].job);
    fake_run_out();
}

/* It holds for what was never on board, and not any more for what an engine's end put out. */
static void test_queue_timeout(void **state)
{
    again(2);
    fake.conf.queue_timeout = 1000;
    for (int i = 0; i < 3; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 100);
    fake_step();
    fake_down(NULL, 0);
    pass(1000000);
    check_due(&answers[2]);
    assert_int_equal(answers[0].n_over + answers[1].n_over, 0);
    fake_run_out();
    fake_check_whole(&answers[0], 100);
    fake_check_whole(&answers[1], 100);
}

/* A reload says it: also to what waits already. */
static void test_queue_timeout_reload(void **state)
{
    again(1);
    fake_ask(&answers[0], "", 1, 10, 10);
    fake_ask(&answers[1], "", 2, 10, 10);
    fake_pass(500000);
    fake_ask(&answers[2], "", 3, 10, 10);
    fake.conf.queue_timeout = 400;
    sk_engine_reloaded(fake.engine);
    assert_int_equal(answers[1].n_over, 0); /* not in the midst of whoever called */
    while (answers[1].n_over == 0)
        uv_run(&fake.loop, UV_RUN_ONCE);
    check_due(&answers[1]);
    assert_int_equal(answers[2].n_over, 0);
    assert_int_equal(fake.engine->due_us, fake.now_us + 400000);
    fake.conf.queue_timeout = 0; /* and takes it back */
    sk_engine_reloaded(fake.engine);
    while (fake.engine->due_us)
        uv_run(&fake.loop, UV_RUN_ONCE);
    fake_run_out();
    fake_check_whole(&answers[0], 10);
    fake_check_whole(&answers[2], 10);
}

/* By the loop's timer and the real clock. */
static void test_due_timer(void **state)
{
    struct sk_err err;
    again(1);
    sk_clock_set(0);
    fake.now_us = sk_clock_us();
    fake_ask(&answers[0], "", 1, 10, 1000);
    assert_int_equal(submit_due(&answers[1], 10, 10, 30000, 0, &err), 0);
    assert_int_equal(submit_due(&answers[2], 10, 10, 0, 10000, &err), 0);
    while (answers[1].n_over == 0)
        uv_run(&fake.loop, UV_RUN_ONCE);
    check_due(&answers[2]);
    check_due(&answers[1]);
    assert_int_equal(fake.engine->due_us, 0); /* and it is off */
    assert_false(uv_is_active((uv_handle_t *)&fake.engine->due));
    sk_job_free(answers[0].job);
    sk_clock_set(fake.now_us);
    fake_run_out();
}

/* What cannot be done in time is refused at once, with the numbers. */
static void test_behind(void **state)
{
    struct sk_err err;
    again(2);
    assert_int_equal(submit_due(&answers[0], 5000, 10, 1000, 0, &err), 0); /* nothing is measured yet */
    pass(1000);
    check_due(&answers[0]);
    fake_run_out();
    measure();
    assert_int_equal(submit_due(&answers[1], 5000, 10, 300000, 0, &err), -SK_EBEHIND); /* 100 us a row */
    assert_non_null(strstr(err.msg, "By the measured rate the first token would come after "));
    assert_non_null(strstr(err.msg, " ms, and has to after 300 ms."));
    assert_true(err.retry_ms >= 100);
    assert_int_equal(submit_due(&answers[1], 10, 1000, 0, 2000000, &err), -SK_EBEHIND); /* 10 ms a step */
    assert_non_null(strstr(err.msg, " s, and has to after 2.0 s."));
    assert_int_equal(submit_due(&answers[1], 1000, 10, 300000, 900000, &err), 0);
    fake_run_out();
    fake_check_whole(&answers[1], 10);
}

/* A belief that lets nobody in is given up: the engine has become faster, and nobody would know. */
static void test_doubt(void **state)
{
    struct sk_err err;
    uint32_t n = 0;
    again(2);
    fake.base_us = 100000;
    measure();
    fake.base_us = 1000;
    while (submit_due(&answers[0], 100, 10, 300000, 300000, &err) != 0)
        assert_true(++n < 40);
    assert_true(n > 0);
    fake_run_out();
    fake_check_whole(&answers[0], 10);
}

/* The estimate of a full queue against what happens. */
static void test_estimate(void **state)
{
    struct sk_engine_estimate est;
    struct sk_tenant *t = fake_tenant("", 1);
    again(2);
    sk_engine_estimate(fake.engine, t, 100, 10, &est);
    assert_int_equal(est.queue_us + est.first_us + est.end_us, 0);
    measure();
    sk_engine_estimate(fake.engine, t, 1000, 20, &est);
    assert_int_equal(est.queue_us, 0);
    fake_ask(&answers[0], "", 1, 1000, 20);
    fake_run_out();
    assert_in_range(answers[0].first_us - answers[0].submit_us, est.first_us * 8 / 10, est.first_us * 12 / 10);
    assert_in_range(answers[0].over_us - answers[0].submit_us, est.end_us * 8 / 10, est.end_us * 12 / 10);
    fake_check_whole(&answers[0], 20);
    for (int i = 0; i < 20; i++)
        fake_ask(&answers[i], "", 1 + i, 500, 30);
    sk_engine_estimate(fake.engine, t, 500, 30, &est);
    assert_true(est.queue_us > 1000000 && est.first_us > est.queue_us && est.end_us > est.first_us);
    sk_engine_estimate(fake.engine, fake_tenant("other", 1), 500, 30, &est);
    assert_int_equal(est.queue_us, 0); /* somebody makes room for it */
    for (int i = 0; i < 20; i++)
        sk_job_free(answers[i].job);
    fake_run_out();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_limits, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_never, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_retry, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_due_while_waiting, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_due_on_board, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_queue_timeout, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_queue_timeout_reload, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_due_timer, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_behind, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_doubt, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_estimate, fake_open, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
