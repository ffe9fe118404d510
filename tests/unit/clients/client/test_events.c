#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "clients/client/events.h"
#include "comm/base/mem.h"

enum { MAX_BYTES = 64 };

/* The events of a body that comes in pieces of `step` bytes, as "name:data@line|..."; then what went wrong. */
static char *read_all(const char *body, size_t step, size_t max_bytes)
{
    static char got[4096];
    struct sk_buf b;
    struct sk_events s;
    struct sk_event e;
    struct sk_err err = {0};
    int rc = 0;
    sk_buf_init(&b, sizeof got - 1);
    sk_events_init(&s, max_bytes);
    for (size_t at = 0, n_body = strlen(body); at < n_body && rc >= 0; at += step) {
        const char *p = body + at;
        size_t n = n_body - at < step ? n_body - at : step;
        while ((rc = sk_events_next(&s, &p, &n, &e, &err)) > 0)
            sk_buf_fmt(&b, "%s:%s@%d|", e.name, e.data, (int)e.line);
    }
    if (rc == 0 && sk_events_end(&s, &err))
        sk_buf_str(&b, "inside");
    if (rc == 0 && s.odd_line)
        sk_buf_fmt(&b, "odd %d", (int)s.odd_line);
    if (rc < 0) {
        sk_buf_str(&b, err.msg);
        const char *p = "data: x\n\n";
        size_t n = strlen(p);
        assert_int_equal(sk_events_next(&s, &p, &n, &e, &err), rc); /* and it stays so */
    }
    strcpy(got, b.p ? b.p : "");
    sk_buf_done(&b);
    sk_events_done(&s);
    return got;
}

static void check(const char *body, const char *want)
{
    for (size_t step = 1; step <= 9; step++)
        assert_string_equal(read_all(body, step, MAX_BYTES), want);
    assert_string_equal(read_all(body, 4096, MAX_BYTES), want);
}

static void test_events(void **state)
{
    check("data: a\n\ndata: b\n\n", "message:a@1|message:b@3|");
    check("data:a\n\n", "message:a@1|");
    check("data:  a\n\n", "message: a@1|");
    check("data: a\ndata:\ndata: b\n\n", "message:a\n\nb@1|");
    check("data\n\n", "message:@1|");
    check("event: end\ndata: x\nid: 7\nretry: 5\n\n", "end:x@1|");
    check("", "");
    check("\n\n\n", "");
}

static void test_line_ends(void **state)
{
    check("data: a\r\n\r\ndata: b\r\n\r\n", "message:a@1|message:b@3|");
    check("data: a\r\rdata: b\r\r", "message:a@1|message:b@3|");
    check("data: a\r\n\rdata: b\n\r\n", "message:a@1|message:b@3|");
}

static void test_comments_and_oddities(void **state)
{
    check(": ping\n\ndata: a\n: ping\n\n", "message:a@3|");
    check("\xEF\xBB\xBF"
          "data: a\n\n",
          "message:a@1|");
    check("data: a\n\n{\"b\":1}\n\n", "message:a@1|odd 3");
    check("event: x\n\ndata: a\n\n", "message:a@3|"); /* an event without data is none, nor is its name kept */
}

static void test_ends_inside(void **state)
{
    check("data: a\n\ndata: b\n", "message:a@1|inside");
    check("data: a\n\ndata: b", "message:a@1|inside");
    check("data: a\n\nda", "message:a@1|inside");
}

static void test_too_long(void **state)
{
    char body[256] = "data: a\n\ndata: ";
    memset(body + strlen(body), 'x', 100);
    strcat(body, "\n\n");
    check(body, "message:a@1|line 3 of the stream: more than 64 bytes in one event");
    check("data: 0123456789012345678901234567890\ndata: 0123456789012345678901234567890\ndata: 0\n\n",
          "line 3 of the stream: more than 64 bytes in one event");
    memset(body, 'x', 100); /* also where it is no field */
    body[100] = '\0';
    check(body, "line 1 of the stream: more than 64 bytes in one event");
}

static void test_long_name_is_cut(void **state)
{
    char body[256] = "event: ";
    memset(body + strlen(body), 'n', 100);
    strcat(body, "\ndata: a\n\n");
    char *got = read_all(body, 4096, 200);
    assert_int_equal(strcspn(got, ":"), SK_EVENTS_MAX_NAME - 1);
}

static void test_out_of_memory(void **state)
{
    struct sk_events s;
    struct sk_event e;
    struct sk_err err = {0};
    const char *p = "data: a\n\n";
    size_t n = strlen(p);
    sk_events_init(&s, MAX_BYTES);
    sk_mem_fail_at(1, 1);
    int rc = sk_events_next(&s, &p, &n, &e, &err);
    sk_mem_fail_at(0, 0);
    assert_int_equal(rc, -SK_ENOMEM);
    sk_events_done(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_events),
        cmocka_unit_test(test_line_ends),
        cmocka_unit_test(test_comments_and_oddities),
        cmocka_unit_test(test_ends_inside),
        cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_long_name_is_cut),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
