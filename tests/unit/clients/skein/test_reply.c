#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "clients/skein/reply.h"
#include "comm/base/mem.h"

#define TEXT(s)   "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"" s "\"},\"finish_reason\":null}]}\n\n"
#define FINISH(s) "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"" s "\"}]}\n\n"
#define DONE      "data: [DONE]\n\n"

/* The whole exchange, its body in pieces of `step` bytes; returns what its end does. */
static int run(struct sk_reply *r, const char *type, const char *body, size_t step, struct sk_err *err)
{
    sk_reply_init(r);
    int rc = sk_reply_head(r, 200, type, err);
    for (size_t at = 0, n = strlen(body); at < n && !rc; at += step)
        rc = sk_reply_bytes(r, body + at, n - at < step ? n - at : step, err);
    int end = sk_reply_end(r, err);
    if (rc)
        assert_int_equal(end, rc); /* it stays broken */
    return end;
}

static void check(const char *type, const char *body, const char *text, const char *finish)
{
    for (size_t step = 1; step < 2000; step = step * 3 + 1) {
        struct sk_reply r;
        struct sk_err err = {0};
        if (run(&r, type, body, step, &err))
            fail_msg("%s", err.msg);
        assert_int_equal(r.state, SK_REPLY_DONE);
        assert_string_equal(r.text.p ? r.text.p : "", text);
        assert_string_equal(r.finish, finish);
        sk_reply_done(&r);
    }
}

static void check_broken(const char *type, const char *body, const char *text, const char *part)
{
    for (size_t step = 1; step < 2000; step = step * 3 + 1) {
        struct sk_reply r;
        struct sk_err err = {0};
        assert_true(run(&r, type, body, step, &err) < 0);
        assert_int_equal(r.state, SK_REPLY_BROKEN);
        assert_string_equal(r.text.p ? r.text.p : "", text);
        if (!strstr(err.msg, part))
            fail_msg("'%s' is not in '%s'", part, err.msg);
        sk_reply_done(&r);
    }
}

static const char sse[] = "text/event-stream; charset=utf-8";

static void test_streams(void **state)
{
    check(sse, TEXT("a") TEXT("\\nb") FINISH("stop") DONE, "a\nb", "stop");
    check(sse, ": ping\n\n" TEXT("a") FINISH("length") DONE, "a", "length");
    check(sse, TEXT("a") DONE, "a", "");
    check(sse, TEXT("a") FINISH("stop"), "a", "stop");
    check(NULL, TEXT("a") DONE, "a", "");
    check(sse, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":null}}]}\n\n" TEXT("a") DONE, "a",
          "");
    check(sse, TEXT("a") DONE "data: after the end\n\n", "a", "");
    check(sse, "data: {\"choices\":[],\"object\":\"ping\"}\n\ndata: {}\n\n" TEXT("a") DONE, "a", "");
    check(sse, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"error\":null}\n\n" DONE, "a", "");
}

static void test_usage(void **state)
{
    struct sk_reply r;
    struct sk_err err = {0};
    assert_int_equal(
        run(&r, sse,
            TEXT("a") TEXT("b") FINISH(
                "stop") "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":17}}\n\n" DONE,
            9, &err),
        0);
    assert_int_equal(r.n_tok, 17);
    assert_int_equal(r.n_piece, 2);
    sk_reply_done(&r);
    assert_int_equal(run(&r, sse, TEXT("a") DONE, 9, &err), 0);
    assert_int_equal(r.n_tok, -1);
    sk_reply_done(&r);
}

static void test_whole_answers(void **state)
{
    check("application/json", "{\"choices\":[{\"message\":{\"content\":\"all\"},\"finish_reason\":\"stop\"}]}", "all",
          "stop");
    check_broken("application/json", "{\"choices\":[{\"mess", "", "byte");
    check_broken("application/json", "{\"hello\":1}", "", "no answer in it");
    check_broken("application/json", "{\"error\":{\"message\":\"no\"}}", "", "the server gave up: no");
}

static void test_broken_streams(void **state)
{
    check_broken(sse, TEXT("kept") "data: {\"choices\":[{\n\n", "kept", "line 3 of the stream");
    check_broken(sse, TEXT("kept") "data: {\"choices\":\xFF}\n\n", "kept", "line 3 of the stream");
    check_broken(sse, TEXT("kept") "data: \"text\"\n\n", "kept", "an object was expected, not string");
    check_broken(sse, TEXT("kept") "data: {\"cho", "kept", "broke off inside an event, at line 3");
    check_broken(sse, TEXT("kept"), "kept", "ended before the answer did, after 1 events");
    check_broken(sse, TEXT("kept") "{\"choices\":[]}\n\n", "kept", "its line 3 is not of an event");
    check_broken(sse, "", "", "after 0 events");
    check_broken(sse, TEXT("kept") "data: {\"error\":{\"message\":\"engine \\u001b[2J lost\"}}\n\n" DONE, "kept",
                 "the server gave up: engine \\x1b[2J lost");
    check_broken("text/html", "<html>", "", "is the URL right?");
}

static void test_huge_line(void **state)
{
    struct sk_reply r;
    struct sk_err err = {0};
    static char line[1 << 16];
    int rc = 0, n = 0;
    memset(line, 'x', sizeof line);
    sk_reply_init(&r);
    assert_int_equal(sk_reply_head(&r, 200, sse, &err), 0);
    assert_int_equal(sk_reply_bytes(&r, TEXT("kept"), sizeof TEXT("kept") - 1, &err), 0);
    while (!rc && n++ < 100)
        rc = sk_reply_bytes(&r, line, sizeof line, &err);
    assert_int_equal(rc, -SK_ETOOBIG);
    assert_string_equal(err.msg, "line 3 of the stream: more than 1048576 bytes in one event");
    assert_string_equal(r.text.p, "kept");
    sk_reply_done(&r);
}

static void test_refusal_is_cut(void **state)
{
    struct sk_reply r;
    struct sk_err err = {0};
    static char page[1 << 20];
    memset(page, 'x', sizeof page);
    sk_reply_init(&r);
    assert_int_equal(sk_reply_head(&r, 503, "text/html", &err), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(sk_reply_bytes(&r, page, sizeof page, &err), 0);
    assert_int_equal(sk_reply_end(&r, &err), 0);
    assert_int_equal(r.state, SK_REPLY_REFUSED);
    assert_true(r.body.n > 0 && r.body.n <= 2 * 65536);
    sk_reply_done(&r);
}

static void test_out_of_memory(void **state)
{
    for (uint64_t n = 1;; n++) {
        struct sk_reply r;
        struct sk_err err = {0};
        sk_mem_fail_at(n, 0);
        int rc = run(&r, sse, TEXT("a") TEXT("b") FINISH("stop") DONE, 50, &err);
        sk_mem_fail_at(0, 0);
        if (rc == 0) {
            assert_string_equal(r.text.p, "ab");
            sk_reply_done(&r);
            assert_true(n > 5);
            break;
        }
        assert_int_equal(rc, -SK_ENOMEM);
        assert_int_equal(r.state, SK_REPLY_BROKEN);
        assert_int_equal(err.code, SK_ENOMEM);
        sk_reply_done(&r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_streams),        cmocka_unit_test(test_usage),     cmocka_unit_test(test_whole_answers),
        cmocka_unit_test(test_broken_streams), cmocka_unit_test(test_huge_line), cmocka_unit_test(test_refusal_is_cut),
        cmocka_unit_test(test_out_of_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
