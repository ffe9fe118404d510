/* Raw sockets against a server whose loop runs in a thread of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include "server/http/http.h"
#include "server/http/sse.h"

enum { MAX_BODY = 100000, MAX_QUEUE = 65536, WAIT_MS = 10000 };

static struct {
    uv_loop_t loop;
    uv_thread_t thread;
    uv_async_t stop;
    struct sk_http *http;
    int port;
    atomic_int n_request, n_gone, n_free, n_late;
} srv;

struct exchange {
    struct sk_http_req *r;
    uv_timer_t timer;
    bool stream, freed;
    int left;
};

static void on_gone(void *user)
{
    struct exchange *x = user;
    uv_timer_stop(&x->timer);
    atomic_fetch_add(&srv.n_gone, 1);
}

static void on_timer_closed(uv_handle_t *h)
{
    free(h->data);
}

static void on_free(void *user)
{
    struct exchange *x = user;
    atomic_fetch_add(&srv.n_free, 1);
    uv_close((uv_handle_t *)&x->timer, on_timer_closed);
}

static void on_tick(uv_timer_t *t)
{
    struct exchange *x = t->data;
    char text[4200];
    if (!x->stream) {
        sk_http_reply(x->r, 200, NULL, "{\"late\":1}", 10);
        atomic_fetch_add(&srv.n_late, 1);
    } else if (x->left < 0) { /* /flood: more than any reader takes */
        memset(text, 'x', sizeof text);
        sk_sse_event(sk_http_queue(x->r), NULL, text, sizeof text);
        sk_http_wake(x->r);
    } else if (x->left-- == 0) {
        uv_timer_stop(t);
        sk_sse_done(sk_http_queue(x->r));
        sk_http_end(x->r);
    } else {
        int n = snprintf(text, sizeof text, "{\"i\":%d}", x->left);
        sk_sse_event(sk_http_queue(x->r), NULL, text, (size_t)n);
        sk_http_wake(x->r);
    }
    sk_http_run(srv.http);
}

static void on_request(void *arg, struct sk_http_req *r)
{
    const char *path = sk_http_path(r);
    size_t n;
    const char *body = sk_http_body(r, &n);
    atomic_fetch_add(&srv.n_request, 1);
    struct exchange *x = calloc(1, sizeof *x);
    x->r = r;
    uv_timer_init(&srv.loop, &x->timer);
    x->timer.data = x;
    sk_http_set(r, x, on_gone, on_free);
    if (strcmp(path, "/echo") == 0) {
        const struct sk_http_headers h = {.content_type = "text/plain"};
        sk_http_reply(r, 200, &h, body, n);
    } else if (strcmp(path, "/later") == 0) {
        uv_timer_start(&x->timer, on_tick, 5, 0);
    } else if (strcmp(path, "/stream") == 0 || strcmp(path, "/flood") == 0 || strcmp(path, "/silent") == 0) {
        x->stream = true;
        x->left = strcmp(path, "/flood") == 0 ? -1 : 200;
        sk_http_stream(r, 200, &(struct sk_http_headers){.content_type = "text/event-stream"});
        if (strcmp(path, "/silent") != 0)
            uv_timer_start(&x->timer, on_tick, 1, 1);
    } else if (strcmp(path, "/hang") != 0) {
        sk_http_reply(r, 404, NULL, "{}", 2);
    }
}

static void on_closed(void *arg)
{
    uv_close((uv_handle_t *)&srv.stop, NULL);
}

static void on_stop(uv_async_t *a)
{
    sk_http_close(srv.http, on_closed, NULL);
}

static void run_loop(void *arg)
{
    uv_run(&srv.loop, UV_RUN_DEFAULT);
}

static int start_server(void **state, int timeout_ms, int max_connections)
{
    struct sk_http_conf conf = {.host = "127.0.0.1",
                                .max_body = MAX_BODY,
                                .max_header = 8192,
                                .max_connections = max_connections,
                                .request_timeout_ms = timeout_ms,
                                .keepalive_ms = 100,
                                .max_stream_queue = MAX_QUEUE,
                                .on_request = on_request};
    struct sk_err err;
    signal(SIGPIPE, SIG_IGN);
    memset(&srv, 0, sizeof srv);
    uv_loop_init(&srv.loop);
    uv_async_init(&srv.loop, &srv.stop, on_stop);
    if (sk_http_open(&srv.loop, &conf, &srv.http, &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    srv.port = sk_http_port(srv.http);
    return uv_thread_create(&srv.thread, run_loop, NULL);
}

static int setup(void **state)
{
    return start_server(state, 60000, 64);
}

static int setup_hasty(void **state)
{
    return start_server(state, 600, 64);
}

static int setup_narrow(void **state)
{
    return start_server(state, 60000, 2);
}

static int teardown(void **state)
{
    uv_async_send(&srv.stop);
    uv_thread_join(&srv.thread);
    int rc = uv_loop_close(&srv.loop);
    return rc == 0 && srv.n_free == srv.n_request ? 0 : -1;
}

static int dial(void)
{
    struct sockaddr_in sa = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)srv.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&sa, sizeof sa), 0);
    return fd;
}

static void say_n(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return; /* the server may close on us: the answer tells */
        p += k;
        n -= (size_t)k;
    }
}

static void say(int fd, const char *s)
{
    say_n(fd, s, strlen(s));
}

/* Reads until `end` has been seen, or the peer closes (`end` NULL: only then). Never waits for ever. */
static char *hear(int fd, const char *end)
{
    size_t n = 0, cap = 4096;
    char *s = calloc(1, cap);
    struct pollfd p = {.fd = fd, .events = POLLIN};
    while (!end || !strstr(s, end)) {
        assert_int_equal(poll(&p, 1, WAIT_MS), 1);
        if (n + 2048 > cap)
            s = realloc(s, cap *= 2);
        ssize_t k = recv(fd, s + n, cap - n - 1, 0);
        if (k <= 0)
            break;
        n += (size_t)k;
        s[n] = '\0';
    }
    return s;
}

static void wait_for(atomic_int *counter, int value)
{
    for (int i = 0; i < WAIT_MS && atomic_load(counter) < value; i++)
        usleep(1000);
    assert_int_equal(atomic_load(counter), value);
}

static void expect_answer(const char *request, const char *status, const char *holds)
{
    int fd = dial();
    say(fd, request);
    char *s = hear(fd, NULL);
    if (!strstr(s, status) || !strstr(s, holds))
        fail_msg("%s\nanswered: %s", request, s);
    free(s);
    close(fd);
}

static int count(const char *s, const char *what)
{
    int n = 0;
    for (; (s = strstr(s, what)); s += strlen(what))
        n++;
    return n;
}

#define CLOSE "Host: h\r\nConnection: close\r\n"

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
    char *big = malloc(MAX_BODY + 64), head[128];
    memset(big, 'a', MAX_BODY + 64);
    say(fd, "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n");
    snprintf(head, sizeof head, "%x\r\n", MAX_BODY + 1);
    say(fd, head);
    say_n(fd, big, MAX_BODY + 1);
    say(fd, "\r\n0\r\n\r\n");
    char *s = hear(fd, NULL);
    assert_non_null(strstr(s, "HTTP/1.1 413"));
    free(s);
    close(fd);

    fd = dial(); /* endless: closed, nothing kept */
    say(fd, "POST /echo HTTP/1.1\r\n" CLOSE "Transfer-Encoding: chunked\r\n\r\n");
    for (int i = 0; i < 4; i++) {
        say(fd, head);
        say_n(fd, big, MAX_BODY + 1);
        say(fd, "\r\n");
    }
    free(hear(fd, NULL));
    close(fd);
    free(big);
    assert_int_equal(srv.n_request, 1);
}

static void test_full_body(void **state)
{
    char *req = malloc(MAX_BODY + 256);
    int n =
        sprintf(req, "POST /echo HTTP/1.1\r\n" CLOSE "Content-Length: %d\r\nExpect: 100-continue\r\n\r\n", MAX_BODY);
    memset(req + n, 'b', MAX_BODY);
    int fd = dial();
    say_n(fd, req, (size_t)n);
    char *s = hear(fd, "100 Continue\r\n\r\n");
    free(s);
    say_n(fd, req + n, MAX_BODY);
    s = hear(fd, NULL);
    assert_int_equal(count(s, "bbbbbbbbbb"), MAX_BODY / 10);
    free(s);
    close(fd);
    free(req);
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
    expect_answer("GET /a%00b HTTP/1.1\r\nHost: h\r\n\r\n", "HTTP/1.1 414", "NUL");
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

static void test_disconnect(void **state)
{
    const char *paths[] = {"/hang", "/silent", "/stream", "/later"};
    for (int i = 0; i < 4; i++) {
        int before = srv.n_request, fd = dial();
        char req[128];
        snprintf(req, sizeof req, "GET %s HTTP/1.1\r\nHost: h\r\n\r\n", paths[i]);
        say(fd, req);
        wait_for(&srv.n_request, before + 1);
        if (i == 1)
            shutdown(fd, SHUT_WR); /* a half-close is a cancel */
        else if (i == 2)
            setsockopt(fd, SOL_SOCKET, SO_LINGER, &(struct linger){.l_onoff = 1}, sizeof(struct linger)); /* RST */
        if (i != 1)
            close(fd);
        wait_for(&srv.n_free, before + 1);
        if (i == 1)
            close(fd);
    }
    assert_true(srv.n_gone >= 3);
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
    uv_async_send(&srv.stop);
    uv_thread_join(&srv.thread);
    assert_int_equal(srv.n_free, 8);
    assert_true(srv.n_gone >= 6);
    for (int i = 0; i < 8; i++)
        close(fd[i]);
    assert_int_equal(uv_loop_close(&srv.loop), 0);
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

static void test_busy_port(void **state)
{
    struct sk_http_conf conf = {.host = "127.0.0.1",
                                .port = srv.port,
                                .max_body = 1024,
                                .max_header = 8192,
                                .max_connections = 8,
                                .request_timeout_ms = 1000,
                                .keepalive_ms = 1000,
                                .max_stream_queue = 1024,
                                .on_request = on_request};
    struct sk_http *h;
    struct sk_err err;
    uv_loop_t loop;
    uv_loop_init(&loop);
    assert_int_equal(sk_http_open(&loop, &conf, &h, &err), -SK_EBUSY);
    assert_non_null(strstr(err.msg, "127.0.0.1"));
    conf.host = "no such host";
    assert_int_equal(sk_http_open(&loop, &conf, &h, &err), -SK_EINVAL);
    assert_int_equal(uv_loop_close(&loop), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_whole, setup, teardown),
        cmocka_unit_test_setup_teardown(test_keep_alive_and_pipelining, setup, teardown),
        cmocka_unit_test_setup_teardown(test_chunked_upload, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_body, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refusals, setup, teardown),
        cmocka_unit_test_setup_teardown(test_head, setup, teardown),
        cmocka_unit_test_setup_teardown(test_stream, setup, teardown),
        cmocka_unit_test_setup_teardown(test_comments, setup, teardown),
        cmocka_unit_test_setup_teardown(test_disconnect, setup, teardown),
        cmocka_unit_test_setup_teardown(test_half_requests, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup(test_stop_while_running, setup),
        cmocka_unit_test_setup_teardown(test_late_request, setup_hasty, teardown),
        cmocka_unit_test_setup_teardown(test_too_many_connections, setup_narrow, teardown),
        cmocka_unit_test_setup_teardown(test_busy_port, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
