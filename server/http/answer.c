#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include "comm/base/json.h"
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/http/cors.h"
#include "server/http/mhd.h"
#include "server/http/sse.h"

enum {
    STREAM_BLOCK_BYTES = 1024, /* the library's buffer of an un-chunked stream (HTTP/1.0); chunks need none */
    MAX_HEADERS = SK_HTTP_MAX_HEADERS + 8,
    MAX_ERROR_BYTES = 4096,
    MAX_INTERJECTION_BYTES = 8192
};

/* --- headers --- */

struct headers {
    uint32_t n;
    struct {
        const char *name, *value;
    } more[MAX_HEADERS];
};

static void put(struct headers *all, const char *name, const char *value)
{
    if (!value)
        return;
    sk_assert(all->n < MAX_HEADERS);
    all->more[all->n].name = name;
    all->more[all->n++].value = value;
}

/* Caches must know that the answer depends on Origin even if this one does not allow it. */
static void put_cors(struct headers *all, const struct sk_http_req *r)
{
    const struct sk_cors *cors = r->http->conf.cors;
    if (!cors || (!cors->any && cors->n == 0))
        return;
    const char *allowed = sk_cors_allow(cors, sk_http_header(r, "Origin"));
    put(all, "Access-Control-Allow-Origin", allowed);
    put(all, "Access-Control-Expose-Headers", allowed ? SK_CORS_EXPOSED : NULL);
    put(all, "Vary", cors->n > 0 ? "Origin" : NULL);
}

/* What every answer has; `h` may be NULL. */
static void put_all(struct headers *all, const struct sk_http_req *r, const struct sk_http_headers *h)
{
    all->n = 0;
    put(all, "Content-Type", h && h->content_type ? h->content_type : "application/json");
    put(all, "x-request-id", r->id);
    put_cors(all, r);
    for (uint32_t i = 0; h && i < h->n; i++)
        put(all, h->more[i].name, h->more[i].value);
}

static void add_headers(struct MHD_Response *response, const struct headers *all)
{
    for (uint32_t i = 0; i < all->n; i++)
        MHD_add_response_header(response, all->more[i].name, all->more[i].value);
}

/* --- whole answers --- */

static void tell_answer(const struct sk_http_req *r, int status)
{
    const struct sk_http_conf *c = &r->http->conf;
    if (c->on_answer)
        c->on_answer(c->arg, r, status);
}

enum MHD_Result sk_answer_queue(struct sk_http_req *r)
{
    tell_answer(r, r->status);
    enum MHD_Result ok = MHD_queue_response(r->conn->mhd, (unsigned)r->status, r->response);
    MHD_destroy_response(r->response); /* the library holds its own reference */
    r->response = NULL;
    return ok;
}

/* The handler's answer exists: inside on_request the handler queues it on return, else the next MHD_run calls the
 * handler again. */
static void answer(struct sk_http_req *r, enum sk_exchange_phase phase, int status, struct MHD_Response *response)
{
    sk_assert(r->phase == SK_EXCHANGE_HANDLED);
    sk_exchange_to(r, phase);
    r->status = status;
    r->response = response;
    if (!response)
        sk_exchange_leave(r); /* out of memory: the connection is closed */
    if (!r->inside)
        sk_conn_resume(r->conn);
}

void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n)
{
    struct headers all;
    struct MHD_Response *response = MHD_create_response_from_buffer(n, (void *)body, MHD_RESPMEM_MUST_COPY);
    if (response) {
        put_all(&all, r, h);
        put(&all, "Connection", r->http->conf.fd < 0 ? "close" : NULL); /* quiescing: no further request is wanted */
        add_headers(response, &all);
    }
    sk_conn_unwatch(r->conn); /* a client that has closed its half may still read */
    sk_conn_due(r->conn, n);
    answer(r, SK_EXCHANGE_WHOLE, status, response);
}

/* --- refusals --- */

static void put_error(struct sk_buf *b, int code, const char *why)
{
    sk_buf_str(b, "{\"error\":{\"message\":");
    sk_json_quote(b, why, strlen(why));
    sk_buf_fmt(b, ",\"type\":\"%s\",\"param\":null,\"code\":\"%s\"}}", sk_err_type(code), sk_err_code(code));
}

static void put_refusal(struct headers *all, const struct sk_http_req *r, int code)
{
    put_all(all, r, NULL);
    put(all, "Retry-After", sk_err_retry(code) ? "1" : NULL);
    put(all, "Connection", "close");
}

static struct MHD_Response *refusal(const struct sk_http_req *r, int code, const char *why)
{
    struct headers all;
    struct sk_buf b;
    struct MHD_Response *response = NULL;
    sk_buf_init(&b, MAX_ERROR_BYTES);
    put_error(&b, code, why);
    if (!b.failed)
        response = MHD_create_response_from_buffer(b.n, b.p, MHD_RESPMEM_MUST_COPY);
    sk_buf_done(&b);
    if (response) {
        put_refusal(&all, r, code);
        add_headers(response, &all);
    }
    return response;
}

enum MHD_Result sk_answer_refuse(struct sk_http_req *r, int status, int code, const char *why)
{
    sk_log(SK_LOG_DEBUG, "http refused id=%s status=%d", r->id, status);
    sk_exchange_to(r, SK_EXCHANGE_WHOLE);
    sk_conn_due(r->conn, 0);
    r->status = status;
    r->response = refusal(r, code, why);
    return r->response ? sk_answer_queue(r) : MHD_NO;
}

static const char *reason(int status)
{
    return status == 408   ? "Request Timeout"
           : status == 413 ? "Content Too Large"
           : status == 500 ? "Internal Server Error"
                           : "Service Unavailable";
}

void sk_answer_interject(struct sk_http_req *r, int status, int code, const char *why)
{
    const struct sk_conn *c = r->conn;
    struct headers all;
    struct sk_buf body, b;
    tell_answer(r, status);
    sk_log(SK_LOG_DEBUG, "http refused id=%s status=%d", r->id, status);
    sk_buf_init(&body, MAX_ERROR_BYTES);
    sk_buf_init(&b, MAX_INTERJECTION_BYTES);
    put_error(&body, code, why);
    put_refusal(&all, r, code);
    sk_buf_fmt(&b, "HTTP/1.1 %d %s\r\n", status, reason(status));
    for (uint32_t i = 0; i < all.n; i++)
        sk_buf_fmt(&b, "%s: %s\r\n", all.more[i].name, all.more[i].value);
    sk_buf_fmt(&b, "Content-Length: %zu\r\n\r\n%s", body.n, body.failed ? "" : body.p);
    if (!b.failed && c->session)
        sk_tls_send(c->session, b.p, b.n);
    else if (!b.failed)
        (void)!send(c->fd, b.p, b.n, MSG_NOSIGNAL | MSG_DONTWAIT);
    sk_buf_done(&b);
    sk_buf_done(&body);
}

/* --- streams --- */

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
    sk_conn_suspend(r->conn);
    return 0;
}

void sk_http_stream(struct sk_http_req *r, int status, const struct sk_http_headers *h)
{
    struct headers all;
    if (r->is_head) { /* the library would send a chunk's end as a body, which breaks the framing */
        sk_http_reply(r, status, h, "", 0);
        return;
    }
    struct MHD_Response *response =
        MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, STREAM_BLOCK_BYTES, read_stream, r, NULL);
    if (response) {
        put_all(&all, r, h);
        put(&all, "Cache-Control", "no-cache");
        put(&all, "X-Accel-Buffering", "no");
        add_headers(response, &all);
    }
    r->last_ms = uv_now(r->http->loop);
    sk_conn_watch(r->conn);
    answer(r, SK_EXCHANGE_STREAM, status, response);
}

struct sk_buf *sk_http_queue(struct sk_http_req *r)
{
    return &r->queue;
}

void sk_http_wake(struct sk_http_req *r)
{
    if (r->phase != SK_EXCHANGE_STREAM || r->gone || r->is_cut)
        return;
    if (r->queue.failed) {
        r->is_cut = true;
        if (r->queue.failed == -SK_ENOMEM)
            sk_log(SK_LOG_WARN, "http cut id=%s: out of memory", r->id);
        else
            sk_log(SK_LOG_WARN, "http cut id=%s: %zu bytes wait for a slow reader", r->id, r->queue.n);
        sk_conn_cut(r->conn);
        return;
    }
    r->last_ms = uv_now(r->http->loop);
    sk_conn_resume(r->conn);
}

void sk_http_end(struct sk_http_req *r)
{
    if (r->phase == SK_EXCHANGE_STREAM)
        sk_conn_due(r->conn, r->queue.n);
    r->ended = true;
    sk_http_wake(r);
}

void sk_answer_keep_alive(struct sk_http_req *r, uint64_t now)
{
    if (r->phase != SK_EXCHANGE_STREAM || r->ended || now - r->last_ms < (uint64_t)r->http->conf.limits->keepalive_ms)
        return;
    sk_sse_comment(&r->queue);
    sk_http_wake(r);
}
