#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>
#include <unistd.h>

#include "clients/skein/input.h"

/* Feeds lines (up to NULL) of which only the last one makes a whole text. */
static void check(const char *const *lines, const char *want)
{
    struct sk_input in;
    sk_input_init(&in);
    for (; *lines; lines++) {
        assert_int_equal(sk_input_line(&in, *lines, strlen(*lines), NULL), lines[1] == NULL);
        assert_int_equal(in.is_open, lines[1] != NULL);
    }
    assert_string_equal(in.text.p, want);
    sk_input_done(&in);
}

#define CHECK(want, ...) check((const char *const[]){__VA_ARGS__, NULL}, want)

static void test_lines(void **state)
{
    CHECK("one", "one");
    CHECK("", "");
    CHECK("one\ntwo\nthree", "one\\", "two\\", "three");
    CHECK("say \"\"\"", "say \"\"\"");
}

static void test_blocks(void **state)
{
    CHECK("one\ntwo", "\"\"\"one", "two\"\"\"");
    CHECK("one\\\n\ntwo", "\"\"\"", "one\\", "", "two", "\"\"\"");
    CHECK("one", "\"\"\"one\"\"\"");
    CHECK("", "\"\"\"", "\"\"\"");
    CHECK("/quit", "\"\"\"", "/quit", "\"\"\"");
}

static void test_next_text_begins_anew(void **state)
{
    struct sk_input in;
    sk_input_init(&in);
    assert_int_equal(sk_input_line(&in, "\"\"\"a\"\"\"", 7, NULL), 1);
    assert_int_equal(sk_input_line(&in, "b\\", 2, NULL), 0);
    sk_input_clear(&in); /* ^C */
    assert_int_equal(sk_input_line(&in, "c", 1, NULL), 1);
    assert_string_equal(in.text.p, "c");
    sk_input_done(&in);
}

static void test_too_big(void **state)
{
    static char line[SK_INPUT_MAX_BYTES / 2 + 2];
    struct sk_input in;
    struct sk_err err = {0};
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 1] = '\\';
    sk_input_init(&in);
    assert_int_equal(sk_input_line(&in, line, sizeof line, &err), 0);
    assert_int_equal(sk_input_line(&in, line, sizeof line, &err), -SK_ETOOBIG);
    assert_string_equal(err.msg, "the input has more than 4194304 bytes");
    assert_false(in.is_open);
    sk_input_done(&in);
}

static void test_pipe(void **state)
{
    struct sk_buf b;
    struct sk_err err = {0};
    int fd[2];
    sk_buf_init(&b, 8);
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "12345678", 8), 8);
    close(fd[1]);
    assert_int_equal(sk_input_pipe(&b, fd[0], &err), 0);
    assert_string_equal(b.p, "12345678");
    close(fd[0]);
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "9", 1), 1);
    close(fd[1]);
    assert_int_equal(sk_input_pipe(&b, fd[0], &err), -SK_ETOOBIG);
    close(fd[0]);
    assert_int_equal(sk_input_pipe(&b, fd[0], &err), -SK_EIO);
    sk_buf_done(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_lines),   cmocka_unit_test(test_blocks), cmocka_unit_test(test_next_text_begins_anew),
        cmocka_unit_test(test_too_big), cmocka_unit_test(test_pipe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
