#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/log.h"
#include "comm/base/utf8.h"

static int saved_stderr, pipe_fd[2];

static int setup(void **state)
{
    saved_stderr = dup(STDERR_FILENO);
    return pipe(pipe_fd) || dup2(pipe_fd[1], STDERR_FILENO) < 0;
}

static int teardown(void **state)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    return 0;
}

/* One read is one write: that is how the line came. */
static size_t read_line(char *line, size_t cap)
{
    ssize_t n = read(pipe_fd[0], line, cap - 1);
    assert_true(n > 0);
    line[n] = '\0';
    return (size_t)n;
}

static void test_line(void **state)
{
    char line[8192];
    int year, month, day, hour, minute, second, ms, used = 0;
    sk_log_init("skeind", SK_LOG_INFO);
    sk_log(SK_LOG_DEBUG, "not written");
    sk_log(SK_LOG_INFO, "start port=%d", 80);
    read_line(line, sizeof line);
    assert_int_equal(
        sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%3dZ %n", &year, &month, &day, &hour, &minute, &second, &ms, &used), 7);
    assert_in_range(year, 2024, 9999);
    assert_int_equal(used, 25);
    assert_string_equal(line + used, "info skeind: start port=80\n");
}

static void test_levels(void **state)
{
    sk_log_level_set(SK_LOG_WARN);
    assert_true(sk_log_enabled(SK_LOG_ERROR));
    assert_true(sk_log_enabled(SK_LOG_WARN));
    assert_false(sk_log_enabled(SK_LOG_INFO));
    sk_log_level_set(SK_LOG_DEBUG);
    assert_true(sk_log_enabled(SK_LOG_DEBUG));
}

static void test_control_characters(void **state)
{
    char line[8192];
    sk_log(SK_LOG_INFO, "a\nb\x1B[1m\xC2\x85\xFF\xC3\xA9");
    read_line(line, sizeof line);
    assert_string_equal(line + 25, "info skeind: a\\nb\\x1b[1m\\xc2\\x85\\xff\xC3\xA9\n");
}

static void test_long_line_is_cut(void **state)
{
    char text[8192], line[8192];
    for (size_t i = 0; i + 3 < sizeof text; i += 3)
        memcpy(text + i, "\xE2\x82\xAC", 4);
    sk_log(SK_LOG_INFO, "%s", text);
    size_t n = read_line(line, sizeof line);
    assert_in_range(n, 4000, 4096);
    assert_int_equal(line[n - 1], '\n');
    assert_true(sk_utf8_valid(line, n));
    assert_null(strchr(line, '\\'));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_long_line_is_cut),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
