/* What goes on board when: places and credit, order, fair share between tenants, making room. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include "comm/base/mem.h"
#include "server/metrics/metrics.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[300];

static void again(uint32_t max_seqs)
{
    memset(answers, 0, sizeof answers);
    fake.max_seqs = max_seqs;
    fake_up();
}

static uint32_t n_yield(void)
{
    return (uint32_t)sk_metric_value(fake.metrics, SK_METRIC_YIELDS, NULL, NULL);
}

/* When idle all go at once, the choices of a job under one prompt. */
static void test_one_go(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(64);
    for (uint32_t i = 0; i < 7; i++) {
        struct sk_job_req req = fake_req(&answers[i], &p, 1 + (int32_t)i, 10, 5);
        req.n_choice = 8;
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    for (uint32_t i = 7; i < 15; i++)
        fake_ask(&answers[i], "", 1 + (int32_t)i, 10, 5);
    assert_int_equal(fake.n_seq, 64);
    assert_int_equal(fake.n_frame_prompt, 15);
    fake_run_out();
    for (uint32_t i = 0; i < 15; i++)
        fake_check_whole(&answers[i], 5);
}

/* The fake engine checks that there are never too many; here that none is forgotten. */
static void test_more_than_places(void **state)
{
    struct sk_params p;
    struct sk_err err;
    struct sk_engine_status st;
    again(4);
    for (uint32_t i = 0; i < 40; i++) {
        struct sk_job_req req = fake_req(&answers[i], &p, 1 + (int32_t)i, 10 + i, 1 + i % 7);
        req.n_choice = 1 + i % 8;
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    sk_engine_status(fake.engine, &st);
    assert_int_equal(st.n_running, 4);
    assert_int_equal(st.n_waiting, 40 * 9 / 2 - 4);
    fake_run_out();
    for (uint32_t i = 0; i < 40; i++)
        fake_check_whole(&answers[i], 1 + i % 7);
    assert_int_equal(n_yield(), 0);
    sk_engine_status(fake.engine, &st);
    assert_int_equal(st.journal_tok, 0);
}

/* A cancelled one has lost its place at once; its credit comes back with its end. */
static void test_cancel(void **state)
{
    again(4);
    for (int i = 0; i < 10; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 20);
    fake_step();
    for (int i = 0; i < 3; i++)
        sk_job_free(answers[i].job);
    sk_job_free(answers[9].job); /* waits */
    assert_int_equal(fake.n_cancel, 3);
    assert_int_equal(fake.n_seq, 7);
    sk_job_cancel(answers[4].job, SK_WIRE_ALL);
    sk_job_cancel(answers[5].job, SK_WIRE_ALL);
    assert_int_equal(fake.n_seq, 8); /* the credit */
    fake_step();
    assert_int_equal(fake.n_seq, 4);
    fake_run_out();
    assert_int_equal(answers[0].n_tok[0], 1);
    assert_int_equal(answers[4].n_over, 0);
    sk_job_free(answers[4].job);
    sk_job_free(answers[5].job);
    fake_check_whole(&answers[3], 20);
    for (int i = 6; i < 9; i++)
        fake_check_whole(&answers[i], 20);
}

static void cancel_at_3(struct answer *a, uint32_t choice)
{
    if (a->n_tok[choice] == 3)
        sk_job_cancel(a->job, choice);
}

/* From inside of a callback, as stop strings do. */
static void test_cancel_in_callback(void **state)
{
    again(4);
    for (int i = 0; i < 6; i++) {
        fake_ask(&answers[i], "", 1 + i, 10, 20);
        answers[i].on_tok = i % 2 ? cancel_at_3 : NULL;
    }
    fake_run_out();
    for (int i = 0; i < 6; i += 2)
        fake_check_whole(&answers[i], 20);
    for (int i = 1; i < 6; i += 2) {
        assert_int_equal(answers[i].n_tok[0], 3);
        sk_job_free(answers[i].job);
    }
}

/* What the engine lets wait holds everything back: it would queue up behind it there. */
static void test_held(void **state)
{
    again(4);
    fake.max_running = 2;
    for (int i = 0; i < 3; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 4);
    assert_int_equal(fake.n_seq, 3);
    fake_step(); /* says that one waits */
    fake_ask(&answers[3], "", 4, 10, 4);
    assert_int_equal(fake.n_seq, 3);
    for (int i = 0; i < 3; i++)
        fake_step();
    assert_int_equal(fake.n_seq, 2); /* two have ended, nobody waits there: the fourth has come */
    fake_run_out();
    for (int i = 0; i < 4; i++)
        fake_check_whole(&answers[i], 4);
}

static void check_sent(uint32_t from, const int32_t *want, uint32_t n)
{
    assert_int_equal(fake.n_sent, from + n);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(fake.sent[from + i], want[i]);
}

static void test_priority(void **state)
{
    static const int32_t prio[] = {0, 5, -2, 0, 5, -2, 0};
    struct sk_params p;
    struct sk_err err;
    again(1);
    for (int i = 0; i < 7; i++) {
        struct sk_job_req req = fake_req(&answers[i], &p, 1 + i, 10, 2);
        p.priority = prio[i];
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    fake_run_out();
    check_sent(0, (const int32_t[]){1, 3, 6, 4, 7, 2, 5}, 7);
    for (int i = 0; i < 7; i++)
        fake_check_whole(&answers[i], 2);
}

/* After an engine's end those nearest their own go first, and what never was on board last. */
static void test_readmission(void **state)
{
    static const uint32_t len[] = {40, 10, 30, 20};
    again(4);
    for (int i = 0; i < 4; i++)
        fake_ask(&answers[i], "", 1 + i, 10, len[i]);
    for (int i = 4; i < 6; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 1);
    for (int i = 0; i < 5; i++)
        fake_step();
    uint32_t n = fake.n_sent;
    fake_down(NULL, 0);
    fake_up();
    check_sent(n, (const int32_t[]){2, 4, 3, 1}, 4);
    assert_int_equal((int)sk_metric_value(fake.metrics, SK_METRIC_READMISSIONS, NULL, NULL), 4);
    fake_run_out();
    for (int i = 0; i < 4; i++)
        fake_check_whole(&answers[i], len[i]);
    for (int i = 4; i < 6; i++)
        fake_check_whole(&answers[i], 1);
}

/* Prompt log-probs that were delivered are not delivered again. */
static void test_readmission_prompt(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(4);
    struct sk_job_req req = fake_req(&answers[0], &p, 1, 10, 5);
    p.n_prompt_logprobs = 0;
    assert_int_equal(fake_submit(&answers[0], &req, &err), 0);
    for (int i = 0; i < 4; i++)
        fake_step();
    assert_int_equal(answers[0].n_prompt_items[0], 4);
    fake_down(NULL, 0);
    fake_run_out();
    assert_int_equal(answers[0].n_prompt_items[0], 9);
    fake_check_whole(&answers[0], 5);
}

/* Two tenants that always have something waiting get tokens as their weights say. */
static void test_weights(void **state)
{
    struct sk_tenant *t[2] = {fake_tenant("a", 1), fake_tenant("b", 3)};
    uint64_t n_tok[2] = {0};
    again(8);
    for (int i = 0; i < 240; i++) {
        struct sk_params p;
        struct sk_err err;
        struct sk_job_req req = fake_req(&answers[i], &p, 1 + i, 20, 5 + (uint32_t)i % 16);
        req.tenant = t[i % 2];
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    for (int i = 0; i < 150; i++)
        fake_step();
    for (int i = 0; i < 240; i++) {
        n_tok[i % 2] += answers[i].n_tok[0];
        sk_job_free(answers[i].job);
    }
    assert_true(n_tok[1] > 500); /* both have more to wait for */
    double ratio = (double)n_tok[1] / (double)n_tok[0];
    if (ratio < 2.6 || ratio > 3.4)
        fail_msg("1:%f instead of 1:3", ratio);
    fake_run_out();
}

/* One that had nothing for long has not saved up: it shares from now on. */
static void test_lift(void **state)
{
    again(4);
    for (int i = 0; i < 40; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 10);
    for (int i = 0; i < 40; i++)
        fake_step();
    for (int i = 40; i < 80; i++)
        fake_ask(&answers[i], "b", 1 + i, 10, 10);
    uint32_t n_a = 0, n_b = 0;
    for (int i = 0; i < 40; i++)
        n_a += answers[i].n_tok[0];
    for (int i = 0; i < 40; i++)
        fake_step();
    for (int i = 40; i < 80; i++)
        n_b += answers[i].n_tok[0];
    for (int i = 0; i < 40; i++)
        n_a -= answers[i].n_tok[0];
    n_a = -n_a;
    if (n_a * 3 < n_b * 2 || n_b * 3 < n_a * 2)
        fail_msg("a: %u tokens, b: %u", n_a, n_b);
    for (int i = 0; i < 80; i++)
        sk_job_free(answers[i].job);
    fake_run_out();
}

/* A newcomer gets a place from one that has too many, and that one's goes on where it was. */
static void test_yield(void **state)
{
    again(4);
    for (int i = 0; i < 8; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 30);
    for (int i = 0; i < 5; i++)
        fake_step();
    fake_ask(&answers[8], "b", 9, 10, 10);
    assert_int_equal(fake_on_board(9), 1);
    assert_int_equal(fake_on_board(4), 0); /* the youngest */
    assert_int_equal(n_yield(), 1);
    fake_step();
    assert_int_equal(answers[8].n_tok[0], 1);
    fake_run_out();
    for (int i = 0; i < 8; i++)
        fake_check_whole(&answers[i], 30);
    fake_check_whole(&answers[8], 10);
    assert_int_equal(n_yield(), 1);
}

/* Who asks for little while another asks for too much is urgent: one sequence at a time, and none of the other's. */
static void test_urgent(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(8);
    for (int i = 0; i < 12; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 30);
    for (int i = 0; i < 5; i++)
        fake_step();
    struct sk_job_req req = fake_req(&answers[12], &p, 13, 10, 10);
    req.tenant = fake_tenant("b", 1);
    req.n_choice = 2;
    assert_int_equal(fake_submit(&answers[12], &req, &err), 0);
    assert_int_equal(fake_urgent(13), 1);
    fake_ask(&answers[13], "b", 14, 10, 10);
    assert_int_equal(fake_urgent(14), 0); /* its turn has not come */
    fake_step();
    assert_int_equal(fake_urgent(13), 2); /* the first has its token */
    assert_int_equal(fake_urgent(14), 0);
    for (int i = 0; i < 12; i++)
        assert_int_equal(fake_urgent(1 + i), 0);
    fake_run_out();
    for (int i = 0; i < 12; i++)
        fake_check_whole(&answers[i], 30);
    fake_check_whole(&answers[12], 10);
    fake_check_whole(&answers[13], 10);
}

/* Nobody asks for too much, or both do: nothing is urgent. */
static void test_not_urgent(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(8);
    for (int i = 0; i < 4; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 30);
    fake_step();
    fake_ask(&answers[4], "b", 5, 10, 30);
    assert_int_equal(fake_on_board(5), 1);
    assert_int_equal(fake_urgent(5), 0);
    fake_step();
    for (int i = 5; i < 10; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 30);
    struct sk_job_req req = fake_req(&answers[10], &p, 11, 10, 30);
    req.tenant = fake_tenant("c", 1);
    req.n_choice = 5;
    assert_int_equal(fake_submit(&answers[10], &req, &err), 0);
    assert_true(fake_on_board(11) > 0);
    assert_int_equal(fake_urgent(11), 0);
    fake_run_out();
    for (int i = 0; i < 11; i++)
        fake_check_whole(&answers[i], 30);
}

/* Both want all of it: the newcomer is given its half, and then nobody takes from anybody any more. */
static void test_no_ping_pong(void **state)
{
    again(4);
    for (int i = 0; i < 20; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 50);
    for (int i = 0; i < 5; i++)
        fake_step();
    for (int i = 20; i < 40; i++)
        fake_ask(&answers[i], "b", 1 + i, 10, 50);
    for (int i = 0; i < 20; i++)
        fake_step();
    uint32_t n = 0;
    for (int i = 20; i < 40; i++)
        n += fake_on_board(1 + i);
    assert_int_equal(n, 2);
    assert_int_equal(n_yield(), 2);
    fake_run_out();
    for (int i = 0; i < 40; i++)
        fake_check_whole(&answers[i], 50);
    assert_true(n_yield() <= 4);
}

/* As many tenants as it may be: one of each is on board and nobody gives way, since each has but one. */
static void test_more_tenants_than_places(void **state)
{
    char name[8] = "t00";
    again(4);
    for (int i = 0; i < 60; i++) {
        name[1] = (char)('0' + i / 10);
        name[2] = (char)('0' + i % 10);
        fake_ask(&answers[i], name, 1 + i, 10, 10);
        fake_step();
    }
    fake_run_out();
    for (int i = 0; i < 60; i++)
        fake_check_whole(&answers[i], 10);
    assert_int_equal(n_yield(), 0);
}

/* Prompts that the engine still lets wait go behind a newcomer's; nothing of them was begun. */
static void test_newcomer_passes_held(void **state)
{
    again(8);
    fake.max_running = 2;
    fake.conf.prefix_cache = false; /* else those that run would go behind it, too */
    for (int i = 0; i < 8; i++)
        fake_ask(&answers[i], "a", 1 + i, 10, 5);
    fake_step(); /* says that six wait */
    fake_ask(&answers[8], "b", 9, 10, 5);
    assert_int_equal(fake.n_cancel, 6);
    assert_int_equal(fake.sent[8], 9); /* the next after the eight, and what makes up the other's share behind it */
    assert_int_equal(fake.n_sent, 8 + 1 + 2);
    fake_run_out();
    for (int i = 0; i < 9; i++)
        fake_check_whole(&answers[i], 5);
    for (int i = 2; i < 8; i++)
        assert_true(answers[8].first_us <= answers[i].first_us);
}

static uint64_t ttft_us(struct answer *a)
{
    for (int i = 0; a->first_us == 0; i++) {
        assert_true(i < 1000);
        fake_step();
    }
    return a->first_us - a->submit_us;
}

/* One key has 200 queued requests, another sends one, again and again: its first token takes at most twice as long as
 * on an idle server. */
static void test_one_among_many(void **state)
{
    enum { N_HOG = 200, N_PROMPT = 64, LEN = 64 };
    again(64);
    fake_ask(&answers[299], "b", 1000, N_PROMPT, 4);
    uint64_t idle_us = ttft_us(&answers[299]);
    fake_run_out();
    fake_check_whole(&answers[299], 4);
    for (int i = 0; i < N_HOG; i++)
        fake_ask(&answers[i], "a", 1 + i, N_PROMPT, LEN);
    uint32_t n = N_HOG;
    while (answers[N_HOG - 60].n_over == 0) {
        for (uint32_t i = 0; i < n % 7; i++)
            fake_step();
        fake_ask(&answers[n], "b", 1 + (int32_t)n, N_PROMPT, 4);
        uint64_t us = ttft_us(&answers[n]);
        if (us > 2 * idle_us)
            fail_msg("request %u waits for %d us, on an idle server %d us", n, (int)us, (int)idle_us);
        n++;
        assert_true(n < 299);
    }
    assert_true(n > N_HOG + 20);
    fake_run_out();
    for (uint32_t i = 0; i < n; i++)
        fake_check_whole(&answers[i], i < N_HOG ? LEN : 4);
}

static void check_ended(struct answer *a, uint32_t n_tok)
{
    if (a->finish[0] == SK_FINISH_LENGTH) {
        fake_check_whole(a, n_tok);
        return;
    }
    assert_int_equal(a->n_over, 1);
    assert_int_equal(a->reason, SK_ENOMEM);
    sk_job_free(a->job);
}

/* An allocation fails, each in turn: the request is refused, or an answer ends, and what else there is goes on. */
static void test_no_memory(void **state)
{
    struct sk_params p;
    struct sk_err err;
    uint32_t n_refused = 0, n_ended = 0;
    again(4);
    for (uint32_t n = 1; n < 20; n++) {
        struct answer *a = &answers[2 * n], *b = &answers[2 * n + 1];
        fake_ask(b, "", 100 + (int32_t)n, 10, 40);
        struct sk_job_req req = fake_req(a, &p, (int32_t)n, 10, 40);
        req.tenant = fake_tenant("new", 1);
        sk_mem_fail_at(n, false);
        int rc = fake_submit(a, &req, &err);
        fake_run_out();
        sk_mem_fail_at(0, false);
        assert_true(rc == 0 || rc == -SK_ENOMEM);
        if (rc == 0)
            check_ended(a, 40);
        check_ended(b, 40);
        n_refused += rc != 0;
        n_ended += a->reason == SK_ENOMEM || b->reason == SK_ENOMEM;
    }
    assert_true(n_refused >= 4 && n_ended >= 1);
}

/* Tenants come and go, places are short, the engine ends now and then: every answer is whole, nobody starves. */
static void test_mixture(void **state)
{
    static const char *const names[] = {"a", "b", "c", "d"};
    uint32_t n = 0;
    again(6);
    srand(7);
    for (int step = 0; step < 600; step++) {
        while (n < 250 && rand() % 3 == 0) {
            struct sk_params p;
            struct sk_err err;
            struct sk_job_req req =
                fake_req(&answers[n], &p, 1 + (int32_t)n, 1 + (uint32_t)rand() % 700, 1 + (uint32_t)rand() % 30);
            p.priority = rand() % 3;
            req.n_choice = 1 + (uint32_t)rand() % 3;
            req.tenant = fake_tenant(names[rand() % 4 * (rand() % 2)], 1 + rand() % 3);
            assert_int_equal(fake_submit(&answers[n], &req, &err), 0);
            answers[n++].over_us = p.max_tokens; /* noted here until then */
        }
        fake.max_running = rand() % 20 ? FAKE_MAX_SEQS : 3;
        if (rand() % 60 == 0) {
            fake_down(NULL, 0);
            fake_up();
        } else if (fake.n_seq) {
            fake_step();
        }
    }
    fake.max_running = FAKE_MAX_SEQS;
    fake_run_out();
    for (uint32_t i = 0; i < n; i++)
        fake_check_whole(&answers[i], answers[i].n_tok[0]);
    assert_true(n > 100);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_one_go, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_more_than_places, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_cancel, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_cancel_in_callback, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_held, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_priority, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_readmission, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_readmission_prompt, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_weights, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_lift, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_yield, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_urgent, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_not_urgent, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_no_ping_pong, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_more_tenants_than_places, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_newcomer_passes_held, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_one_among_many, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_no_memory, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_mixture, fake_open, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
