/* Engines that end, and whose fault it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include "server/metrics/metrics.h"
#include "tests/unit/server/job/fake.h"

static struct answer answers[64];

static void again(uint32_t max_seqs)
{
    memset(answers, 0, sizeof answers);
    fake.max_seqs = max_seqs;
    fake_up();
}

static void check_poison(const struct answer *a)
{
    assert_int_equal(a->n_over, a->n_choice);
    for (uint32_t k = 0; k < a->n_choice; k++)
        assert_int_equal(a->finish[k], SK_FINISH_ERROR);
    assert_int_equal(a->reason, SK_EPOISON);
    sk_job_free(a->job);
}

static uint32_t n_suspect;

static void count_suspects(void *arg, const struct sk_job_view *v)
{
    n_suspect += v->suspect;
}

/* One among 32 ends every engine it is in: two ends are enough to know which, and the others' answers are whole. */
static void test_poison_among_32(void **state)
{
    again(32);
    for (int i = 0; i < 32; i++)
        fake_ask(&answers[i], i % 2 ? "a" : "b", i == 11 ? FAKE_POISON : 1 + i, 20, 10 + (uint32_t)i % 5);
    assert_false(fake_step());
    n_suspect = 0;
    sk_engine_each(fake.engine, count_suspects, NULL);
    assert_int_equal(n_suspect, 32);
    fake_run_out();
    assert_true(fake.n_crash <= 3);
    for (int i = 0; i < 32; i++) {
        if (i == 11)
            check_poison(&answers[i]);
        else
            fake_check_whole(&answers[i], 10 + (uint32_t)i % 5);
    }
}

/* It comes to a busy engine: those that wait meanwhile are not suspects, and need not wait for them. */
static void test_poison_and_newcomers(void **state)
{
    again(4);
    for (int i = 0; i < 8; i++)
        fake_ask(&answers[i], "", i == 2 ? FAKE_POISON : 1 + i, 20, 12);
    assert_false(fake_step());
    n_suspect = 0;
    sk_engine_each(fake.engine, count_suspects, NULL);
    assert_int_equal(n_suspect, 4);
    fake_up();
    assert_int_equal(fake.n_seq, 4); /* one suspect, three of the others */
    fake_run_out();
    assert_true(fake.n_crash <= 3);
    for (int i = 0; i < 8; i++) {
        if (i == 2)
            check_poison(&answers[i]);
        else
            fake_check_whole(&answers[i], 12);
    }
}

/* All choices of the poisoned job end; of a suspect that is cleared nothing is lost. */
static void test_poison_choices(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(8);
    for (int i = 0; i < 3; i++) {
        struct sk_job_req req = fake_req(&answers[i], &p, i == 1 ? FAKE_POISON : 1 + i, 20, 15);
        req.n_choice = 3;
        assert_int_equal(fake_submit(&answers[i], &req, &err), 0);
    }
    fake_run_out();
    check_poison(&answers[1]);
    fake_check_whole(&answers[0], 15);
    fake_check_whole(&answers[2], 15);
}

/* What was killed from outside, or had nobody in its step, blames nobody. */
static void test_nobody_to_blame(void **state)
{
    again(4);
    for (int i = 0; i < 4; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 30);
    for (int i = 0; i < 12; i++) {
        fake_step();
        fake_down(NULL, 0);
        fake_up();
    }
    n_suspect = 0;
    sk_engine_each(fake.engine, count_suspects, NULL);
    assert_int_equal(n_suspect, 0);
    fake_run_out();
    for (int i = 0; i < 4; i++)
        fake_check_whole(&answers[i], 30);
}

static struct sk_board_seat seat_of(uint32_t i)
{
    return (struct sk_board_seat){.job = fake.seq[i].job, .choice = fake.seq[i].choice};
}

/* A suspect that went on for long enough is one no more: the next end alone makes it one again, no poison. */
static void test_cleared(void **state)
{
    again(4);
    fake_ask(&answers[0], "", 1, 10, 100);
    for (int life = 0; life < 5; life++) {
        struct sk_board_seat seat = seat_of(0);
        fake_down(&seat, 1);
        fake_up();
        for (int i = 0; i < SK_SEQ_PROBATION; i++)
            fake_step();
    }
    assert_int_equal(answers[0].n_over, 0);
    struct sk_board_seat seat = seat_of(0);
    fake_down(&seat, 1);
    fake_up();
    for (int i = 0; i < SK_SEQ_PROBATION - 1; i++)
        fake_step();
    seat = seat_of(0);
    fake_down(&seat, 1);
    check_poison(&answers[0]);
}

/* Never alone, but always there: not for ever. And a frame of its alone blames all of it that was sent. */
static void test_last_resort(void **state)
{
    again(4);
    for (int i = 0; i < 2; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 1000);
    uint32_t n = 0;
    while (answers[0].n_over == 0) {
        struct sk_board_seat seat[2] = {seat_of(0)};
        for (int i = 0; i < SK_SEQ_PROBATION + 1; i++)
            fake_step();
        if (fake.n_seq < 2) { /* the other suspect waits */
            seat[1].job = 12345;
            fake_down(seat, 2);
        } else {
            seat[1] = seat_of(1);
            fake_down(seat, 2);
        }
        fake_up();
        assert_true(++n < 20);
    }
    check_poison(&answers[0]);
    while (answers[1].n_over == 0 && fake.n_seq == 1) {
        struct sk_board_seat seat = {.job = fake.seq[0].job, .choice = SK_WIRE_ALL};
        fake_down(&seat, 1);
        fake_up();
        assert_true(++n < 25);
    }
    check_poison(&answers[1]);
}

/* Nobody can start an engine: open requests end, new ones are refused until there is one again. */
static void test_hopeless(void **state)
{
    struct sk_params p;
    struct sk_err err;
    again(2);
    for (int i = 0; i < 4; i++)
        fake_ask(&answers[i], "", 1 + i, 10, 30);
    fake_step();
    fake_down(NULL, 0);
    fake_hopeless();
    for (int i = 0; i < 4; i++) {
        assert_int_equal(answers[i].n_over, 1);
        assert_int_equal(answers[i].reason, SK_EUNAVAIL);
        sk_job_free(answers[i].job);
    }
    struct sk_job_req req = fake_req(&answers[5], &p, 6, 10, 3);
    assert_int_equal(fake_submit(&answers[5], &req, &err), -SK_EUNAVAIL);
    fake_up();
    assert_int_equal(fake_submit(&answers[5], &req, &err), 0);
    fake_run_out();
    fake_check_whole(&answers[5], 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_poison_among_32, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_poison_and_newcomers, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_poison_choices, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_nobody_to_blame, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_cleared, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_last_resort, fake_open, fake_close),
        cmocka_unit_test_setup_teardown(test_hopeless, fake_open, fake_close),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
