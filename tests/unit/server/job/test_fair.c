/* The queue alone: sequences that are nobody's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include "server/job/fair.h"

enum { N = 400, PLACES = 8 };

static struct sk_fair fair;
static struct sk_tenant tenants[4];
static struct sk_fair_share *shares[4];
static struct sk_fair_seq seqs[N];

static int setup(void **state)
{
    sk_fair_init(&fair);
    for (int i = 0; i < 4; i++) {
        tenants[i] = (struct sk_tenant){.limits.weight = 1};
        shares[i] = sk_fair_join(&fair, &tenants[i]);
    }
    for (uint32_t i = 0; i < N; i++)
        seqs[i] = (struct sk_fair_seq){.share = shares[0], .n_prompt = 10, .n_left = 100, .age = i + 1};
    return 0;
}

static int teardown(void **state)
{
    for (int i = 0; i < 4; i++)
        sk_fair_part(&fair, shares[i]);
    return !TAILQ_EMPTY(&fair.shares);
}

static struct sk_fair_seq *next(void)
{
    return sk_fair_next(&fair, PLACES);
}

static bool is_first(const struct sk_fair_seq *a, const struct sk_fair_seq *b)
{
    if (a->priority != b->priority)
        return a->priority < b->priority;
    if (a->again != b->again)
        return a->again;
    if (a->again && a->n_left != b->n_left)
        return a->n_left < b->n_left;
    return a->age < b->age;
}

/* Against the plainest way, with sequences that leave from the middle. */
static void test_line(void **state)
{
    bool in[N] = {false};
    uint32_t n_in = 0, n_come = 0;
    srand(1);
    while (n_come < N || n_in > 0) {
        uint32_t i = (uint32_t)rand() % N, best = N;
        if (n_come < N && rand() % 2) {
            struct sk_fair_seq *q = &seqs[n_come];
            q->priority = rand() % 3;
            q->again = rand() % 2;
            q->n_left = (uint32_t)rand() % 5;
            sk_fair_wait(&fair, q);
            in[n_come++] = true;
            n_in++;
        } else if (in[i] && rand() % 3 == 0) {
            sk_fair_leave(&fair, &seqs[i]);
            in[i] = false;
            n_in--;
        } else if (n_in > 0) {
            for (uint32_t k = 0; k < N; k++) {
                if (in[k] && (best == N || is_first(&seqs[k], &seqs[best])))
                    best = k;
            }
            assert_ptr_equal(next(), &seqs[best]);
            sk_fair_leave(&fair, &seqs[best]);
            in[best] = false;
            n_in--;
        }
        assert_int_equal(fair.n_waiting, n_in);
    }
    assert_null(next());
    assert_int_equal(fair.waiting_tok, 0);
}

/* The counter: prompt once, less what was cached; answers double; nothing for what left without a token to wait. */
static void test_charge(void **state)
{
    tenants[0].limits.weight = 2;
    sk_fair_wait(&fair, &seqs[0]);
    assert_float_equal(tenants[0].virtual_tok, 0, 0);
    sk_fair_board(&fair, &seqs[0]);
    assert_float_equal(tenants[0].virtual_tok, 5, 1e-9);
    sk_fair_return(&fair, &seqs[0]);
    assert_float_equal(tenants[0].virtual_tok, 0, 1e-9);
    sk_fair_board(&fair, &seqs[0]);
    sk_fair_spend(&fair, &seqs[0], 1, 4);
    assert_float_equal(tenants[0].virtual_tok, 4, 1e-9);
    sk_fair_spend(&fair, &seqs[0], 3, 4);
    assert_float_equal(tenants[0].virtual_tok, 7, 1e-9);
    sk_fair_return(&fair, &seqs[0]); /* it has paid */
    sk_fair_board(&fair, &seqs[0]);
    assert_float_equal(tenants[0].virtual_tok, 7, 1e-9);
    sk_fair_leave(&fair, &seqs[0]);
    assert_float_equal(tenants[0].virtual_tok, 7, 1e-9);
    assert_int_equal(shares[0]->unsettled_tok + shares[0]->ahead_tok + shares[0]->n_fresh, 0);
    assert_int_equal(fair.fresh_tok, 0);
}

/* Who comes is lifted to the least of those that are busy, or to who was last; who had more keeps it. */
static void test_lift(void **state)
{
    seqs[1].share = shares[1];
    seqs[2].share = shares[2];
    seqs[3].share = shares[3];
    tenants[0].virtual_tok = 100;
    tenants[1].virtual_tok = 80;
    tenants[3].virtual_tok = 500;
    sk_fair_wait(&fair, &seqs[0]);
    sk_fair_wait(&fair, &seqs[1]);
    assert_float_equal(tenants[1].virtual_tok, 100, 0);
    sk_fair_board(&fair, &seqs[0]); /* what is charged in advance does not count: it may be taken back */
    sk_fair_board(&fair, &seqs[1]);
    sk_fair_wait(&fair, &seqs[2]);
    assert_float_equal(tenants[2].virtual_tok, 100, 0);
    sk_fair_wait(&fair, &seqs[3]);
    assert_float_equal(tenants[3].virtual_tok, 500, 0);
    for (int i = 0; i < 4; i++)
        sk_fair_leave(&fair, &seqs[i]);
    tenants[2].virtual_tok = 0;
    sk_fair_wait(&fair, &seqs[2]);
    assert_float_equal(tenants[2].virtual_tok, 500, 0);
    sk_fair_leave(&fair, &seqs[2]);
}

/* Suspects: one on board, behind what an engine's end put out, before what is new. */
static void test_suspects(void **state)
{
    for (int i = 0; i < 5; i++) {
        sk_fair_wait(&fair, &seqs[i]);
        sk_fair_board(&fair, &seqs[i]);
    }
    seqs[9].again = true; /* it made room, which happens all the time */
    sk_fair_wait(&fair, &seqs[9]);
    for (int i = 0; i < 5; i++) {
        seqs[i].again = seqs[i].lost = true;
        sk_fair_return(&fair, &seqs[i]);
        if (i == 1 || i == 3)
            sk_fair_suspect(&fair, &seqs[i]);
    }
    static const int order[] = {0, 2, 4, 1, 9};
    for (int i = 0; i < 5; i++) {
        assert_ptr_equal(next(), &seqs[order[i]]);
        sk_fair_board(&fair, next());
    }
    assert_null(next()); /* the second suspect waits for the first */
    sk_fair_clear(&fair, &seqs[1]);
    assert_ptr_equal(next(), &seqs[3]);
    sk_fair_board(&fair, &seqs[3]);
    sk_fair_leave(&fair, &seqs[3]);
    assert_int_equal(fair.n_probation, 0);
    for (int i = 0; i < 5; i++)
        sk_fair_leave(&fair, &seqs[order[i]]);
}

static void board(uint32_t from, uint32_t n, int tenant)
{
    for (uint32_t i = from; i < from + n; i++) {
        seqs[i].share = shares[tenant];
        sk_fair_wait(&fair, &seqs[i]);
        sk_fair_board(&fair, &seqs[i]);
    }
}

/* The victim: of the tenant with most beyond its share, least important, youngest; no suspect, nobody who only just
 * came for the n-th time. */
static void test_victim(void **state)
{
    board(0, 5, 0);
    board(5, 3, 1);
    seqs[100].share = shares[2];
    sk_fair_wait(&fair, &seqs[100]);
    assert_true(sk_fair_is_hungry(&fair, shares[2], PLACES));
    assert_ptr_equal(sk_fair_victim(&fair, &seqs[100], PLACES), &seqs[4]);
    seqs[4].n_idle = SK_FAIR_MAX_IDLE;
    assert_ptr_equal(sk_fair_victim(&fair, &seqs[100], PLACES), &seqs[3]);
    sk_fair_spend(&fair, &seqs[4], 1, 0);
    assert_ptr_equal(sk_fair_victim(&fair, &seqs[100], PLACES), &seqs[4]);
    seqs[1].priority = 7;
    assert_ptr_equal(sk_fair_victim(&fair, &seqs[100], PLACES), &seqs[1]);
    tenants[0].limits.weight = 20; /* then 5 are not too many */
    assert_ptr_equal(sk_fair_victim(&fair, &seqs[100], PLACES), &seqs[7]);
    tenants[2].virtual_tok = 1e6; /* it has had enough */
    assert_null(sk_fair_victim(&fair, &seqs[100], PLACES));
    tenants[0].limits.weight = 1;
    for (int i = 0; i < 8; i++)
        sk_fair_leave(&fair, &seqs[i]);
    sk_fair_leave(&fair, &seqs[100]);
}

/* Who asks for no more than its share is urgent beside one that asks for more, on board or not; one at a time. */
static void test_urgent(void **state)
{
    board(0, 4, 0);
    for (int i = 100; i < 105; i++)
        seqs[i].share = shares[1];
    sk_fair_wait(&fair, &seqs[100]);
    assert_false(sk_fair_is_urgent(&fair, shares[1], PLACES)); /* half is the other's */
    sk_fair_wait(&fair, &seqs[4]);
    assert_true(sk_fair_is_urgent(&fair, shares[1], PLACES));
    assert_false(sk_fair_is_urgent(&fair, shares[0], PLACES));
    sk_fair_board(&fair, &seqs[100]);
    sk_fair_wait(&fair, &seqs[101]);
    assert_false(sk_fair_is_urgent(&fair, shares[1], PLACES)); /* the first has no token yet */
    sk_fair_spend(&fair, &seqs[100], 1, 0);
    assert_true(sk_fair_is_urgent(&fair, shares[1], PLACES));
    for (int i = 102; i < 105; i++)
        sk_fair_wait(&fair, &seqs[i]);
    assert_false(sk_fair_is_urgent(&fair, shares[1], PLACES)); /* it asks for more than half itself */
    assert_true(sk_fair_is_hungry(&fair, shares[1], PLACES));
    for (int i = 0; i < 5; i++)
        sk_fair_leave(&fair, &seqs[i]);
    for (int i = 100; i < 105; i++)
        sk_fair_leave(&fair, &seqs[i]);
}

/* Prompts that the running step does not finish go behind a newcomer's. */
static void test_early(void **state)
{
    board(0, 8, 0);
    seqs[100].share = shares[1];
    sk_fair_wait(&fair, &seqs[100]);
    for (int i = 7; i >= 3; i--) {
        assert_ptr_equal(sk_fair_early(&fair, &seqs[100], 30, 0), &seqs[i]);
        sk_fair_return(&fair, &seqs[i]);
    }
    assert_null(sk_fair_early(&fair, &seqs[100], 30, 0));
    assert_ptr_equal(next(), &seqs[100]);
    sk_fair_board(&fair, &seqs[100]);
    assert_ptr_equal(next(), &seqs[3]); /* within its share */
    sk_fair_board(&fair, &seqs[3]);
    assert_null(next()); /* beyond it, until the newcomer has its token */
    sk_fair_spend(&fair, &seqs[100], 1, 0);
    assert_ptr_equal(next(), &seqs[4]);
    for (int i = 0; i < 8; i++)
        sk_fair_leave(&fair, &seqs[i]);
    sk_fair_leave(&fair, &seqs[100]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_line, setup, teardown),
        cmocka_unit_test_setup_teardown(test_charge, setup, teardown),
        cmocka_unit_test_setup_teardown(test_lift, setup, teardown),
        cmocka_unit_test_setup_teardown(test_suspects, setup, teardown),
        cmocka_unit_test_setup_teardown(test_victim, setup, teardown),
        cmocka_unit_test_setup_teardown(test_urgent, setup, teardown),
        cmocka_unit_test_setup_teardown(test_early, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
