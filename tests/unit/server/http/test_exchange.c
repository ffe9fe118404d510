/* Requests and answers over raw sockets. */
#define _GNU_SOURCE /* strcasestr */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "comm/base/mem.h"
#include "tests/unit/server/http/serve.h"

static int teardown(void **state)
{
    return serve_stop();
}

static int setup(void **state)
{
    serve_reset("127.0.0.1:0");
    return serve_start();
}

static void test_whole(void **state)
{
    expect_answer("POST /echo?x=1 HTTP/1.1\r\n" CLOSE "X-Request-Id: abc-1\r\nContent-Length: 5\r\n\r\nhello",
                  "HTTP/1.1 200", "\r\n\r\nhello");
    expect_answer("GET /nope HTTP/1.1\r\n" CLOSE "x-request-id: abc-1\r\n\r\n", "HTTP/1.1 404",
                  "x-request-id: abc-1\r\n");
    expect_answer("GET /nope HTTP/1.1\r\n" CLOSE "x-request-id: a b\r\n\r\n", "HTTP/1.1 404", "x-request-id: req-");
    expect_answer("GET /later HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200", "{\"late\":1}");
    expect_answer("GET /later HTTP/1.0\r\n\r\n", "200 OK", "{\"late\":1}");
    assert_int_equal(srv.n_gone, 0);
}

static void test_keep_alive_and_pipelining(void **state)
{
    int fd = dial();
    for (int i = 0; i < 3; i++) {
        say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
        char *s = hear(fd, "{\"late\":1}");
        assert_non_null(strstr(s, "HTTP/1.1 200"));
        free(s);
    }
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\nGET /stream HTTP/1.1\r\nHost: h\r\n\r\nPOST /echo HTTP/1.1\r\n" CLOSE
            "Content-Length: 4\r\n\r\nlast");
    char *s = hear(fd, NULL);
    char *late = strstr(s, "{\"late\":1}"), *done = strstr(s, "data: [DONE]\n\n"), *last = strstr(s, "\r\n\r\nlast");
    assert_true(late && done && last && late < done && done < last);
    assert_int_equal(count(s, "data: {\"i\":"), 200);
    free(s);
    close(fd);
}

static void test_chunked_upload(void **state)
{
    expect_answer("POST /echo HTTP/1.1\r\n" CLOSE
                  "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
                  "HTTP/1.1 200", "\r\n\r\nhello world");
    int fd = dial();
    char *big = malloc(SERVE_MAX_BODY + 64), head[128];
    memset(big, 'a', SERVE_MAX_BODY + 64);
    say(fd, "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n");
    snprintf(head, sizeof head, "%x\r\n", SERVE_MAX_BODY + 1);
    say(fd, head);
    say_n(fd, big, SERVE_MAX_BODY + 1);
    say(fd, "\r\n0\r\n\r\n");
    char *s = hear(fd, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 413"));
    free(s);
    close(fd);

    fd = dial(); /* endless: closed, nothing kept */
    say(fd, "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        say(fd, head);
        say_n(fd, big, SERVE_MAX_BODY + 1);
        say(fd, "\r\n");
    }
    free(hear(fd, NULL));
    close(fd);
    free(big);
    assert_int_equal(srv.n_request, 1);
}

static void test_full_body(void **state)
{
    char *req = malloc(SERVE_MAX_BODY + 256);
    int n = sprintf(req, "POST /echo HTTP/1.1\r\n" CLOSE "Content-Length: %d\r\nExpect: 100-continue\r\n\r\n",
                    SERVE_MAX_BODY);
    memset(req + n, 'b', SERVE_MAX_BODY);
    int fd = dial();
    say_n(fd, req, (size_t)n);
    char *s = hear(fd, "100 Continue\r\n\r\n");
    free(s);
    say_n(fd, req + n, SERVE_MAX_BODY);
    s = hear(fd, NULL);
    assert_int_equal(count(s, "bbbbbbbbbb"), SERVE_MAX_BODY / 10);
    free(s);
    close(fd);
    free(req);
}

/* None of these is a request, whatever the library says to it. */
static void test_bad_chunks(void **state)
{
    static const char *const chunks[] = {"-5\r\nhello\r\n0\r\n\r\n",
                                         "0x5\r\nhello\r\n0\r\n\r\n",
                                         "5\r\nhelloX5\r\nworld\r\n0\r\n\r\n",
                                         "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
                                         "10000000000000005\r\nhello\r\n0\r\n\r\n",
                                         "\r\n\r\n",
                                         "x\r\nhello\r\n0\r\n\r\n"};
    for (size_t i = 0; i < sizeof chunks / sizeof chunks[0]; i++) {
        int fd = dial();
        say(fd, "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n");
        say(fd, chunks[i]);
        shutdown(fd, SHUT_WR);
        char *s = hear(fd, NULL);
        assert_null(strstr(s, "HTTP/1.1 200"));
        free(s);
        close(fd);
    }
    assert_int_equal(srv.n_request, 0);
}

static void test_http10(void **state)
{
    int fd = dial();
    say(fd, "POST /echo HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 5\r\n\r\nhello");
    char *s = hear(fd, "hello");
    assert_non_null(strstr(s, "Content-Length: 5\r\n"));
    assert_non_null(strcasestr(s, "Connection: Keep-Alive\r\n"));
    free(s);
    say(fd, "GET /stream HTTP/1.0\r\n\r\n"); /* its end is that of the connection */
    s = hear(fd, NULL);
    assert_null(strcasestr(s, "chunked"));
    assert_int_equal(count(s, "data: [DONE]\n\n"), 1);
    free(s);
    close(fd);
}

/* What libmicrohttpd would let through. */
static void test_refusals(void **state)
{
    const char *hidden = "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n";
    char req[20000];
    expect_answer("GET /echo HTTP/1.1\r\n\r\n", "HTTP/1.1 400", "Host");
    expect_answer("GET /echo HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "HTTP/1.1 400", "Host");
    snprintf(req, sizeof req, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 43\r\n\r\nabc%s",
             hidden);
    expect_answer(req, "HTTP/1.1 400", "Content-Length");
    snprintf(req, sizeof req,
             "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n%s",
             hidden);
    expect_answer(req, "HTTP/1.1 400", "exclude each other");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", "HTTP/1.1 501", "chunked");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "HTTP/1.1 501",
                  "chunked");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100001\r\nExpect: 100-continue\r\n\r\n",
                  "HTTP/1.1 413", "too large");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
                  "HTTP/1.1 415", "Content-Encoding");
    expect_answer("GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400", "control");
    expect_answer("GET /a\rb HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 400", "control");
    expect_answer("GET /echo HTTP/1.1\r\nHost: h\r\nX: a\rContent-Length: 3\r\n\r\n", "HTTP/1.1 400",
                  "carriage return");
    expect_answer(
        "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n 30\r\n\r\nGET /echo HTTP/1.1\r\nHost: h\r\n\r\n",
        "HTTP/1.1 400", "single line");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n", "HTTP/1.1 400",
                  "single line");
    expect_answer("METHODOFMORETHANTWENTYTHREE /echo HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 501", "method");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", " 400 ", "");
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n", " 4", "");
    int n = snprintf(req, sizeof req, "GET /");
    memset(req + n, 'u', 5000);
    snprintf(req + n + 5000, 100, " HTTP/1.1\r\nHost: h\r\n\r\n");
    expect_answer(req, "HTTP/1.1 414", "URL");
    n = snprintf(req, sizeof req, "GET /echo HTTP/1.1\r\nHost: h\r\nX: ");
    memset(req + n, 'x', 9000);
    snprintf(req + n + 9000, 100, "\r\n\r\n");
    expect_answer(req, "HTTP/1.1 431", "too large");
    memset(req + n, 'x', 18000);
    snprintf(req + n + 18000, 100, "\r\n\r\n");
    expect_answer(req, " 431 ", "");
    assert_int_equal(srv.n_request, 0);
}

static void test_head(void **state)
{
    int fd = dial();
    say(fd, "HEAD /stream HTTP/1.1\r\nHost: h\r\n\r\nHEAD /echo HTTP/1.1\r\nHost: h\r\n\r\nGET /nope HTTP/1.1\r\n" CLOSE
            "\r\n");
    char *s = hear(fd, NULL);
    assert_int_equal(count(s, "HTTP/1.1 200"), 2);
    assert_int_equal(count(s, "HTTP/1.1 404"), 1);
    assert_null(strstr(s, "\r\n\r\n0\r\n"));
    free(s);
    close(fd);
}

static void test_stream(void **state)
{
    enum { N = 20 };
    int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = dial();
        say(fd[i], i % 2 ? "GET /stream HTTP/1.1\r\n" CLOSE "\r\n" : "GET /stream HTTP/1.0\r\n\r\n");
    }
    for (int i = 0; i < N; i++) {
        char *s = hear(fd[i], NULL);
        assert_non_null(strstr(s, "Content-Type: text/event-stream\r\n"));
        assert_int_equal(count(s, "data: {\"i\":"), 200);
        assert_int_equal(count(s, "data: [DONE]\n\n"), 1);
        assert_int_equal(count(s, i % 2 ? "\r\n0\r\n\r\n" : "chunked"), i % 2);
        free(s);
        close(fd[i]);
    }
    assert_int_equal(srv.n_gone, 0);
}

static void test_comments(void **state)
{
    int fd = dial();
    say(fd, "GET /silent HTTP/1.1\r\nHost: h\r\n\r\n");
    char *s = hear(fd, ": keep-alive\n\n");
    assert_non_null(strstr(s, ": keep-alive\n\n"));
    free(s);
    close(fd);
    wait_for(&srv.n_gone, 1);
}

static void fail_at(void *arg)
{
    sk_mem_fail_at(*(uint64_t *)arg, 0);
}

/* Whatever allocation fails: an answer or the end of the connection, and the next one is served. */
static void test_no_memory(void **state)
{
    static const char *const requests[] = {
        "POST /echo HTTP/1.1\r\n" CLOSE "Content-Length: 5\r\n\r\nhello",
        "POST /later HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "GET /stream HTTP/1.1\r\n" CLOSE "\r\n",
        "GET /echo HTTP/1.1\r\n\r\n",
    };
    for (int i = 0; i < 4; i++) {
        for (uint64_t n = 1; n <= 8; n++) {
            serve_call(fail_at, &n);
            int fd = dial();
            say(fd, requests[i]);
            free(hear(fd, NULL));
            close(fd);
            serve_call(fail_at, &(uint64_t){0});
            expect_answer(requests[0], "HTTP/1.1 200", "hello");
        }
    }
}

/* The log says why a stream is cut: its reader is not to blame for our memory. */
static void test_no_memory_is_no_slow_reader(void **state)
{
    char log[1 << 16];
    FILE *f = tmpfile();
    int saved = dup(2);
    assert_non_null(f);
    dup2(fileno(f), 2);
    for (uint64_t n = 1; n <= 20; n++) {
        serve_call(fail_at, &n);
        int fd = dial();
        say(fd, "GET /stream HTTP/1.1\r\n" CLOSE "\r\n");
        free(hear(fd, NULL));
        close(fd);
        serve_call(fail_at, &(uint64_t){0});
    }
    dup2(saved, 2);
    close(saved);
    ssize_t n = pread(fileno(f), log, sizeof log - 1, 0);
    fclose(f);
    assert_true(n > 0);
    log[n] = '\0';
    if (!strstr(log, "out of memory") || strstr(log, "slow reader"))
        fail_msg("%s", log);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep_alive_and_pipelining, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chunked_upload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_chunks, setup, teardown),
        cmocka_unit_test_setup_teardown(test_http10, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_head, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_comments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory, setup, teardown),
        cmocka_unit_test_setup_teardown(test_no_memory_is_no_slow_reader, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
