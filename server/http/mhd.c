/* libmicrohttpd 0.9.75 in external-epoll mode on a libuv loop; the only file that includes microhttpd.h.
 *
 * What the library does not do for us, and what much below is about:
 *  1. MHD_resume_connection wakes nobody: after any number of resumes there must be one MHD_run ("kick", a timer of
 *     0 ms, so that all resumes of one turn of the loop share it: each MHD_run walks all suspended connections).
 *  2. A content reader that returns 0 without having suspended spins for ever.
 *  3. A suspended connection is deaf: its end is seen by a uv_poll of our own on the same descriptor, which must be
 *     stopped before the library closes it (that is, in request_completed).
 *  4. MHD_stop_daemon aborts if anything is suspended.
 *  5. It reads an edge-triggered epoll's event until a read comes short, and so misses a FIN that came in the same edge
 *     as the last bytes ("sweep" looks).
 *  6. Its time-out is of inactivity only, a byte a second keeps a request open: connections carry deadlines of our own
 *     ("sweep").
 *  7. At its connection limit it falls silent: ours is lower and answers 503. */
#include "server/http/http.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include <uv.h>
#include "comm/base/json.h"
#include "comm/base/log.h"
#include "comm/base/rng.h"
#include "server/http/head.h"
#include "server/http/listen.h"
#include "server/http/sse.h"

enum {
    SEND_BUFFER_BYTES = 64 << 10, /* the kernel's own tuning would take over 1 MB before we see a slow reader */
    STREAM_CHUNK_BYTES = 16 << 10,
    MAX_ID_BYTES = 128,
    SPARE_CONNECTIONS = 64 /* beyond max_connections: those get a 503 rather than silence */
};

/* Legal moves: HEAD -> BODY -> HANDLED -> WHOLE | STREAM; HEAD -> WHOLE (refused); any -> CLOSED. */
enum phase { PHASE_HEAD, PHASE_BODY, PHASE_HANDLED, PHASE_WHOLE, PHASE_STREAM, PHASE_CLOSED };

struct conn { /* a TCP connection; its requests come one after the other */
    struct conn *prev, *next;
    int fd;
    bool over;               /* beyond max_connections */
    uint64_t deadline;       /* loop time, ms, by which the client must have sent what is due; 0 = none is due */
    struct sk_http_req *req; /* the exchange that is going on */
};

struct sk_http_req {
    struct sk_http *http;
    struct MHD_Connection *mhd;
    struct conn *conn;
    struct sk_arena arena;
    struct sk_buf body, queue;
    const char *method, *path;
    char id[MAX_ID_BYTES + 1];
    enum phase phase;
    bool is_head;
    bool bad_url;   /* too long, or with a NUL in it */
    bool too_big;   /* a chunked body beyond max_body: the rest is thrown away */
    bool counted;   /* among n_active */
    bool inside;    /* on_request is on the stack */
    bool suspended; /* the library does not touch the connection */
    bool gone;      /* the client went away, or is being sent away */
    bool ended;     /* sk_http_end was called */
    bool is_cut;    /* a slow reader: the socket is shut, its end will be noticed */
    bool watching;  /* `poll` is open; the memory lives until it is closed */
    uv_poll_t poll;
    struct MHD_Response *response; /* WHOLE: made while suspended, to be queued by the next call of the handler */
    int status;
    uint64_t swallowed; /* bytes of the body thrown away */
    uint64_t last_ms;   /* STREAM: when something was last queued */
    void *user;
    void (*on_gone)(void *user);
    void (*on_free)(void *user);
};

struct sk_http {
    uv_loop_t *loop;
    struct sk_http_conf conf;
    struct MHD_Daemon *daemon;
    int port, listen_fd;
    uv_poll_t poll;   /* the library's epoll descriptor */
    uv_timer_t timer; /* the library's time-out, and the kick */
    uv_timer_t sweeper;
    uint32_t n_handles; /* uv handles that are not closed yet */
    uint32_t n_conn;
    size_t n_active; /* exchanges that reached on_request */
    struct conn *conns;
    bool kicked, closing;
    void (*done)(void *arg);
    void *done_arg;
};

/* --- the loop --- */

static void on_timer(uv_timer_t *t);

static void kick(struct sk_http *h)
{
    if (!h->kicked && !h->closing) {
        h->kicked = true;
        uv_timer_start(&h->timer, on_timer, 0, 0);
    }
}

static void run_once(struct sk_http *h)
{
    MHD_UNSIGNED_LONG_LONG ms;
    if (h->closing)
        return;
    h->kicked = false;
    MHD_run(h->daemon);
    if (h->kicked) /* a resume made inside: the timer is set */
        return;
    if (MHD_get_timeout(h->daemon, &ms) == MHD_YES)
        uv_timer_start(&h->timer, on_timer, ms, 0);
    else
        uv_timer_stop(&h->timer);
}

void sk_http_run(struct sk_http *h)
{
    run_once(h);
}

static void on_timer(uv_timer_t *t)
{
    run_once(t->data);
}

static void on_epoll(uv_poll_t *p, int status, int events)
{
    run_once(p->data);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct sk_http *h = handle->data;
    if (--h->n_handles > 0 || !h->closing)
        return;
    void (*done)(void *arg) = h->done;
    void *arg = h->done_arg;
    sk_free(h);
    if (done)
        done(arg);
}

/* --- the client's end --- */

static void req_free(struct sk_http_req *r)
{
    sk_arena_done(&r->arena);
    sk_buf_done(&r->body);
    sk_buf_done(&r->queue);
    sk_free(r);
}

static void on_watch_closed(uv_handle_t *handle)
{
    struct sk_http_req *r = handle->data;
    handle->data = r->http;
    on_handle_closed(handle);
    req_free(r);
}

static void resume(struct sk_http_req *r)
{
    if (!r->suspended)
        return;
    r->suspended = false;
    MHD_resume_connection(r->mhd);
    kick(r->http);
}

/* The exchange will not end well; the owner is told once. */
static void leave(struct sk_http_req *r)
{
    if (r->gone)
        return;
    r->gone = true;
    if (r->on_gone)
        r->on_gone(r->user);
}

/* FIN, RST and half-close alike: nobody waits for the answer. */
static void on_disconnect(uv_poll_t *p, int status, int events)
{
    struct sk_http_req *r = p->data;
    uv_poll_stop(p);
    leave(r);
    resume(r);
}

static void watch(struct sk_http_req *r)
{
    if (uv_poll_init(r->http->loop, &r->poll, r->conn->fd) != 0)
        return; /* out of memory: the end is found by the next write */
    r->poll.data = r;
    r->watching = true;
    r->http->n_handles++;
    uv_poll_start(&r->poll, UV_DISCONNECT, on_disconnect);
}

/* Everything else follows from the end of the socket: the library or on_disconnect sees it. */
static void cut(struct conn *c)
{
    shutdown(c->fd, SHUT_RDWR);
}

/* --- replies --- */

static void add_headers(struct sk_http_req *r, struct MHD_Response *response, const struct sk_http_headers *h)
{
    const struct {
        const char *name, *value;
    } extra[] = {
        {MHD_HTTP_HEADER_CONTENT_TYPE, h && h->content_type ? h->content_type : "application/json"},
        {"x-request-id", r->id},
        {MHD_HTTP_HEADER_ALLOW, h ? h->allow : NULL},
        {MHD_HTTP_HEADER_RETRY_AFTER, h ? h->retry_after : NULL},
        {MHD_HTTP_HEADER_WWW_AUTHENTICATE, h ? h->www_authenticate : NULL},
    };
    for (size_t i = 0; i < sizeof extra / sizeof extra[0]; i++) {
        if (extra[i].value)
            MHD_add_response_header(response, extra[i].name, extra[i].value);
    }
}

static enum MHD_Result queue_response(struct sk_http_req *r)
{
    enum MHD_Result ok = MHD_queue_response(r->mhd, (unsigned)r->status, r->response);
    MHD_destroy_response(r->response); /* the library holds its own reference */
    r->response = NULL;
    return ok;
}

/* The handler's answer exists: inside on_request the handler queues it on return, else the next MHD_run calls the
 * handler again. */
static void answer(struct sk_http_req *r, enum phase phase, int status, struct MHD_Response *response)
{
    sk_assert(r->phase == PHASE_HANDLED);
    r->phase = phase;
    r->status = status;
    r->response = response;
    if (!response)
        leave(r); /* out of memory: the connection is closed */
    if (!r->inside)
        resume(r);
}

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)body, MHD_RESPMEM_MUST_COPY);
    if (response)
        add_headers(r, response, h);
    answer(r, PHASE_WHOLE, status, response);
}

static void put_error(struct sk_buf *b, int code, const char *why)
{
    sk_buf_str(b, "{\"error\":{\"message\":");
    sk_json_quote(b, why, strlen(why));
    sk_buf_fmt(b, ",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}", sk_err_type(code), sk_err_code(code));
}

static struct MHD_Response *refusal(struct sk_http_req *r, int code, const char *why)
{
    struct sk_buf b;
    struct MHD_Response *response = NULL;
    sk_buf_init(&b, 4096);
    put_error(&b, code, why);
    if (!b.failed)
        response = MHD_create_response_from_buffer(b.n, b.p, MHD_RESPMEM_MUST_COPY);
    sk_buf_done(&b);
    if (response) {
        const struct sk_http_headers h = {.retry_after = sk_err_retry(code) ? "1" : NULL};
        add_headers(r, response, &h);
        MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
    }
    return response;
}

/* Our own answer to what never reaches on_request. */
static enum MHD_Result refuse(struct sk_http_req *r, int status, int code, const char *why)
{
    sk_log(SK_LOG_DEBUG, "http refused id=%s status=%d", r->id, status);
    r->phase = PHASE_WHOLE;
    r->conn->deadline = 0;
    r->status = status;
    r->response = refusal(r, code, why);
    return r->response ? queue_response(r) : MHD_NO;
}

/* In the middle of a request, where the library takes no answer. Nothing else has been written since its first line, so
 * that an answer of our own is in place; the connection must then be closed. */
static void interject(const struct conn *c, const char *status, int code, const char *why)
{
    struct sk_buf body, b;
    sk_buf_init(&body, 4096);
    sk_buf_init(&b, 8192);
    put_error(&body, code, why);
    sk_buf_fmt(&b,
               "HTTP/1.1 %s\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
               status, body.n, body.failed ? "" : body.p);
    if (!b.failed)
        (void)!send(c->fd, b.p, b.n, MSG_NOSIGNAL | MSG_DONTWAIT);
    sk_buf_done(&b);
    sk_buf_done(&body);
}

static ssize_t read_stream(void *cls, uint64_t pos, char *buf, size_t max)
{
    struct sk_http_req *r = cls;
    if (r->gone)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    if (r->queue.n > 0) {
        size_t n = r->queue.n < max ? r->queue.n : max;
        memcpy(buf, r->queue.p, n);
        sk_buf_drop(&r->queue, n);
        return (ssize_t)n;
    }
    if (r->ended)
        return MHD_CONTENT_READER_END_OF_STREAM;
    r->suspended = true;
    MHD_suspend_connection(r->mhd);
    return 0;
}

void sk_http_stream(struct sk_http_req *r, int status, const struct sk_http_headers *h)
{
    if (r->is_head) { /* the library would send a chunk's end as a body, which breaks the framing */
        sk_http_reply(r, status, h, "", 0);
        return;
    }
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_CHUNK_BYTES, read_stream, r, NULL);
    if (response) {
        add_headers(r, response, h);
        MHD_add_response_header(response, MHD_HTTP_HEADER_CACHE_CONTROL, "no-cache");
        MHD_add_response_header(response, "X-Accel-Buffering", "no");
    }
    r->last_ms = uv_now(r->http->loop);
    if (!r->watching)
        watch(r);
    answer(r, PHASE_STREAM, status, response);
}

struct sk_buf *sk_http_queue(struct sk_http_req *r)
{
    return &r->queue;
}

void sk_http_wake(struct sk_http_req *r)
{
    if (r->phase != PHASE_STREAM || r->gone || r->is_cut)
        return;
    if (r->queue.failed) {
        r->is_cut = true;
        sk_log(SK_LOG_WARN, "http cut id=%s: %zu bytes wait for a slow reader", r->id, r->queue.n);
        cut(r->conn);
        return;
    }
    r->last_ms = uv_now(r->http->loop);
    resume(r);
}

void sk_http_end(struct sk_http_req *r)
{
    r->ended = true;
    sk_http_wake(r);
}

/* --- the request --- */

static void set_id(struct sk_http_req *r)
{
    static const char sane[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    const char *theirs = MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, "x-request-id");
    size_t n = theirs ? strspn(theirs, sane) : 0;
    if (n > 0 && n <= MAX_ID_BYTES && theirs[n] == '\0')
        memcpy(r->id, theirs, n + 1);
    else
        snprintf(r->id, sizeof r->id, "req-%016llx", (unsigned long long)sk_rng_seed());
}

static enum MHD_Result add_field(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
    sk_head_add(cls, name, value);
    return MHD_YES;
}

/* The absolute form, "http://host/path", is for proxies, but every server must take it (RFC 9112, section 3.2.2). */
static const char *path_of(const char *url)
{
    static const char *const schemes[] = {"http://", "https://"};
    for (int i = 0; i < 2; i++) {
        size_t n = strlen(schemes[i]);
        if (strncasecmp(url, schemes[i], n) != 0)
            continue;
        url += n + strcspn(url + n, "/");
        return *url ? url : "/";
    }
    return url;
}

/* First call: the head is there, the body is not. */
static enum MHD_Result take_head(struct sk_http_req *r, const char *url, const char *method, const char *version)
{
    const struct sk_http_conf *conf = &r->http->conf;
    struct sk_head head;
    int status;
    const char *why;

    set_id(r);
    if (r->http->closing || r->conn->over)
        return refuse(r, 503, SK_EUNAVAIL, "The server has too many connections.");
    if (r->bad_url)
        return refuse(r, 414, SK_ETOOBIG, "The URL is too long or has a NUL in it.");
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return refuse(r, 505, SK_EUNSUP, "The HTTP version is not supported.");
    sk_head_init(&head, version);
    MHD_get_connection_values(r->mhd, MHD_HEADER_KIND, add_field, &head);
    int rc = sk_head_check(&head, conf->max_header, conf->max_body, &status, &why);
    if (rc != 0)
        return refuse(r, status, rc, why);

    r->method = sk_arena_strndup(&r->arena, method, strlen(method));
    url = path_of(url);
    r->path = sk_arena_strndup(&r->arena, url, strlen(url));
    if (!r->method || !r->path)
        return refuse(r, 500, SK_ENOMEM, "Out of memory.");
    r->is_head = strcmp(method, "HEAD") == 0;
    r->phase = PHASE_BODY;
    return MHD_YES;
}

/* A chunked body says its size only at its end, and the library takes an answer only there: what is too much is read
 * and forgotten, within reason. */
static enum MHD_Result take_body(struct sk_http_req *r, const char *p, size_t n)
{
    if (!r->too_big && sk_buf_add(&r->body, p, n) == 0)
        return MHD_YES;
    r->too_big = true;
    r->swallowed += n;
    if (r->swallowed <= r->http->conf.max_body)
        return MHD_YES;
    interject(r->conn, "413 Content Too Large", SK_ETOOBIG, "The request body is too large.");
    return MHD_NO;
}

static enum MHD_Result hand_over(struct sk_http_req *r)
{
    r->conn->deadline = 0;
    if (r->too_big)
        return refuse(r, 413, SK_ETOOBIG, "The request body is too large.");
    r->phase = PHASE_HANDLED;
    r->counted = true;
    r->http->n_active++;
    r->inside = true;
    r->http->conf.on_request(r->http->conf.arg, r);
    r->inside = false;
    if (r->response)
        return queue_response(r);
    if (r->phase != PHASE_HANDLED)
        return MHD_NO;
    watch(r);
    r->suspended = true;
    MHD_suspend_connection(r->mhd);
    return MHD_YES;
}

static enum MHD_Result handle(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                              const char *version, const char *upload, size_t *upload_n, void **req)
{
    struct sk_http_req *r = *req;
    if (!r)
        return MHD_NO; /* no memory when its first line came */
    if (r->gone)
        return MHD_NO;
    switch (r->phase) {
    case PHASE_HEAD:
        return take_head(r, url, method, version);
    case PHASE_BODY:
        if (*upload_n > 0) {
            size_t n = *upload_n;
            *upload_n = 0;
            return take_body(r, upload, n);
        }
        return hand_over(r);
    case PHASE_WHOLE:
    case PHASE_STREAM: /* answered while suspended */
        return r->response ? queue_response(r) : MHD_NO;
    case PHASE_HANDLED:
    case PHASE_CLOSED:
        break;
    }
    return MHD_NO;
}

static struct conn *conn_of(struct MHD_Connection *mhd)
{
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

/* The request line is there, so there is a request; what is returned is the handler's *req. `uri` is as sent. */
static void *request_begins(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct sk_http *h = cls;
    struct conn *c = conn_of(mhd);
    struct sk_http_req *r = c ? sk_calloc(1, sizeof *r) : NULL;
    if (!r)
        return NULL;
    r->http = h;
    r->mhd = mhd;
    r->conn = c;
    r->bad_url = strlen(uri) > h->conf.max_header / 2 || strstr(uri, "%00");
    sk_arena_init(&r->arena, 8 * h->conf.max_body + (1 << 20));
    sk_buf_init(&r->body, h->conf.max_body);
    sk_buf_init(&r->queue, h->conf.max_stream_queue);
    c->req = r;
    c->deadline = uv_now(h->loop) + (uint64_t)h->conf.request_timeout_ms;
    return r;
}

static void request_completed(void *cls, struct MHD_Connection *mhd, void **req, enum MHD_RequestTerminationCode code)
{
    struct sk_http_req *r = *req;
    struct sk_http *h = cls;
    if (!r)
        return;
    *req = NULL;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        leave(r);
    r->phase = PHASE_CLOSED;
    r->conn->req = NULL;
    r->conn->deadline = uv_now(h->loop) + (uint64_t)h->conf.request_timeout_ms; /* for the next one's first line */
    if (r->response)
        MHD_destroy_response(r->response);
    if (r->on_free)
        r->on_free(r->user);
    h->n_active -= r->counted;
    if (r->watching)
        uv_close((uv_handle_t *)&r->poll, on_watch_closed);
    else
        req_free(r);
}

/* --- connections --- */

static void conn_begins(struct sk_http *h, struct MHD_Connection *mhd, void **socket_context)
{
    int bytes = SEND_BUFFER_BYTES;
    struct conn *c = sk_calloc(1, sizeof *c);
    *socket_context = c;
    if (!c)
        return; /* its first request is refused */
    c->fd = MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    setsockopt(c->fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    c->over = h->n_conn >= (uint32_t)h->conf.max_connections;
    c->deadline = uv_now(h->loop) + (uint64_t)h->conf.request_timeout_ms;
    c->next = h->conns;
    if (c->next)
        c->next->prev = c;
    h->conns = c;
    if (h->n_conn++ == 0 && !h->closing)
        uv_timer_again(&h->sweeper);
}

static void conn_ends(struct sk_http *h, struct conn *c)
{
    if (!c)
        return;
    *(c->prev ? &c->prev->next : &h->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    sk_free(c);
    if (--h->n_conn == 0 && !h->closing)
        uv_timer_stop(&h->sweeper);
}

static void on_connection(void *cls, struct MHD_Connection *mhd, void **socket_context,
                          enum MHD_ConnectionNotificationCode code)
{
    if (code == MHD_CONNECTION_NOTIFY_STARTED)
        conn_begins(cls, mhd, socket_context);
    else
        conn_ends(cls, *socket_context);
}

static void expire(struct conn *c)
{
    if (c->req)
        interject(c, "408 Request Timeout", SK_ETIMEOUT, "The request took too long to arrive.");
    c->deadline = 0;
    cut(c);
}

static void keep_alive(struct sk_http_req *r, uint64_t now)
{
    if (r->phase != PHASE_STREAM || r->ended || now - r->last_ms < (uint64_t)r->http->conf.keepalive_ms)
        return;
    sk_sse_comment(&r->queue);
    sk_http_wake(r);
}

/* A client that owes us bytes and has closed: the shutdown of what is closed already makes the library's epoll look at
 * it once more. A half-close behind a whole request is none: by then nothing is due. */
static void notice_end(const struct conn *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        shutdown(c->fd, SHUT_RD);
}

static void on_sweep(uv_timer_t *t)
{
    struct sk_http *h = t->data;
    uint64_t now = uv_now(h->loop);
    for (struct conn *c = h->conns; c; c = c->next) {
        if (c->deadline)
            notice_end(c);
        if (c->deadline && c->deadline <= now)
            expire(c);
        else if (c->req)
            keep_alive(c->req, now);
    }
}

static void log_library(void *cls, const char *fmt, va_list ap)
{
    char line[256];
    vsnprintf(line, sizeof line, fmt, ap);
    line[strcspn(line, "\n")] = '\0';
    sk_log(SK_LOG_DEBUG, "http library: %s", line);
}

/* --- open, close --- */

static struct MHD_Daemon *start_daemon(struct sk_http *h)
{
    const struct sk_http_conf *c = &h->conf;
    return MHD_start_daemon(
        MHD_USE_EPOLL | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL, NULL, handle, h, /* */
        MHD_OPTION_EXTERNAL_LOGGER, log_library, NULL, MHD_OPTION_LISTEN_SOCKET, h->listen_fd,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, 2 * c->max_header, MHD_OPTION_CONNECTION_LIMIT,
        (unsigned)(c->max_connections + SPARE_CONNECTIONS),
        /* for readers that stop in the middle of a whole answer; the rest has deadlines of ours */
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)(c->request_timeout_ms / 1000 + 2), MHD_OPTION_URI_LOG_CALLBACK,
        request_begins, h, MHD_OPTION_NOTIFY_COMPLETED, request_completed, h, MHD_OPTION_NOTIFY_CONNECTION,
        on_connection, h, MHD_OPTION_SIGPIPE_HANDLED_BY_APP, 1, MHD_OPTION_END);
}

static uint64_t sweep_ms(const struct sk_http_conf *c)
{
    int least = c->keepalive_ms < c->request_timeout_ms ? c->keepalive_ms : c->request_timeout_ms;
    int ms = least / 4;
    return (uint64_t)(ms < 25 ? 25 : ms > 1000 ? 1000 : ms);
}

static void open_handles(struct sk_http *h)
{
    int fd = MHD_get_daemon_info(h->daemon, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    int rc = uv_poll_init(h->loop, &h->poll, fd);
    sk_assert(rc == 0);
    uv_timer_init(h->loop, &h->timer);
    uv_timer_init(h->loop, &h->sweeper);
    h->poll.data = h->timer.data = h->sweeper.data = h;
    h->n_handles = 3;
    uv_poll_start(&h->poll, UV_READABLE, on_epoll);
    uv_timer_start(&h->timer, on_timer, 0, 0);
    uv_timer_start(&h->sweeper, on_sweep, sweep_ms(&h->conf), sweep_ms(&h->conf));
    uv_timer_stop(&h->sweeper); /* uv_timer_again starts it with the first connection */
}

int sk_http_open(struct uv_loop_s *loop, const struct sk_http_conf *conf, struct sk_http **ret, struct sk_err *err)
{
    struct sk_http *h = sk_calloc(1, sizeof *h);
    if (!h)
        return sk_err_set(err, SK_ENOMEM, NULL, "out of memory");
    h->loop = loop;
    h->conf = *conf;
    h->conf.host = NULL; /* the caller's string is not kept */
    int rc = sk_listen(conf->host, conf->port, &h->listen_fd, &h->port, err);
    if (rc != 0)
        goto fail;
    h->daemon = start_daemon(h);
    if (!h->daemon) {
        close(h->listen_fd);
        rc = sk_err_set(err, SK_EIO, NULL, "the HTTP library does not start");
        goto fail;
    }
    open_handles(h);
    *ret = h;
    return 0;
fail:
    sk_free(h);
    return rc;
}

void sk_http_quiesce(struct sk_http *h)
{
    if (h->listen_fd < 0)
        return;
    MHD_quiesce_daemon(h->daemon);
    close(h->listen_fd);
    h->listen_fd = -1;
}

void sk_http_close(struct sk_http *h, void (*done)(void *arg), void *arg)
{
    sk_http_quiesce(h);
    h->closing = true;
    h->done = done;
    h->done_arg = arg;
    for (struct conn *c = h->conns; c; c = c->next) {
        if (c->req) {
            leave(c->req);
            resume(c->req);
        }
    }
    MHD_run(h->daemon); /* what was resumed must have left the list of the suspended */
    uv_poll_stop(&h->poll);
    MHD_stop_daemon(h->daemon);
    uv_close((uv_handle_t *)&h->poll, on_handle_closed);
    uv_close((uv_handle_t *)&h->timer, on_handle_closed);
    uv_close((uv_handle_t *)&h->sweeper, on_handle_closed);
}

/* --- the owner's view --- */

int sk_http_port(const struct sk_http *h)
{
    return h->port;
}

size_t sk_http_active(const struct sk_http *h)
{
    return h->n_active;
}

const char *sk_http_method(const struct sk_http_req *r)
{
    return r->method;
}

const char *sk_http_path(const struct sk_http_req *r)
{
    return r->path;
}

const char *sk_http_header(const struct sk_http_req *r, const char *name)
{
    return MHD_lookup_connection_value(r->mhd, MHD_HEADER_KIND, name);
}

const char *sk_http_body(const struct sk_http_req *r, size_t *ret_n)
{
    *ret_n = r->body.n;
    return r->body.p ? r->body.p : "";
}

const char *sk_http_id(const struct sk_http_req *r)
{
    return r->id;
}

void sk_http_set(struct sk_http_req *r, void *user, void (*on_gone)(void *user), void (*on_free)(void *user))
{
    r->user = user;
    r->on_gone = on_gone;
    r->on_free = on_free;
}
