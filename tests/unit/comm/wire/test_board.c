/* The board: sizes are checked, seats are those that were taken, a segment is whole or not there, and it outlives who
 * wrote on it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "comm/wire/board.h"
#include "comm/wire/wire.h"

static struct sk_err err;

static void open_both(uint32_t max_seat, uint32_t max_plan, size_t segment_bytes, struct sk_board *ret_daemon,
                      struct sk_board *ret_leader)
{
    int fd;
    assert_int_equal(sk_board_make(max_seat, max_plan, segment_bytes, &fd, ret_daemon, &err), 0);
    assert_int_equal(sk_board_map(fd, ret_leader, &err), 0);
    close(fd);
}

static void test_sizes(void **state)
{
    struct sk_board a, b;
    open_both(5, 7, 1003, &a, &b);
    assert_int_equal(b.max_seat, 5);
    assert_int_equal(b.max_plan, 7);
    assert_int_equal(b.segment_bytes, 1000);
    assert_int_equal(a.bytes, b.bytes);
    for (int i = 0; i < 2; i++) {
        assert_int_equal((uintptr_t)sk_board_segment_data(&b, i) % 8, 0);
        memset(sk_board_segment_data(&b, i), 1, b.segment_bytes);
    }
    assert_ptr_equal(sk_board_segment_data(&b, 1) + b.segment_bytes, (char *)b.head + b.bytes);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
    sk_board_unmap(&b);

    open_both(5, 0, 1000, &a, &b); /* no flight recorder */
    assert_int_equal(b.segment_bytes, 0);
    struct sk_buf out;
    uint64_t number;
    sk_buf_init(&out, 100);
    assert_int_equal(sk_board_copy_segment(&a, 1, &out, &number), 0);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
}

/* What is not a board of these sizes is not mapped. */
static void test_refused(void **state)
{
    struct sk_board a, b;
    int fd;
    assert_int_equal(sk_board_make(5, 7, 1000, &fd, &a, &err), 0);
    a.head->max_seat++;
    assert_int_equal(sk_board_map(fd, &b, &err), -SK_EPROTO);
    a.head->max_seat--;
    a.head->segment_bytes = UINT64_MAX / 2;
    assert_int_equal(sk_board_map(fd, &b, &err), -SK_EPROTO);
    a.head->segment_bytes = 1000;
    a.head->version++;
    assert_int_equal(sk_board_map(fd, &b, &err), -SK_EPROTO);
    a.head->version--;
    assert_int_equal(sk_board_map(fd, &b, &err), 0);
    sk_board_unmap(&b);
    assert_int_equal(ftruncate(fd, 16), 0);
    assert_int_equal(sk_board_map(fd, &b, &err), -SK_EPROTO);
    close(fd);
    assert_int_equal(sk_board_map(fd, &b, &err), -SK_EIO);
    sk_board_unmap(&a);
}

static void test_seats(void **state)
{
    struct sk_board a, b;
    open_both(3, 0, 0, &a, &b);
    assert_int_equal(sk_board_seats(&a), 0);
    sk_board_begin(&b, 9, true);
    sk_board_add(&b, 100, 1);
    sk_board_add(&b, 101, SK_WIRE_ALL);
    assert_int_equal(sk_board_seats(&a), 2);
    assert_true(sk_board_in_step(&a));
    assert_int_equal(a.head->step, 9);
    assert_int_equal(a.seat[0].job, 100);
    assert_int_equal(a.seat[0].choice, 1);
    assert_int_equal(a.seat[1].job, 101);
    assert_true(a.seat[1].choice == SK_WIRE_ALL);
    sk_board_add(&b, 102, 0);
    sk_board_add(&b, 103, 0); /* one too many: cut */
    assert_int_equal(sk_board_seats(&a), 3);
    assert_int_equal(a.seat[2].job, 102);
    sk_board_end(&b);
    assert_int_equal(sk_board_seats(&a), 0);
    assert_false(sk_board_in_step(&a));
    sk_board_begin(&b, 9, false);
    assert_false(sk_board_in_step(&a));
    b.head->n_seat = 1000; /* gone wild */
    assert_int_equal(sk_board_seats(&a), 3);
    assert_int_equal(sk_board_progress(&a), 0);
    b.head->progress += 3;
    assert_int_equal(sk_board_progress(&a), 3);
    sk_board_clear(&a);
    assert_int_equal(sk_board_progress(&a), 0);
    assert_int_equal(sk_board_seats(&a), 0);
    sk_board_begin(NULL, 1, true);
    sk_board_add(NULL, 1, 1);
    sk_board_end(NULL);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
}

/* A leader that dies in a step stays on the board. */
static void test_outlives(void **state)
{
    struct sk_board a, b;
    open_both(3, 0, 0, &a, &b);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        sk_board_begin(&b, 5, true);
        sk_board_add(&b, 42, 7);
        _exit(0);
    }
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(sk_board_seats(&a), 1);
    assert_int_equal(a.seat[0].job, 42);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
}

static void put(struct sk_board *b, int which, const char *text)
{
    sk_board_segment_begin(b, which);
    memcpy(sk_board_segment_data(b, which), text, strlen(text));
    sk_board_segment_open(b, which, strlen(text));
}

static int take(const struct sk_board *b, int index, struct sk_buf *out, uint64_t *ret_number)
{
    sk_buf_clear(out);
    return sk_board_copy_segment(b, index, out, ret_number);
}

static void test_segments(void **state)
{
    struct sk_board a, b;
    struct sk_buf out;
    uint64_t number;
    sk_buf_init(&out, 64);
    open_both(3, 10, 64, &a, &b);
    assert_int_equal(take(&a, 0, &out, &number), 0);
    assert_int_equal(take(&a, 1, &out, &number), 0);
    put(&b, 1, "one");
    assert_int_equal(take(&a, 0, &out, &number), 0);
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_int_equal(number, 1);
    assert_int_equal(out.n, 3);
    put(&b, 0, "two");
    assert_int_equal(take(&a, 0, &out, &number), 1);
    assert_string_equal(out.p, "one");
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_string_equal(out.p, "two");
    assert_int_equal(number, 2);
    memcpy(sk_board_segment_data(&b, 0) + 3, "+more", 5); /* not there before it is told */
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_string_equal(out.p, "two");
    sk_board_segment_grow(&b, 0, 8);
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_string_equal(out.p, "two+more");
    sk_board_segment_begin(&b, 1); /* while it is begun, the other one is there */
    assert_int_equal(take(&a, 0, &out, &number), 0);
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_string_equal(out.p, "two+more");
    put(&b, 1, "three");
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_int_equal(number, 3);
    sk_board_segment_grow(&b, 1, 1 << 30); /* gone wild */
    assert_int_equal(take(&a, 1, &out, &number), 1);
    assert_int_equal(out.n, 64);
    sk_board_clear(&a);
    assert_int_equal(take(&a, 1, &out, &number), 0);
    sk_buf_done(&out);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
}

/* A reader beside a writer in another process gets bytes of one segment only, never a mixture. */
static void test_torn(void **state)
{
    enum { N = 3000 };
    struct sk_board a, b;
    struct sk_buf out;
    uint64_t number;
    uint32_t n_read = 0;
    sk_buf_init(&out, 1 << 16);
    open_both(3, 10, 1 << 16, &a, &b);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (int i = 0; i < N; i++) {
            sk_board_segment_begin(&b, i & 1);
            memset(sk_board_segment_data(&b, i & 1), 'a' + i % 26, b.segment_bytes);
            sk_board_segment_open(&b, i & 1, b.segment_bytes);
        }
        _exit(0);
    }
    while (waitpid(pid, NULL, WNOHANG) == 0 || n_read == 0) {
        int rc = take(&a, 1, &out, &number);
        assert_true(rc == 1 || rc == 0 || rc == -SK_EAGAIN);
        if (rc != 1)
            continue;
        n_read++;
        char want = (char)('a' + (number - 1) % 26);
        for (size_t i = 0; i < out.n; i++)
            assert_int_equal(out.p[i], want);
    }
    sk_buf_done(&out);
    sk_board_unmap(&a);
    sk_board_unmap(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),    cmocka_unit_test(test_refused),  cmocka_unit_test(test_seats),
        cmocka_unit_test(test_outlives), cmocka_unit_test(test_segments), cmocka_unit_test(test_torn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
