/* Two replicas that end, are drained and replaced, while requests go on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "server/job/engine.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[64];

static void ask(int n, uint32_t n_tok)
{
    memset(answers, 0, sizeof answers);
    for (int i = 0; i < n; i++)
        fake_ask(&answers[i], "", 1 + i, 40, n_tok);
}

static void check(int n, uint32_t n_tok)
{
    fake_run_out();
    for (int i = 0; i < n; i++)
        fake_check_whole(&answers[i], n_tok);
}

static struct sk_engine_status status(void)
{
    struct sk_engine_status st;
    sk_engine_status(fake.engine, &st);
    return st;
}

static void test_hello(void **state)
{
    struct sk_engine_status st = status();
    assert_int_equal(st.hello.max_seqs, 8);
    assert_int_equal(st.hello.credit, 16);
    assert_int_equal(st.hello.max_len, 100000 - 1); /* the least */
    assert_int_equal(st.stats.blk_total, 200);
    assert_true(sk_metric_value(fake.metrics, SK_METRIC_ENGINE_UP, NULL, NULL) == 2);
    fake_down_at(1, NULL, 0);
    st = status();
    assert_int_equal(st.state, SK_ENGINE_READY);
    assert_int_equal(st.hello.max_seqs, 4);
    assert_int_equal(st.hello.max_len, 100000 - 1); /* it may come back, and get what is let in now */
    assert_true(sk_metric_value(fake.metrics, SK_METRIC_REPLICA_UP, "1", NULL) == 0);
    fake_down_at(0, NULL, 0);
    assert_int_not_equal(status().state, SK_ENGINE_READY);
    assert_int_equal(status().hello.max_seqs, 4); /* what it was */
    fake_up_at(1);
    assert_int_equal(status().state, SK_ENGINE_READY);
}

/* Its sequences go on at the other one, without a wait. */
static void test_lost(void **state)
{
    ask(4, 30);
    for (int i = 0; i < 10; i++)
        fake_step();
    assert_int_equal(fake_at(0), 2);
    fake_down_at(0, NULL, 0);
    assert_int_equal(fake_at(1), 4);
    assert_true(sk_metric_value(fake.metrics, SK_METRIC_READMISSIONS, NULL, NULL) == 2);
    check(4, 30);
}

/* The crash of a replica makes its own suspects, of which one at a time runs, at one replica. The poisoned one ends two
 * replicas' lives and no more. */
static void test_poison(void **state)
{
    memset(answers, 0, sizeof answers);
    for (int i = 0; i < 8; i++)
        fake_ask(&answers[i], "", i == 3 ? FAKE_POISON : 1 + i, 40, 20);
    while (fake.n_crash == 0)
        fake_step();
    fake_run_out();
    assert_int_equal(fake.n_crash, 2);
    for (int i = 0; i < 8; i++) {
        if (i != 3) {
            fake_check_whole(&answers[i], 20);
            continue;
        }
        assert_int_equal(answers[i].reason, SK_EPOISON);
        sk_job_free(answers[i].job);
    }
}

static void test_drain(void **state)
{
    struct sk_err err;
    ask(6, 30);
    fake_step();
    assert_int_equal(sk_engine_drain(fake.engine, 2, &err), -SK_ERANGE);
    assert_int_equal(sk_engine_drain(fake.engine, 0, &err), 0);
    assert_int_equal(fake_at(0), 0);
    assert_int_equal(fake_at(1), 4); /* all its places */
    assert_int_equal(sk_engine_drain(fake.engine, 0, &err), 0);
    assert_int_equal(sk_engine_drain(fake.engine, 1, &err), -SK_EBUSY);
    check(6, 30);
    assert_int_equal(fake_at(0), 0);
}

static void run_steps(int n)
{
    for (int i = 0; i < n; i++)
        fake_step();
}

static void test_roll(void **state)
{
    struct sk_err err;
    const char *why;
    ask(6, 60);
    run_steps(5);
    assert_int_equal(sk_engine_restart(fake.engine, SK_ENGINE_ALL, &err), 0);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), -SK_EBUSY);
    assert_int_equal(fake.n_open[0], 1); /* in the loop's next turn */
    fake_run_loop();
    assert_int_equal(fake_at(0), 0);
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 2);
    assert_int_equal(fake.n_open[1], 1);
    run_steps(5);
    fake_up_at(0); /* now the other one, whose sequences come here */
    assert_int_equal(fake_at(1), 0);
    assert_int_equal(fake_at(0), 4);
    fake_run_loop();
    assert_int_equal(fake.n_open[1], 2);
    run_steps(5);
    assert_true(sk_engine_is_rolling(fake.engine, &why));
    fake_up_at(1);
    assert_false(sk_engine_is_rolling(fake.engine, &why));
    assert_string_equal(why, "");
    assert_true(sk_metric_value(fake.metrics, SK_METRIC_REPLICA_RESTARTS, "0", NULL) == 1);
    check(6, 60);
}

/* It cannot be started: the roll ends, says why, and the other one is left alone. */
static void test_roll_fails(void **state)
{
    struct sk_err err;
    const char *why;
    ask(4, 60);
    assert_int_equal(sk_engine_restart(fake.engine, SK_ENGINE_ALL, &err), 0);
    fake_run_loop();
    fake_run_loop();
    fake_hopeless_at(0);
    assert_false(sk_engine_is_rolling(fake.engine, &why));
    assert_non_null(strstr(why, "replica 0"));
    assert_int_equal(fake.n_open[1], 1);
    assert_int_equal(fake_at(1), 4);
    run_steps(70);
    assert_int_equal(answers[0].n_over, 1);
    check(4, 60);
}

static void restart_drained(uint32_t first)
{
    struct sk_err err;
    const char *why;
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.n_open[first], 2);
    assert_int_equal(fake.n_open[1 - first], 1);
    assert_int_equal(sk_engine_drain(fake.engine, 1 - first, &err), -SK_EBUSY);
    assert_non_null(strstr(err.msg, "being replaced"));
    fake_up_at(first);
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.n_open[1 - first], 2);
    assert_int_equal(sk_engine_drain(fake.engine, 1 - first, &err), -SK_EBUSY);
    fake_up_at(1 - first);
    assert_false(sk_engine_is_rolling(fake.engine, &why));
}

/* The one that is drained comes back first, whichever it is. */
static void test_roll_drained(void **state)
{
    struct sk_err err;
    ask(3, 60);
    assert_int_equal(sk_engine_drain(fake.engine, 1, &err), 0);
    assert_int_equal(sk_engine_restart(fake.engine, SK_ENGINE_ALL, &err), 0);
    restart_drained(1);
    check(3, 60);
}

/* The others will never serve: it goes without them, and what it had waits for it. */
static void test_roll_without_others(void **state)
{
    struct sk_err err;
    const char *why;
    ask(3, 60);
    run_steps(3);
    assert_int_equal(sk_engine_drain(fake.engine, 1, &err), 0);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 2);
    assert_int_equal(fake.engine->fair.n_waiting, 3);
    fake_up_at(0);
    assert_false(sk_engine_is_rolling(fake.engine, &why));
    assert_int_equal(fake_at(0), 3);
    fake_down_at(1, NULL, 0);
    assert_int_equal(sk_engine_restart(fake.engine, 1, &err), 0);
    fake_run_loop();
    fake_run_loop();
    fake_hopeless_at(1);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 3);
    check(3, 60);
}

/* It waits for one that may come, until that is hopeless. */
static void test_roll_waits_no_more(void **state)
{
    struct sk_err err;
    ask(2, 60);
    fake_down_at(1, NULL, 0);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 1);
    fake_hopeless_at(1);
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 2);
    check(2, 60);
}

/* A hopeless one that is closed is no more than closed, and starts anew. */
static void test_hopeless_is_over(void **state)
{
    struct sk_replica_view v;
    struct sk_err err;
    fake_down_at(1, NULL, 0);
    fake_hopeless_at(1);
    sk_engine_replica(fake.engine, 1, &v);
    assert_true(v.is_hopeless);
    sk_engine_take_off(fake.engine, 1);
    fake_run_loop();
    sk_engine_replica(fake.engine, 1, &v);
    assert_false(v.is_hopeless);
    assert_int_equal(v.status.state, SK_ENGINE_STOPPED);
    assert_int_equal(sk_engine_put_on(fake.engine, 1, &err), 0);
    fake_up_at(1);
    assert_int_equal(status().hello.max_seqs, 8);
}

/* The one that serves cannot be started: a drained one is no hope for those that wait. */
static void test_drained_is_no_hope(void **state)
{
    struct sk_params p;
    struct sk_err err;
    assert_int_equal(sk_engine_drain(fake.engine, 0, &err), 0);
    ask(2, 60);
    fake_down_at(1, NULL, 0);
    assert_int_not_equal(status().state, SK_ENGINE_READY);
    assert_int_equal(answers[0].n_over, 0);
    fake_hopeless_at(1);
    struct sk_job_req req = fake_req(&answers[2], &p, 3, 40, 60);
    assert_int_equal(fake_submit(&answers[2], &req, &err), -SK_EUNAVAIL);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(answers[i].reason, SK_EUNAVAIL);
        sk_job_free(answers[i].job);
    }
}

/* Another model in the same directory: its tokenizer is not the one that requests come with. */
static void test_rebuilt_in_place(void **state)
{
    struct sk_err err;
    const char *why;
    fake.digest = "other";
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    fake_run_loop();
    fake_up_at(0);
    fake_run_loop();
    assert_false(sk_engine_is_rolling(fake.engine, &why));
    assert_non_null(strstr(why, "SIGHUP"));
    assert_int_not_equal(status().state, SK_ENGINE_READY);
}

static void test_over(void **state)
{
    struct sk_params p;
    struct sk_err err;
    memset(answers, 0, sizeof answers);
    sk_engine_end_all(fake.engine, SK_EREPLACED);
    struct sk_job_req req = fake_req(&answers[0], &p, 1, 40, 60);
    assert_int_equal(fake_submit(&answers[0], &req, &err), -SK_EREPLACED);
}

/* While it is the only one it is not taken out. */
static void test_roll_waits(void **state)
{
    struct sk_err err;
    const char *why;
    ask(2, 60);
    run_steps(3);
    fake_down_at(1, NULL, 0);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 1);
    assert_int_equal(fake_at(0), 2);
    fake_up_at(1);
    assert_int_equal(fake_at(1), 2);
    fake_run_loop();
    assert_int_equal(fake.n_open[0], 2);
    fake_up_at(0);
    assert_false(sk_engine_is_rolling(fake.engine, &why));
    check(2, 60);
}

/* One replica: what it had waits for the new one. */
static void test_roll_alone(void **state)
{
    struct sk_err err;
    ask(3, 20);
    run_steps(5);
    assert_int_equal(sk_engine_restart(fake.engine, 0, &err), 0);
    fake_run_loop();
    fake_run_loop();
    assert_int_equal(fake.engine->fair.n_waiting, 3);
    fake_up_at(0);
    assert_int_equal(fake_at(0), 3);
    check(3, 20);
}

/* Another ISA: other bits. */
static void test_mixed_isa(void **state)
{
    struct sk_replica_view v;
    fake_down_at(1, NULL, 0);
    fake.isa[1] = "cpu/other";
    fake_up_at(1);
    fake_run_loop();
    sk_engine_replica(fake.engine, 1, &v);
    assert_int_equal(v.status.state, SK_ENGINE_STOPPED);
    assert_non_null(strstr(v.status.text, "--allow-mixed-isa"));
    assert_int_equal(status().state, SK_ENGINE_READY);
    ask(3, 5);
    assert_int_equal(fake_at(0), 3);
    check(3, 5);
    fake.isa[1] = NULL;
}

static struct {
    uint32_t n, n_seq, blk_free;
    bool is_null;
} seen;

static void on_view(void *arg, const struct sk_wire_view *v)
{
    seen.n++;
    seen.is_null = !v;
    seen.n_seq = v ? v->n_seq : 0;
    seen.blk_free = v ? v->stats.blk_free : 0;
}

/* All are asked; one that is lost meanwhile has no part in the answer. */
static void test_survey(void **state)
{
    memset(&seen, 0, sizeof seen);
    assert_int_equal(sk_engine_peek(fake.engine, NULL, 0, 0, on_view, &seen), 0);
    assert_true(fake.n_peeked[0] == 1 && fake.n_peeked[1] == 1);
    fake_view_at(1, 2, 0);
    assert_int_equal(seen.n, 0);
    fake_view_at(0, 1, 0);
    assert_true(seen.n == 1 && seen.n_seq == 2 && seen.blk_free == 10);
    assert_int_equal(sk_engine_peek(fake.engine, NULL, 0, 0, on_view, &seen), 0);
    fake_down_at(0, NULL, 0);
    assert_int_equal(seen.n, 1);
    fake_view_at(1, 4, 0);
    assert_true(seen.n == 2 && seen.n_seq == 1 && !seen.is_null);
    assert_int_equal(sk_engine_peek(fake.engine, NULL, 0, 0, on_view, &seen), 0);
    fake_down_at(1, NULL, 0);
    assert_true(seen.n == 3 && seen.is_null);
    assert_int_equal(sk_engine_peek(fake.engine, NULL, 0, 0, on_view, &seen), -SK_EUNAVAIL);
    fake_up_at(0);
    assert_int_equal(sk_engine_peek(fake.engine, NULL, 0, 0, on_view, &seen), 0);
    sk_engine_unpeek(fake.engine, &seen);
    fake_down_at(0, NULL, 0);
    assert_int_equal(seen.n, 3);
    fake_up_at(0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_hello, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_lost, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_poison, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_drain, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_fails, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_drained, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_without_others, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_waits_no_more, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_hopeless_is_over, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_drained_is_no_hope, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_rebuilt_in_place, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_over, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_waits, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_roll_alone, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_mixed_isa, fake_open_two, fake_close),
        cmocka_unit_test_setup_teardown(test_survey, fake_open_two, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
