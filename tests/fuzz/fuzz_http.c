/* Bytes of a client against the real server, over a Unix socket inside this process. A parser of our own, strict about
 * framing and with the rules of head.c, says what the bytes ask for: the server may answer less, never more, and never
 * something else. */
#define _GNU_SOURCE /* strcasestr */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <uv.h>

#include "comm/base/buf.h"
#include "comm/base/log.h"
#include "server/http/cors.h"
#include "server/http/head.h"
#include "server/http/http.h"
#include "server/http/listen.h"
#include "server/http/sse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum {
    MAX_HEADER = 2048,
    MAX_BODY = 4096,
    MAX_INPUT_BYTES = 32 << 10,
    MAX_REQUESTS = 256,
    QUIET_TURNS = 3,
    STUCK_TURNS = 20000
};

struct asked { /* one request as we read it */
    bool is_head, good;
    char *body; /* in `decoded` */
    size_t n_body;
};

struct exchange {
    struct sk_http_req *r;
    uv_idle_t later;
    bool stream;
};

static uv_loop_t loop;
static struct sk_http *http;
static struct sk_listen listener;
static struct sk_cors cors;
static struct sk_http_limits limits = {.max_body = MAX_BODY,
                                       .max_header = MAX_HEADER,
                                       .max_connections = 16,
                                       .request_timeout_ms = 60000,
                                       .keepalive_ms = 100, /* the sweep, which notices ends, comes each 25 ms */
                                       .max_stream_queue = 4096};
static struct asked asked[MAX_REQUESTS];
static size_t n_asked, n_seen, n_freed; /* n_seen: came to on_request */
static char decoded[MAX_INPUT_BYTES];

/* --- what is asked for --- */

struct cursor {
    const char *p, *end;
};

/* Up to the next line feed, without it and the carriage return before it. False: it is not all there. */
static bool take_line(struct cursor *c, const char **ret, size_t *ret_n)
{
    const char *lf = memchr(c->p, '\n', (size_t)(c->end - c->p));
    if (!lf)
        return false;
    *ret = c->p;
    *ret_n = (size_t)(lf - c->p) - (lf > c->p && lf[-1] == '\r');
    c->p = lf + 1;
    return true;
}

static bool take_chunks(struct cursor *c, struct asked *a)
{
    for (;;) {
        const char *line;
        size_t n, size = 0, digits;
        if (!take_line(c, &line, &n))
            return false;
        for (digits = 0; digits < n && strchr("0123456789abcdefABCDEF", line[digits]); digits++) {
            char d = line[digits];
            size = size * 16 + (size_t)(d <= '9' ? d - '0' : (d | 32) - 'a' + 10);
            if (size > MAX_INPUT_BYTES)
                return false;
        }
        if (digits == 0)
            return false;
        if (size == 0)
            break;
        if ((size_t)(c->end - c->p) < size)
            return false;
        memcpy(a->body + a->n_body, c->p, size);
        a->n_body += size;
        c->p += size;
        if (!take_line(c, &line, &n) || n != 0)
            return false;
    }
    const char *line;
    size_t n;
    while (take_line(c, &line, &n)) {
        if (n == 0)
            return true; /* behind the trailers */
    }
    return false;
}

static bool continues(const struct cursor *c)
{
    return c->p < c->end && (*c->p == ' ' || *c->p == '\t');
}

/* A line and those that continue it (RFC 9112, section 5.2), which the library adds to the name. */
static bool add_field(struct sk_head *h, struct cursor *c, const char *line, size_t n)
{
    char name[MAX_INPUT_BYTES], value[MAX_INPUT_BYTES];
    const char *colon = memchr(line, ':', n);
    const char *v = colon ? colon + 1 : line + n, *end = line + n;
    size_t n_name = colon ? (size_t)(colon - line) : n;
    memcpy(name, line, n_name);
    while (v < end && (*v == ' ' || *v == '\t'))
        v++;
    while (end > v && (end[-1] == ' ' || end[-1] == '\t'))
        end--;
    memcpy(value, v, (size_t)(end - v));
    value[end - v] = '\0';
    while (continues(c)) {
        if (!take_line(c, &line, &n))
            return false;
        for (; n > 0 && (*line == ' ' || *line == '\t'); n--)
            line++;
        memcpy(name + n_name, line, n);
        n_name += n;
    }
    name[n_name] = '\0';
    sk_head_add(h, name, value);
    return true;
}

static bool take_request(struct cursor *c, struct asked *a)
{
    const char *line, *why;
    size_t n;
    int status;
    struct sk_head h;
    do {
        if (!take_line(c, &line, &n))
            return false;
    } while (n == 0 || *line == 0); /* empty lines in front */
    a->is_head = n > 5 && memcmp(line, "HEAD ", 5) == 0;
    sk_head_init(&h, n >= 8 && memcmp(line + n - 8, "HTTP/1.0", 8) == 0 ? "HTTP/1.0" : "HTTP/1.1");
    for (;;) {
        if (!take_line(c, &line, &n))
            return false;
        if (n == 0 || *line == ':' || *line == '\0') /* without a name the library takes it for the empty line */
            break;
        if (!add_field(&h, c, line, n))
            return false;
    }
    if (sk_head_check(&h, MAX_HEADER, MAX_BODY, &status, &why) != 0)
        return false;
    if (h.n_coding > 0)
        return take_chunks(c, a);
    if ((size_t)(c->end - c->p) < h.length)
        return false;
    memcpy(a->body, c->p, h.length);
    a->n_body = h.length;
    c->p += h.length;
    return true;
}

/* Nothing that follows a request that is not whole or not allowed may be taken for one. */
static void read_all_requests(const uint8_t *data, size_t n)
{
    struct cursor c = {(const char *)data, (const char *)data + n};
    char *room = decoded;
    n_asked = 0;
    for (;;) {
        struct asked *a = &asked[n_asked];
        *a = (struct asked){.body = room};
        a->good = take_request(&c, a);
        room += a->n_body;
        n_asked++;
        if (!a->good || n_asked == MAX_REQUESTS)
            return;
    }
}

/* --- the server --- */

static void on_closed(uv_handle_t *h)
{
    free(h->data);
}

static void on_free(void *user)
{
    struct exchange *x = user;
    n_freed++;
    uv_close((uv_handle_t *)&x->later, on_closed);
}

static void on_gone(void *user)
{
    struct exchange *x = user;
    uv_idle_stop(&x->later);
}

static void on_later(uv_idle_t *i)
{
    struct exchange *x = i->data;
    uv_idle_stop(i);
    if (x->stream) {
        sk_sse_event(sk_http_queue(x->r), NULL, "{}", 2);
        sk_http_end(x->r);
    } else {
        sk_http_reply(x->r, 200, NULL, "later", 5);
    }
    sk_http_run(http);
}

static void on_request(void *arg, struct sk_http_req *r)
{
    size_t n;
    const char *body = sk_http_body(r, &n);
    sk_assert(n_seen < n_asked);
    const struct asked *a = &asked[n_seen++];
    sk_assert(a->good);
    sk_assert(!a->is_head || strcmp(sk_http_method(r), "HEAD") == 0);
    sk_assert(n == a->n_body && memcmp(body, a->body, n) == 0);

    struct exchange *x = calloc(1, sizeof *x);
    const char kind = sk_http_path(r)[0] ? sk_http_path(r)[1] : '\0';
    x->r = r;
    x->stream = kind == 's';
    uv_idle_init(&loop, &x->later);
    x->later.data = x;
    sk_http_set(r, x, on_gone, on_free);
    if (x->stream)
        sk_http_stream(r, 200, NULL);
    if (kind == 's' || kind == 'l')
        uv_idle_start(&x->later, on_later);
    else
        sk_http_reply(r, 200, NULL, body, n);
}

static void stop_server(void)
{
    sk_http_close(http, NULL, NULL);
    uv_run(&loop, UV_RUN_DEFAULT);
    sk_assert(uv_loop_close(&loop) == 0);
    sk_listen_close(&listener, true);
    sk_cors_done(&cors);
    rmdir(getenv("SK_FUZZ_DIR"));
}

static void start_server(void)
{
    static char dir[64] = "/tmp/skein-fuzz-XXXXXX";
    char address[128];
    struct sk_err err;
    sk_log_init("fuzz", SK_LOG_ERROR);
    sk_assert(mkdtemp(dir) && setenv("SK_FUZZ_DIR", dir, 1) == 0);
    snprintf(address, sizeof address, "unix:%s/s", dir);
    sk_assert(sk_listen_open(address, 0600, &listener, &err) == 0);
    sk_assert(sk_cors_parse("https://a.example", &cors, &err) == 0);
    const struct sk_http_conf conf = {
        .fd = listener.fd, .is_unix = true, .limits = &limits, .cors = &cors, .on_request = on_request};
    listener.fd = -1;
    uv_loop_init(&loop);
    sk_assert(sk_http_open(&loop, &conf, &http, &err) == 0);
    atexit(stop_server);
}

/* --- what is answered --- */

static bool says(const char *head, const char *end, const char *line)
{
    const char *at = strcasestr(head, line);
    return at && at < end;
}

/* One answer; NULL = it is cut short, as a connection that is closed may leave it. */
static const char *skip_answer(const char *p, const char *end, bool is_head, bool *ret_closes)
{
    const char *body = strstr(p, "\r\n\r\n");
    if (!body)
        return NULL;
    body += 4;
    *ret_closes = says(p, body, "\r\nConnection: close\r\n");
    const char *length = strcasestr(p, "\r\nContent-Length: ");
    const bool chunked = says(p, body, "\r\nTransfer-Encoding: chunked\r\n");
    sk_assert(!(chunked && length && length < body));
    if (is_head || atoi(p + 9) < 200)
        return body;
    if (length && length < body) {
        long n = atol(length + 18);
        return n <= end - body ? body + n : NULL;
    }
    if (!chunked) { /* up to the end */
        *ret_closes = true;
        return end;
    }
    for (;;) {
        char *rest;
        long n = strtol(body, &rest, 16);
        if (rest == body || end - rest < n + 4)
            return NULL;
        sk_assert(memcmp(rest, "\r\n", 2) == 0 && memcmp(rest + 2 + n, "\r\n", 2) == 0);
        body = rest + n + 4;
        if (n == 0)
            return body;
    }
}

/* An answer for each request and no more; behind one that closes nothing. What the library says by itself has no id,
 * comes with its head twice, and is the last too. */
static void check_answers(const char *p, size_t n)
{
    const char *end = p + n;
    bool closes = false;
    size_t n_answer = 0, n_ok = 0;
    while (p && p < end) {
        sk_assert(!closes);
        sk_assert(end - p >= 12 && memcmp(p, "HTTP/1.", 7) == 0);
        const int status = atoi(p + 9);
        const char *next = strstr(p, "\r\n\r\n");
        if (status >= 200 && next && !says(p, next, "\r\nx-request-id: ")) {
            sk_assert(status >= 400);
            break;
        }
        if (status >= 200) {
            sk_assert(n_answer < n_asked);
            n_ok += status == 200;
            p = skip_answer(p, end, asked[n_answer++].is_head, &closes);
        } else {
            p = skip_answer(p, end, false, &closes);
        }
    }
    sk_assert(n_ok <= n_seen);
}

/* --- a client --- */

static bool turn(int fd, struct sk_buf *heard)
{
    char part[16384];
    uv_run(&loop, UV_RUN_NOWAIT);
    ssize_t n = recv(fd, part, sizeof part, MSG_DONTWAIT);
    if (n > 0)
        sk_assert(sk_buf_add(heard, part, (size_t)n) == 0);
    return n > 0;
}

static void listen_until_quiet(int fd, struct sk_buf *heard)
{
    for (int quiet = 0; quiet < QUIET_TURNS || sk_http_active(http) > 0; quiet++) {
        if (turn(fd, heard))
            quiet = 0;
        sk_assert(quiet < STUCK_TURNS);
    }
}

static void say(int fd, const uint8_t *p, size_t n, struct sk_buf *heard)
{
    while (n > 0) {
        ssize_t k = send(fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (k < 0 && !turn(fd, heard) && sk_http_connections(http) == 0)
            return; /* closed on us */
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static bool started;
    struct sockaddr_un un = {.sun_family = AF_UNIX};
    struct sk_buf heard;
    if (n > MAX_INPUT_BYTES)
        return 0;
    if (!started)
        start_server();
    started = true;
    read_all_requests(data, n);
    n_seen = n_freed = 0;
    sk_buf_init(&heard, 16 << 20);
    sk_buf_reserve(&heard, 1);

    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    snprintf(un.sun_path, sizeof un.sun_path, "%.100s", listener.name + 5);
    sk_assert(connect(fd, (struct sockaddr *)&un, sizeof un) == 0);
    size_t first = n % 3 == 0 ? n : n / 3; /* in one piece, or in two */
    say(fd, data, first, &heard);
    if (first < n) {
        turn(fd, &heard);
        say(fd, data + first, n - first, &heard);
    }
    listen_until_quiet(fd, &heard);
    if (n % 2 == 0) {
        shutdown(fd, SHUT_WR);
        listen_until_quiet(fd, &heard);
    }
    close(fd);
    for (int i = 0; sk_http_connections(http) > 0; i++) {
        uv_run(&loop, i < QUIET_TURNS ? UV_RUN_NOWAIT : UV_RUN_ONCE);
        sk_assert(i < STUCK_TURNS);
    }
    sk_assert(n_freed == n_seen && sk_http_active(http) == 0);
    check_answers(heard.p, heard.n);
    sk_buf_done(&heard);
    return 0;
}
