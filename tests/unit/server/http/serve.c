#include "tests/unit/server/http/serve.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>
#include "server/http/sse.h"

struct serve srv;
static uv_loop_t loop;
static uv_thread_t thread;
static uv_async_t stop, call;
static uv_sem_t called;
static void (*call_fn)(void *);
static void *call_arg;

struct exchange {
    struct sk_http_req *r;
    uv_timer_t timer;
    bool stream;
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
    uv_close((uv_handle_t *)&x->timer, on_timer_closed);
    atomic_fetch_add(&srv.n_free, 1);
}

static void on_tick(uv_timer_t *t)
{
    struct exchange *x = t->data;
    char text[4200];
    if (!x->stream) {
        sk_http_reply(x->r, 200, NULL, "{\"late\":1}", 10);
        atomic_fetch_add(&srv.n_late, 1);
    } else if (x->left < 0) {
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

static void answer_big(struct sk_http_req *r)
{
    char *big = malloc(SERVE_BIG);
    memset(big, 'b', SERVE_BIG);
    sk_http_reply(r, 200, NULL, big, SERVE_BIG);
    free(big);
}

static void answer_peer(struct sk_http_req *r)
{
    struct sk_http_peer p;
    char text[128];
    sk_http_peer(r, &p);
    int n = snprintf(text, sizeof text, "%s uid=%u pid=%d", p.addr, p.is_unix ? p.uid : 0, p.is_unix ? p.pid : 0);
    sk_http_reply(r, 200, NULL, text, (size_t)n);
}

static void on_request(void *arg, struct sk_http_req *r)
{
    const char *path = sk_http_path(r);
    size_t n;
    const char *body = sk_http_body(r, &n);
    struct exchange *x = calloc(1, sizeof *x);
    x->r = r;
    uv_timer_init(&loop, &x->timer);
    x->timer.data = x;
    sk_http_set(r, x, on_gone, on_free);
    atomic_fetch_add(&srv.n_request, 1);
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
    } else if (strcmp(path, "/big") == 0) {
        answer_big(r);
    } else if (strcmp(path, "/peer") == 0) {
        answer_peer(r);
    } else if (strcmp(path, "/hang") != 0) {
        sk_http_reply(r, 404, NULL, "{}", 2);
    }
}

static void on_closed(void *arg)
{
    uv_close((uv_handle_t *)&stop, NULL);
    uv_close((uv_handle_t *)&call, NULL);
}

static void on_stop(uv_async_t *a)
{
    sk_http_close(srv.http, on_closed, NULL);
}

static void on_call(uv_async_t *a)
{
    call_fn(call_arg);
    uv_sem_post(&called);
}

static void run_loop(void *arg)
{
    uv_run(&loop, UV_RUN_DEFAULT);
}

void serve_call(void (*fn)(void *), void *arg)
{
    call_fn = fn;
    call_arg = arg;
    uv_async_send(&call);
    uv_sem_wait(&called);
}

void serve_reset(const char *address)
{
    struct sk_err err;
    signal(SIGPIPE, SIG_IGN);
    memset(&srv, 0, sizeof srv);
    srv.limits = (struct sk_http_limits){.max_body = SERVE_MAX_BODY,
                                         .max_header = SERVE_MAX_HEADER,
                                         .max_connections = 64,
                                         .request_timeout_ms = 60000,
                                         .keepalive_ms = 100,
                                         .max_stream_queue = SERVE_MAX_QUEUE};
    if (sk_listen_open(address, 0600, &srv.listen, &err) != 0)
        fail_msg("%s", err.msg);
    const char *colon = strrchr(srv.listen.name, ':');
    srv.port = srv.listen.is_unix ? 0 : atoi(colon + 1);
}

int serve_start(void)
{
    const struct sk_http_conf conf = {.fd = srv.listen.fd,
                                      .is_unix = srv.listen.is_unix,
                                      .limits = &srv.limits,
                                      .tls = srv.tls,
                                      .cors = &srv.cors,
                                      .on_request = on_request};
    struct sk_err err;
    uv_loop_init(&loop);
    uv_async_init(&loop, &stop, on_stop);
    uv_async_init(&loop, &call, on_call);
    uv_sem_init(&called, 0);
    srv.listen.fd = -1;
    if (sk_http_open(&loop, &conf, &srv.http, &err) != 0) {
        fprintf(stderr, "%s\n", err.msg);
        return -1;
    }
    return uv_thread_create(&thread, run_loop, NULL);
}

int serve_stop(void)
{
    uv_async_send(&stop);
    uv_thread_join(&thread);
    uv_sem_destroy(&called);
    sk_cors_done(&srv.cors);
    sk_listen_close(&srv.listen, true);
    int rc = uv_loop_close(&loop);
    return rc == 0 && srv.n_free == srv.n_request ? 0 : -1;
}

/* --- the client --- */

void dial_with(int fd)
{
    union {
        struct sockaddr any;
        struct sockaddr_in in;
        struct sockaddr_un un;
    } sa = {0};
    if (srv.port) {
        sa.in = (struct sockaddr_in){
            .sin_family = AF_INET, .sin_port = htons((uint16_t)srv.port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    } else {
        sa.un.sun_family = AF_UNIX;
        const char *path = srv.listen.name + strlen("unix:");
        assert_true(strlen(path) < sizeof sa.un.sun_path);
        memcpy(sa.un.sun_path, path, strlen(path));
    }
    assert_int_equal(connect(fd, &sa.any, srv.port ? sizeof sa.in : sizeof sa.un), 0);
}

int dial(void)
{
    int fd = socket(srv.port ? AF_INET : AF_UNIX, SOCK_STREAM, 0);
    dial_with(fd);
    return fd;
}

void say_n(int fd, const char *p, size_t n)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL);
        if (k <= 0)
            return;
        p += k;
        n -= (size_t)k;
    }
}

void say(int fd, const char *s)
{
    say_n(fd, s, strlen(s));
}

char *hear(int fd, const char *end)
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

void hang_up(int fd, bool reset)
{
    const struct linger l = {.l_onoff = 1};
    if (reset)
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
    close(fd);
}

void wait_for(atomic_int *counter, int value)
{
    for (int i = 0; i < WAIT_MS && atomic_load(counter) < value; i++)
        usleep(1000);
    assert_int_equal(atomic_load(counter), value);
}

void expect_answer(const char *request, const char *status, const char *holds)
{
    int fd = dial();
    say(fd, request);
    char *s = hear(fd, NULL);
    if (!strstr(s, status) || !strstr(s, holds))
        fail_msg("%s\nanswered: %s", request, s);
    free(s);
    close(fd);
}

int count(const char *s, const char *what)
{
    int n = 0;
    for (; (s = strstr(s, what)); s += strlen(what))
        n++;
    return n;
}
