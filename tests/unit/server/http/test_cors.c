#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "tests/unit/server/http/serve.h"

static void test_parse(void **state)
{
    static const char *const bad[] = {
        "a.example",    "https://",    "https://a.example/", "https://a.example/x", "https://a b",
        "://a.example", "https://:80", "https://a.example:", "https://a,nonsense",  "null",
        "**",           "https://a@b"};
    struct sk_cors c;
    struct sk_err err;
    assert_int_equal(sk_cors_parse("", &c, &err), 0);
    assert_null(sk_cors_allow(&c, "https://a.example"));
    assert_null(sk_cors_allow(&c, NULL));
    sk_cors_done(&c);

    assert_int_equal(sk_cors_parse("https://A.example, http://localhost:3000,,http://[::1]:8080", &c, &err), 0);
    assert_int_equal(c.n, 3);
    assert_string_equal(sk_cors_allow(&c, "https://a.example"), "https://a.example");
    assert_string_equal(sk_cors_allow(&c, "http://[::1]:8080"), "http://[::1]:8080");
    assert_null(sk_cors_allow(&c, "http://a.example"));
    assert_null(sk_cors_allow(&c, "https://a.example:8443"));
    assert_null(sk_cors_allow(&c, "https://a.example.evil"));
    assert_null(sk_cors_allow(&c, "null"));
    sk_cors_done(&c);

    assert_int_equal(sk_cors_parse("*", &c, &err), 0);
    assert_string_equal(sk_cors_allow(&c, "https://anyone"), "*");
    assert_null(sk_cors_allow(&c, NULL));
    sk_cors_done(&c);

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (sk_cors_parse(bad[i], &c, &err) != -SK_EINVAL)
            fail_msg("%s is taken for an origin", bad[i]);
        assert_int_equal(c.n, 0);
        assert_non_null(strstr(err.msg, "cors-origins"));
    }
    char many[64 * (SK_CORS_MAX_ORIGINS + 1)];
    for (int i = 0, n = 0; i <= SK_CORS_MAX_ORIGINS; i++)
        n += snprintf(many + n, sizeof many - (size_t)n, "https://a%d.example,", i);
    assert_int_equal(sk_cors_parse(many, &c, &err), -SK_ERANGE);
    assert_non_null(strstr(err.msg, "32"));
}

static int setup(void **state)
{
    struct sk_err err;
    serve_reset("127.0.0.1:0");
    srv.limits.request_timeout_ms = 400;
    assert_int_equal(sk_cors_parse(*state, &srv.cors, &err), 0);
    return serve_start();
}

static int teardown(void **state)
{
    return serve_stop();
}

static char *ask(const char *request)
{
    int fd = dial();
    say(fd, request);
    char *s = hear(fd, NULL);
    close(fd);
    return s;
}

static void expect(const char *request, const char *status, const char *allow, bool vary)
{
    char *s = ask(request);
    char line[128];
    snprintf(line, sizeof line, "Access-Control-Allow-Origin: %s\r\n", allow ? allow : "");
    if (!strstr(s, status) || count(s, "Access-Control-Allow-Origin") != (allow != NULL) ||
        (allow && !strstr(s, line)) || count(s, "Access-Control-Expose-Headers: x-request-id") != (allow != NULL) ||
        count(s, "Vary: Origin\r\n") != vary)
        fail_msg("%s\nanswered: %s", request, s);
    free(s);
}

/* Whole answers, streams, refusals, and what is said in the middle of a request. */
static void test_every_answer(void **state)
{
    const bool any = strcmp(*state, "*") == 0;
    const char *allow = any ? "*" : "https://a.example";
    static const struct {
        const char *request, *status;
    } cases[] = {
        {"GET /echo HTTP/1.1\r\n%s" CLOSE "\r\n", "HTTP/1.1 200"},
        {"GET /later HTTP/1.1\r\n%s" CLOSE "\r\n", "HTTP/1.1 200"},
        {"GET /nope HTTP/1.1\r\n%s" CLOSE "\r\n", "HTTP/1.1 404"},
        {"GET /stream HTTP/1.1\r\n%s" CLOSE "\r\n", "HTTP/1.1 200"},
        {"HEAD /stream HTTP/1.1\r\n%s" CLOSE "\r\n", "HTTP/1.1 200"},
        {"GET /echo HTTP/1.1\r\n%s\r\n", "HTTP/1.1 400"},
        {"POST /echo HTTP/1.1\r\n%s" CLOSE "Content-Length: 100001\r\n\r\n", "HTTP/1.1 413"},
        {"POST /echo HTTP/1.1\r\n%s" CLOSE "Content-Length: 5\r\n\r\nhe", "HTTP/1.1 408"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char request[512];
        snprintf(request, sizeof request, cases[i].request, "Origin: https://a.example\r\n");
        expect(request, cases[i].status, allow, !any);
        snprintf(request, sizeof request, cases[i].request, "Origin: https://b.example\r\n");
        expect(request, cases[i].status, any ? "*" : NULL, !any);
        snprintf(request, sizeof request, cases[i].request, "");
        expect(request, cases[i].status, NULL, !any);
    }
}

static void test_none(void **state)
{
    expect("GET /echo HTTP/1.1\r\nOrigin: https://a.example\r\n" CLOSE "\r\n", "HTTP/1.1 200", NULL, false);
}

static void test_preflight(void **state)
{
    struct sk_http_headers h = {.n = 1, .more = {{"Allow", "POST, OPTIONS"}}};
    sk_cors_preflight(&h, "POST, OPTIONS");
    assert_int_equal(h.n, 4);
    assert_string_equal(h.more[1].name, "Access-Control-Allow-Methods");
    assert_string_equal(h.more[1].value, "POST, OPTIONS");
    assert_non_null(strstr(h.more[2].value, "Authorization"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parse),
        cmocka_unit_test(test_preflight),
        cmocka_unit_test_prestate_setup_teardown(test_every_answer, setup, teardown, "https://a.example"),
        cmocka_unit_test_prestate_setup_teardown(test_every_answer, setup, teardown, "*"),
        cmocka_unit_test_prestate_setup_teardown(test_none, setup, teardown, ""),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
