/* Connections: who leaves, who is slow, who is too much. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
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

static int setup_hasty(void **state)
{
    serve_reset(*state ? *state : "127.0.0.1:0");
    srv.limits.request_timeout_ms = 600;
    return serve_start();
}

static int setup_at(void **state)
{
    serve_reset(*state);
    return serve_start();
}

static int setup_small_bodies(void **state)
{
    serve_reset("127.0.0.1:0");
    srv.limits.max_body = 4096;
    return serve_start();
}

static int setup_narrow(void **state)
{
    serve_reset("127.0.0.1:0");
    srv.limits.max_connections = 2;
    return serve_start();
}

/* FIN, RST and half-close; before an answer, before the first event, between events, and with a full socket. */
static void test_disconnect(void **state)
{
    static const char *const paths[] = {"/hang", "/silent", "/stream", "/flood"};
    for (int i = 0; i < 12; i++) {
        int before = srv.n_request, gone = srv.n_gone, fd = dial();
        char req[128];
        snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i / 3]);
        say(fd, req);
        wait_for(&srv.n_request, before + 1);
        if (i / 3 >= 2)
            free(hear(fd, "data:"));
        if (i % 3 == 0)
            shutdown(fd, SHUT_WR);
        else
            hang_up(fd, i % 3 == 1);
        wait_for(&srv.n_gone, gone + 1);
        if (i % 3 == 0)
            close(fd);
        wait_for(&srv.n_free, before + 1);
    }
}

/* A whole request and a half-close, as netcat does it: what is answered at once is still read. */
static void test_half_close_behind_a_request(void **state)
{
    int fd = dial();
    say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello");
    shutdown(fd, SHUT_WR);
    char *s = hear(fd, NULL);
    assert_non_null(strstr(s, "\r\n\r\nhello"));
    free(s);
    close(fd);
}

/* The end comes together with the last bytes: the library alone would wait for the deadline, a minute from now. */
static void test_half_requests(void **state)
{
    static const char *const halves[] = {"POST /ec", "POST /echo HTTP/1.1\r\nHost: h\r\nConte",
                                         "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
                                         "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"};
    for (int i = 0; i < 80; i++) {
        int fd = dial();
        say(fd, halves[i % 4]);
        shutdown(fd, SHUT_WR);
        free(hear(fd, NULL));
        close(fd);
    }
    assert_int_equal(srv.n_request, 0);
}

/* More than the library's buffer holds, sent at once. */
static void test_long_pipeline(void **state)
{
    enum { N = 40 };
    char requests[N * 1000] = "", pad[900];
    memset(pad, 'p', sizeof pad - 1);
    pad[sizeof pad - 1] = '\0';
    size_t n = 0;
    for (int i = 0; i < N; i++)
        n += (size_t)snprintf(requests + n, sizeof requests - n, "GET /%s HTTP/1.1\r\nHost: h\r\n%sX: %s\r\n\r\n",
                              i % 3 ? "nope" : "later", i == N - 1 ? "Connection: close\r\n" : "", pad);
    int fd = dial();
    say_n(fd, requests, n);
    char *s = hear(fd, NULL);
    assert_int_equal(count(s, "HTTP/1.1 200") + count(s, "HTTP/1.1 404"), N);
    free(s);
    close(fd);
}

static void test_slow_reader(void **state)
{
    int small = 4096, fd = dial();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, "GET /flood HTTP/1.1\r\nHost: h\r\n\r\n");
    wait_for(&srv.n_free, 1); /* it never reads and never closes */
    assert_int_equal(srv.n_gone, 1);
    close(fd);
}

static void test_stop_while_running(void **state)
{
    const char *paths[] = {"/hang", "/silent", "/stream", "/flood"};
    int fd[8];
    for (int i = 0; i < 8; i++) {
        char req[128];
        fd[i] = dial();
        snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i % 4]);
        say(fd[i], req);
    }
    wait_for(&srv.n_request, 8);
    assert_int_equal(serve_stop(), 0);
    assert_int_equal(srv.n_free, 8);
    assert_true(srv.n_gone >= 6);
    for (int i = 0; i < 8; i++)
        close(fd[i]);
}

static void test_late_request(void **state)
{
    expect_answer("POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe", "HTTP/1.1 408",
                  "\"code\":\"request_timeout\"}}");
    expect_answer("POST /echo HTTP/1.1\r\nHo", "HTTP/1.1 408", "");
    expect_answer("POST", "", "");
    int fd = dial(); /* one byte at a time is not progress */
    say(fd, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n");
    struct pollfd p = {.fd = fd, .events = POLLIN};
    int i = 0;
    while (poll(&p, 1, 10) == 0 && i++ < WAIT_MS / 10)
        say(fd, "x");
    char *s = hear(fd, NULL);
    assert_true(i < WAIT_MS / 10);
    free(s);
    close(fd);
    assert_int_equal(srv.n_request, 0);
}

static void test_too_many_connections(void **state)
{
    int fd[2] = {dial(), dial()};
    for (int i = 0; i < 2; i++) {
        say(fd[i], "GET /silent HTTP/1.1\r\nHost: h\r\n\r\n");
        free(hear(fd[i], "\r\n\r\n"));
    }
    expect_answer("GET /echo HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 503", "Retry-After: 1\r\n");
    close(fd[0]);
    wait_for(&srv.n_free, 1); /* and its connection is closed a moment later */
    char *s = NULL;
    for (int i = 0; i < WAIT_MS && !(s && strstr(s, "HTTP/1.1 404")); i++) {
        free(s);
        int again = dial();
        say(again, "GET /nope HTTP/1.1\r\n" CLOSE "\r\n");
        s = hear(again, NULL);
        close(again);
    }
    assert_non_null(strstr(s, "HTTP/1.1 404"));
    free(s);
    close(fd[1]);
}

/* --- who is slow --- */

static void test_slow_head(void **state)
{
    struct pollfd p = {.fd = dial(), .events = POLLIN};
    int i = 0;
    say(p.fd, "GET /echo HTTP/1.1\r\nHost: h\r\nX: ");
    while (poll(&p, 1, 10) == 0 && i++ < WAIT_MS / 10)
        say(p.fd, "x");
    char *s = hear(p.fd, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 408"));
    assert_non_null(strstr(s, "x-request-id: req-"));
    free(s);
    close(p.fd);
    assert_int_equal(srv.n_request, 0);
}

static void test_idle(void **state)
{
    int fd = dial(), never = dial();
    say(fd, "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n");
    char *s = hear(fd, NULL); /* until it is closed */
    assert_int_equal(count(s, "HTTP/1.1"), 1);
    free(s);
    s = hear(never, NULL);
    assert_string_equal(s, "");
    free(s);
    close(fd);
    close(never);
}

/* A whole answer that nobody reads, or a byte at a time. */
static void test_slow_reader_of_a_whole_answer(void **state)
{
    int small = 4096, fd = dial();
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    say(fd, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
    char byte;
    for (int i = 0; i < WAIT_MS / 10 && atomic_load(&srv.n_free) == 0; i++) {
        recv(fd, &byte, 1, 0);
        usleep(10000);
    }
    assert_int_equal(srv.n_free, 1);
    assert_int_equal(srv.n_gone, 1);
    close(fd);
}

/* None of those who wait may cost CPU time: an MHD_run that asks for another at once would. */
static void test_nobody_spins(void **state)
{
    static const char *const halves[] = {"",
                                         "GE",
                                         "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 100\r\n\r\n{",
                                         "GET /hang HTTP/1.1\r\nHost: h\r\n\r\n",
                                         "GET /echo HTTP/1.1\r\nHost: h\r\n\r\n",
                                         "GET /big HTTP/1.1\r\nHost: h\r\n\r\n"};
    enum { N = sizeof halves / sizeof halves[0] };
    struct timespec before, after;
    int fd[N];
    for (int i = 0; i < N; i++) {
        fd[i] = dial();
        setsockopt(fd[i], SOL_SOCKET, SO_RCVBUF, &(int){4096}, sizeof(int));
        say(fd[i], halves[i]);
    }
    wait_for(&srv.n_request, 3);
    usleep(50000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
    usleep(400000);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
    double s = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    for (int i = 0; i < N; i++)
        close(fd[i]);
    assert_true(s < 0.2);
}

/* --- who is too much --- */

static void count_connections(void *arg)
{
    *(uint32_t *)arg = sk_http_connections(srv.http);
}

static void wait_for_connections(uint32_t n)
{
    uint32_t now = n + 1;
    for (int i = 0; i < WAIT_MS && now != n; i++) {
        serve_call(count_connections, &now);
        usleep(1000);
    }
    assert_int_equal(now, n);
}

/* Beyond the spare ones too: they wait in the backlog, and come in when there is room. */
static void test_full_house(void **state)
{
    enum { SPARE = 64, N = 2 + SPARE };
    int fd[N];
    for (int i = 0; i < N; i++)
        fd[i] = dial();
    wait_for_connections(N);
    int last = dial();
    say(last, "GET /echo HTTP/1.1\r\n" CLOSE "\r\n");
    serve_call(count_connections, &(uint32_t){0});
    wait_for_connections(N);
    for (int i = 0; i < N; i++)
        close(fd[i]);
    char *s = hear(last, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 "));
    free(s);
    close(last);
}

/* A spare connection is for a 503: it is not kept for long. */
static void test_spare_connections_end(void **state)
{
    int fd[3] = {dial(), dial(), dial()};
    char *s = hear(fd[2], NULL);
    assert_string_equal(s, "");
    free(s);
    wait_for_connections(2);
    for (int i = 0; i < 3; i++)
        close(fd[i]);
}

static void test_out_of_descriptors(void **state)
{
    enum { MOST = 4096 };
    int held[MOST], n = 0, client = socket(AF_INET, SOCK_STREAM, 0);
    struct rlimit old, low;
    getrlimit(RLIMIT_NOFILE, &old);
    low = old;
    low.rlim_cur = MOST < old.rlim_max ? MOST : old.rlim_max;
    setrlimit(RLIMIT_NOFILE, &low);
    while (n < MOST && (held[n] = dup(client)) >= 0)
        n++;
    assert_int_equal(errno, EMFILE);
    dial_with(client);
    say(client, "GET /nope HTTP/1.1\r\n" CLOSE "\r\n");
    for (int i = 0; i < 100; i++) /* turns of the loop, in which it fails to accept */
        wait_for_connections(0);
    close(held[--n]);
    char *s = hear(client, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 404"));
    free(s);
    while (n > 0)
        close(held[--n]);
    close(client);
    setrlimit(RLIMIT_NOFILE, &old);
}

/* All bodies together are bounded: 32 times the largest. */
static void test_many_bodies(void **state)
{
    enum { N = 33 };
    int fd[N];
    char part[4000];
    memset(part, 'x', sizeof part);
    for (int i = 0; i < N; i++) {
        char head[128];
        fd[i] = dial();
        snprintf(head, sizeof head, "POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", sizeof part);
        say(fd[i], head);
        say_n(fd[i], part, sizeof part - 1);
        serve_call(count_connections, &(uint32_t){0});
    }
    int refused = 0;
    for (int i = 0; i < N; i++) {
        say(fd[i], "x");
        char *s = hear(fd[i], "\r\n\r\n");
        refused += strstr(s, "HTTP/1.1 503") && strstr(s, "Retry-After: 1\r\n");
        free(s);
        close(fd[i]);
    }
    assert_int_equal(refused, 1);
}

/* --- the owner --- */

static void quiesce(void *arg)
{
    sk_http_quiesce(srv.http);
}

static void test_quiesce(void **state)
{
    int fd = dial(), stream = dial();
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    char *s = hear(fd, "{\"late\":1}");
    assert_null(strstr(s, "Connection: close"));
    free(s);
    say(stream, "GET /stream HTTP/1.1\r\nHost: h\r\n\r\n");
    free(hear(stream, "data:"));
    serve_call(quiesce, NULL);
    s = hear(stream, "0\r\n\r\n");
    assert_non_null(strstr(s, "[DONE]"));
    free(s);
    say(fd, "GET /later HTTP/1.1\r\nHost: h\r\n\r\n");
    s = hear(fd, NULL);
    assert_non_null(strstr(s, "Connection: close\r\n"));
    free(s);
    close(fd);
    close(stream);
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)srv.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), -1);
    close(fd);
}

static void narrow(void *arg)
{
    srv.limits.max_body = 10;
}

static void test_limits_change(void **state)
{
    static const char request[] = "POST /echo HTTP/1.1\r\n" CLOSE "Content-Length: 11\r\n\r\nhello world";
    expect_answer(request, "HTTP/1.1 200", "hello world");
    serve_call(narrow, NULL);
    expect_answer(request, "HTTP/1.1 413", "too large");
}

static void test_peer(void **state)
{
    char expected[64] = "127.0.0.1 uid=0 pid=0";
    if (srv.listen.is_unix)
        snprintf(expected, sizeof expected, "unix uid=%u pid=%d", getuid(), getpid());
    expect_answer("GET /peer HTTP/1.1\r\n" CLOSE "\r\n", "HTTP/1.1 200", expected);
}

int main(void)
{
    static char unix_address[64];
    snprintf(unix_address, sizeof unix_address, "unix:/tmp/skein-conn-%d", getpid());
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_disconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup(test_stop_while_running, setup),
        cmocka_unit_test_setup_teardown(test_late_request, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_connections, setup_narrow, teardown),
        cmocka_unit_test_setup_teardown(test_half_close_behind_a_request, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_head, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(test_idle, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader_of_a_whole_answer, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(test_nobody_spins, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_house, setup_narrow, teardown),
        cmocka_unit_test_setup_teardown(test_spare_connections_end, setup_narrow, teardown),
        cmocka_unit_test_setup_teardown(test_out_of_descriptors, setup, teardown),
        cmocka_unit_test_setup_teardown(test_many_bodies, setup_small_bodies, teardown),
        cmocka_unit_test_setup_teardown(test_quiesce, setup, teardown),
        cmocka_unit_test_setup_teardown(test_limits_change, setup, teardown),
        cmocka_unit_test_prestate_setup_teardown(test_peer, setup_at, teardown, "127.0.0.1:0"),
        cmocka_unit_test_prestate_setup_teardown(test_peer, setup_at, teardown, ":0"),
        cmocka_unit_test_prestate_setup_teardown(test_peer, setup_at, teardown, unix_address),
        cmocka_unit_test_prestate_setup_teardown(test_disconnect, setup_at, teardown, unix_address),
        cmocka_unit_test_prestate_setup_teardown(test_half_requests, setup_at, teardown, unix_address),
        cmocka_unit_test_prestate_setup_teardown(test_slow_reader, setup_at, teardown, unix_address),
        cmocka_unit_test_prestate_setup_teardown(test_long_pipeline, setup_at, teardown, unix_address),
        cmocka_unit_test_setup_teardown(test_long_pipeline, setup, teardown),
        cmocka_unit_test_prestate_setup_teardown(test_late_request, setup_hasty, teardown, unix_address),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
