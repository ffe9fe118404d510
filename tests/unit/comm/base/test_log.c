#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/base/json.h"
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

static void test_level_names(void **state)
{
    assert_int_equal(sk_log_level_of("error"), SK_LOG_ERROR);
    assert_int_equal(sk_log_level_of("warn"), SK_LOG_WARN);
    assert_int_equal(sk_log_level_of("debug"), SK_LOG_DEBUG);
    assert_int_equal(sk_log_level_of("loud"), SK_LOG_INFO);
}

static void test_long_sentence_is_cut(void **state)
{
    char text[8192], line[SK_LOG_LINE_MAX + 1];
    for (size_t i = 0; i + 3 < sizeof text; i += 3)
        memcpy(text + i, "\xE2\x82\xAC", 4);
    sk_log(SK_LOG_INFO, "%s", text);
    size_t n = read_line(line, sizeof line);
    assert_in_range(n, 4000, 4200);
    assert_int_equal(line[n - 1], '\n');
    assert_true(sk_utf8_valid(line, n));
    assert_null(strchr(line, '\\'));
}

static void log_fields(void)
{
    const struct sk_log_field fields[] = {
        {.key = "id", .str = "req-1"},
        {.key = "path", .str = "/a b\"c\\"},
        {.key = "empty", .str = ""},
        {.key = "sum", .str = "a=b"},
        {.key = "text", .str = "x\ny\x1B\xFF\xC3\xA9"},
        {.key = "absent", .skip = 1},
        {.key = "ms", .num = 12},
        {.key = "share", .num = 0.1},
        {.key = "big", .num = 9007199254740991.0},
        {.key = "inf", .num = -INFINITY},
    };
    sk_log_event(SK_LOG_INFO, "request", fields, sizeof fields / sizeof fields[0]);
}

static void test_event(void **state)
{
    char line[SK_LOG_LINE_MAX + 1];
    log_fields();
    read_line(line, sizeof line);
    assert_string_equal(line + 25, "info skeind: request id=req-1 path=\"/a b\\\"c\\\\\" empty=\"\" sum=\"a=b\" "
                                   "text=x\\ny\\x1b\\xff\xC3\xA9 ms=12 share=0.1 big=9007199254740991 inf=-inf\n");
    sk_log_level_set(SK_LOG_WARN);
    log_fields();
    sk_log_level_set(SK_LOG_INFO);
    sk_log(SK_LOG_INFO, "next");
    read_line(line, sizeof line);
    assert_string_equal(line + 25, "info skeind: next\n");
}

/* The line as JSON, which it is as a whole; to be freed. */
static struct cJSON *read_json(void)
{
    char line[SK_LOG_LINE_MAX + 1];
    struct cJSON *v = NULL;
    struct sk_err err;
    size_t n = read_line(line, sizeof line);
    assert_int_equal(line[n - 1], '\n');
    assert_null(memchr(line, '\n', n - 1));
    if (sk_json_parse(line, n, sizeof line, &v, &err))
        fail_msg("%s: %s", line, err.msg);
    return v;
}

static void assert_member(const struct cJSON *v, const char *key, const char *want)
{
    const char *s = sk_json_str(sk_json_get(v, key));
    assert_non_null(s);
    assert_string_equal(s, want);
}

static void test_json(void **state)
{
    sk_log_json_set(1);
    log_fields();
    struct cJSON *v = read_json();
    assert_member(v, "level", "info");
    assert_member(v, "program", "skeind");
    assert_member(v, "event", "request");
    assert_member(v, "id", "req-1");
    assert_member(v, "path", "/a b\"c\\");
    assert_member(v, "empty", "");
    assert_member(v, "text", "x\ny\x1B\xEF\xBF\xBD\xC3\xA9");
    assert_null(sk_json_get(v, "absent"));
    assert_null(sk_json_get(v, "cut"));
    assert_true(sk_json_num(sk_json_get(v, "ms")) == 12);
    assert_true(sk_json_num(sk_json_get(v, "share")) == 0.1);
    assert_int_equal(sk_json_type(sk_json_get(v, "inf")), SK_JSON_NULL);
    const char *time = sk_json_str(sk_json_get(v, "time"));
    assert_int_equal(strlen(time), strlen("2026-11-22T12:00:00.123Z"));
    sk_json_free(v);

    sk_log(SK_LOG_WARN, "a \"quoted\" %s", "word\t");
    v = read_json();
    assert_member(v, "level", "warn");
    assert_member(v, "message", "a \"quoted\" word\t");
    sk_json_free(v);
    sk_log_json_set(0);
}

/* Wherever the limit falls, the line is whole: texts of every length around it, between and inside characters. */
static void test_long_event_is_cut(void **state)
{
    static char text[2 * SK_LOG_LINE_MAX];
    char line[SK_LOG_LINE_MAX + 1];
    bool was_whole = true;
    for (size_t n = SK_LOG_LINE_MAX - 200; n < SK_LOG_LINE_MAX + 8; n++) {
        memset(text, 'x', n);
        memcpy(text + n, "\"\xC3\xA9", 4);
        const struct sk_log_field fields[] = {
            {.key = "first", .num = 1}, {.key = "text", .str = text}, {.key = "last", .str = "y"}};
        sk_log_json_set(1);
        sk_log_event(SK_LOG_INFO, "e", fields, 3);
        struct cJSON *v = read_json();
        bool whole = !sk_json_get(v, "cut");
        assert_true(was_whole || !whole);
        was_whole = whole;
        assert_true(sk_json_num(sk_json_get(v, "first")) == 1);
        assert_int_equal(strncmp(sk_json_str(sk_json_get(v, "text")), text, SK_LOG_LINE_MAX - 200), 0);
        if (whole)
            assert_member(v, "last", "y");
        sk_json_free(v);

        sk_log_json_set(0);
        sk_log_event(SK_LOG_INFO, "e", fields, 3);
        size_t n_line = read_line(line, sizeof line);
        assert_int_equal(line[n_line - 1], '\n');
        assert_true(sk_utf8_valid(line, n_line));
        if (n == SK_LOG_LINE_MAX - 200)
            assert_true(was_whole);
    }
    assert_false(was_whole);
}

/* A name that does not fit takes its field with it. */
static void test_many_fields(void **state)
{
    enum { N = 2000 };
    static struct sk_log_field fields[N];
    for (int i = 0; i < N; i++)
        fields[i] = (struct sk_log_field){.key = "some_key", .num = i};
    sk_log_json_set(1);
    for (int n = 0; n < 20; n++) {
        char id[32] = "";
        memset(id, 'x', (size_t)n);
        fields[0] = (struct sk_log_field){.key = "id", .str = id};
        sk_log_event(SK_LOG_INFO, "e", fields, N);
        struct cJSON *v = read_json();
        assert_true(sk_json_is_true(sk_json_get(v, "cut")));
        sk_json_free(v);
    }
    sk_log_json_set(0);
}

static void *talk(void *arg)
{
    for (int i = 0; i < 50; i++)
        sk_log_event(SK_LOG_INFO, "e", &(struct sk_log_field){.key = "who", .str = arg}, 1);
    return NULL;
}

static void test_threads(void **state)
{
    pthread_t threads[4];
    char names[4][2] = {"a", "b", "c", "d"}, line[SK_LOG_LINE_MAX + 1];
    int n_seen[4] = {0};
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, talk, names[i]), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    FILE *f = fdopen(dup(pipe_fd[0]), "r");
    for (int i = 0; i < 200; i++) {
        char who;
        assert_non_null(fgets(line, sizeof line, f));
        assert_int_equal(sscanf(line + 25, "info skeind: e who=%c", &who), 1);
        n_seen[who - 'a']++;
    }
    fclose(f);
    for (int i = 0; i < 4; i++)
        assert_int_equal(n_seen[i], 50);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_line),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_control_characters),
        cmocka_unit_test(test_level_names),
        cmocka_unit_test(test_long_sentence_is_cut),
        cmocka_unit_test(test_event),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_long_event_is_cut),
        cmocka_unit_test(test_many_fields),
        cmocka_unit_test(test_threads),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
