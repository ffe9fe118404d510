/* Suspects through the whole loop: answers are what they are, neither kind starves the other, probation ends, and who
 * is on board stands on the board at every moment when something is done for them. */
#include <string.h>
#include <unistd.h>

#include "comm/base/mem.h"
#include "tests/unit/engine/batch/invariants.h"
#include "tests/unit/engine/batch/rig.h"

static uint32_t find_run(const struct sk_loop *l, bool is_suspect)
{
    uint32_t n = 0;
    for (const struct sk_seq *q = l->seqs->run.first; q; q = q->next)
        n += sk_seq_is_suspect(q) == is_suspect;
    return n;
}

/* It draws its first tokens alone, and the others go on meanwhile; then it joins them. */
static void test_probation(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t a[10], b[10];
    rig_ramp(a, 10, 1);
    rig_ramp(b, 10, 30);
    rig_open(&r, &c);
    struct front_req qa = rig_greedy(a, 10, 20), qb = rig_greedy(b, 10, 20);
    qb.suspect = true;
    uint32_t ia = front_submit(&r.front, &qa), ib = front_submit(&r.front, &qb);
    uint32_t n = 0;
    const struct front_seq *sa = &r.front.seqs[ia], *sb = &r.front.seqs[ib];
    do {
        front_step(&r.front);
        n++;
        assert_true(sb->n_item <= SK_SEQ_PROBATION && sb->n_item <= sa->n_item && sa->n_item <= sb->n_item + 1);
    } while (sb->n_item < SK_SEQ_PROBATION);
    assert_int_equal(n, 2 * SK_SEQ_PROBATION);
    assert_int_equal(find_run(r.loop, true), 0);
    front_step(&r.front);
    assert_int_equal(sa->n_item, SK_SEQ_PROBATION + 1);
    assert_int_equal(sb->n_item, SK_SEQ_PROBATION + 1);
    rig_run(&r);
    rig_expect(&r, ia, &qa);
    rig_expect(&r, ib, &qb);
    rig_close(&r);
}

/* However many of the other kind come, an answer takes at most twice the steps. */
static void test_no_starving(void **state)
{
    for (int suspects_come = 0; suspects_come < 2; suspects_come++) {
        enum { N_TOK = 30 };
        struct rig r;
        struct sk_loop_conf c = rig_conf();
        int32_t a[10], b[30];
        c.max_seqs = 4;
        rig_open(&r, &c);
        rig_ramp(a, 10, 1);
        struct front_req one = rig_greedy(a, 10, suspects_come ? N_TOK : SK_SEQ_PROBATION);
        one.suspect = !suspects_come;
        for (int32_t i = 0; i < 10; i++) { /* they are there first, too many to run at once */
            rig_ramp(b, 30, i);
            struct front_req many = rig_greedy(b, 30, suspects_come ? 3 : 6);
            many.suspect = suspects_come;
            front_submit(&r.front, &many);
        }
        uint32_t is = front_submit(&r.front, &one), n = 0;
        for (int32_t i = 10; r.front.seqs[is].finish == SK_FINISH_NONE; i++, n++) {
            rig_ramp(b, 30, i % 50);
            struct front_req many = rig_greedy(b, 30, suspects_come ? 3 : 6);
            many.suspect = suspects_come;
            if (r.front.n_open < 40)
                front_submit(&r.front, &many);
            front_step(&r.front);
            invariants_check(r.loop);
        }
        assert_true(n <= 2 * (N_TOK + 1) + (suspects_come ? 0 : 40)); /* those that were there first have their slots */
        rig_expect(&r, is, &one);
        rig_run(&r);
        rig_close(&r);
    }
}

/* All that were on board are suspects: they come back one by one, and all end. */
static void test_all_are(void **state)
{
    struct rig r;
    struct sk_loop_conf c = rig_conf();
    int32_t p[20];
    rig_open(&r, &c);
    rig_ramp(p, 20, 3);
    struct front_req q = rig_greedy(p, 20, 12);
    q.n_choice = 16;
    q.suspect = true;
    uint32_t first = front_submit(&r.front, &q);
    rig_run(&r);
    for (uint32_t i = 0; i < q.n_choice; i++)
        rig_expect(&r, first + i, &q);
    rig_close(&r);
}

/* ---- the board ---- */

static void open_board(struct rig *r, struct sk_board *b, uint32_t max_seat)
{
    struct sk_loop_conf c = rig_conf();
    struct sk_err err = {0};
    int fd;
    assert_int_equal(sk_board_make(max_seat, 0, 0, &fd, b, &err), 0);
    close(fd);
    c.board = b;
    rig_open(r, &c);
}

/* During steps the pretended rank compares the seats with the plan (pretend.c); between steps nobody is on board, and a
 * frame that ends the engine leaves its job there. */
static void test_seats(void **state)
{
    struct rig r;
    struct sk_board b;
    struct sk_err err = {0};
    struct sk_buf buf;
    int32_t p[20];
    open_board(&r, &b, 8);
    rig_ramp(p, 20, 3);
    struct front_req q = rig_greedy(p, 20, 12);
    q.n_choice = 6;
    front_submit(&r.front, &q);
    assert_int_equal(sk_board_seats(&b), 0);
    for (int i = 0; i < 10; i++) {
        front_step(&r.front);
        assert_int_equal(sk_board_seats(&b), 0);
        assert_false(sk_board_in_step(&b));
        assert_int_equal(b.head->step, r.loop->step);
    }
    struct sk_wire_seq bad = {.job = 77, .choice = 3};
    sk_params_default(&bad.params);
    sk_buf_init(&buf, 1 << 16);
    assert_int_equal(sk_wire_put_seq(&buf, &bad, NULL, NULL), 0);
    assert_int_equal(sk_loop_frame(r.loop, (const void *)buf.p, &r.front.out, &err), -SK_EPROTO);
    assert_int_equal(sk_board_seats(&b), 1);
    assert_int_equal(b.seat[0].job, 77);
    assert_int_equal(b.seat[0].choice, 3);
    assert_false(sk_board_in_step(&b));
    sk_buf_clear(&buf);
    assert_int_equal(sk_wire_put_prompt(&buf, 78, 2, p, 0), 0);
    assert_int_equal(sk_loop_frame(r.loop, (const void *)buf.p, &r.front.out, &err), -SK_EPROTO);
    assert_int_equal(sk_board_seats(&b), 1);
    assert_int_equal(b.seat[0].job, 78);
    assert_true(b.seat[0].choice == SK_WIRE_ALL);
    sk_buf_done(&buf);
    rig_run(&r);
    rig_close(&r);
    sk_board_unmap(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_probation),
        cmocka_unit_test(test_no_starving),
        cmocka_unit_test(test_all_are),
        cmocka_unit_test(test_seats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
