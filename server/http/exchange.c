#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include "comm/base/mem.h"
#include "comm/base/rng.h"
#include "server/http/head.h"
#include "server/http/mhd.h"

enum {
    MAX_BODIES = 32,              /* times max_body: what all requests' bodies may take together */
    MAX_TRUSTED_LENGTH = 64 << 10 /* allocated on the word of Content-Length */
};

void sk_exchange_to(struct sk_http_req *r, enum sk_exchange_phase phase)
{
    static const uint8_t legal[] = {
        [SK_EXCHANGE_HEAD] = 1 << SK_EXCHANGE_BODY | 1 << SK_EXCHANGE_WHOLE | 1 << SK_EXCHANGE_CLOSED,
        [SK_EXCHANGE_BODY] = 1 << SK_EXCHANGE_HANDLED | 1 << SK_EXCHANGE_WHOLE | 1 << SK_EXCHANGE_CLOSED,
        [SK_EXCHANGE_HANDLED] = 1 << SK_EXCHANGE_WHOLE | 1 << SK_EXCHANGE_STREAM | 1 << SK_EXCHANGE_CLOSED,
        [SK_EXCHANGE_WHOLE] = 1 << SK_EXCHANGE_CLOSED,
        [SK_EXCHANGE_STREAM] = 1 << SK_EXCHANGE_CLOSED,
        [SK_EXCHANGE_CLOSED] = 0,
    };
    sk_assert(legal[r->phase] >> phase & 1);
    r->phase = phase;
}

void sk_exchange_leave(struct sk_http_req *r)
{
    if (r->gone)
        return;
    r->gone = true;
    if (r->on_gone)
        r->on_gone(r->user);
}

/* --- its beginning --- */

/* Not to be guessed, and never the same twice in a process. */
static void make_id(struct sk_http_req *r)
{
    struct sk_http *h = r->http;
    uint32_t out[4];
    const uint32_t ctr[4] = {(uint32_t)h->n_id, (uint32_t)(h->n_id >> 32)};
    h->n_id++;
    sk_philox(h->id_key, ctr, out);
    snprintf(r->id, sizeof r->id, "req-%08" PRIx32 "%08" PRIx32, out[0], out[1]);
}

static bool has_control(const char *s)
{
    for (; *s; s++) {
        if ((unsigned char)*s < ' ' || *s == 0x7f)
            return true;
    }
    return false;
}

/* The request line is there, so there is a request; what is returned is the handler's *req. `uri` is as sent, so that
 * the path, which comes decoded, is never longer. */
void *sk_exchange_begin(void *cls, const char *uri, struct MHD_Connection *mhd)
{
    struct sk_http *h = cls;
    const struct sk_http_limits *l = h->conf.limits;
    struct sk_conn *c = sk_conn_of(mhd);
    size_t n = strlen(uri);
    struct sk_http_req *r = sk_calloc(1, sizeof *r + n + 1);
    if (!r)
        return NULL;
    r->http = h;
    r->conn = c;
    r->long_url = n > l->max_header / 2;
    r->bad_url = strstr(uri, "%00") || has_control(uri);
    sk_buf_init(&r->body, l->max_body);
    sk_buf_init(&r->queue, l->max_stream_queue);
    make_id(r);
    c->req = r;
    sk_conn_greet(c);
    sk_conn_due(c, 0);
    return r;
}

static void take_their_id(struct sk_http_req *r)
{
    static const char sane[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.:";
    const char *theirs = sk_http_header(r, "x-request-id");
    size_t n = theirs ? strspn(theirs, sane) : 0;
    if (n > 0 && n <= SK_MHD_MAX_ID_BYTES && theirs[n] == '\0')
        memcpy(r->id, theirs, n + 1);
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
    const struct sk_http *h = r->http;
    const struct sk_http_limits *l = h->conf.limits;
    struct sk_head head;
    int status;
    const char *why;

    take_their_id(r);
    if (h->closing || r->conn->over)
        return sk_answer_refuse(r, 503, SK_EUNAVAIL, "The server has too many connections.");
    if (r->long_url)
        return sk_answer_refuse(r, 414, SK_ETOOBIG, "The URL is too long.");
    if (r->bad_url)
        return sk_answer_refuse(r, 400, SK_EINVAL, "The URL has a control character in it.");
    if (strlen(method) > SK_MHD_MAX_METHOD_BYTES)
        return sk_answer_refuse(r, 501, SK_ENOTIMPL, "The method is none that this server knows.");
    if (strcmp(version, "HTTP/1.1") != 0 && strcmp(version, "HTTP/1.0") != 0)
        return sk_answer_refuse(r, 505, SK_EUNSUP, "The HTTP version is not supported.");
    sk_head_init(&head, version);
    MHD_get_connection_values(r->conn->mhd, MHD_HEADER_KIND, add_field, &head);
    int rc = sk_head_check(&head, l->max_header, l->max_body, &status, &why);
    if (rc != 0)
        return sk_answer_refuse(r, status, rc, why);
    if (h->body_bytes + head.length > MAX_BODIES * l->max_body)
        return sk_answer_refuse(r, 503, SK_EUNAVAIL, "Too many large requests are being received.");

    strcpy(r->method, method);
    strcpy(r->path, path_of(url));
    r->n_length = (size_t)head.length;
    r->is_head = strcmp(method, "HEAD") == 0;
    sk_exchange_to(r, SK_EXCHANGE_BODY);
    return MHD_YES;
}

/* --- its body --- */

static int keep_part(struct sk_http_req *r, const char *p, size_t n)
{
    size_t before = r->body.cap;
    if (before == 0)
        sk_buf_reserve(&r->body, r->n_length < MAX_TRUSTED_LENGTH ? r->n_length : MAX_TRUSTED_LENGTH);
    int rc = sk_buf_add(&r->body, p, n);
    r->http->body_bytes += r->body.cap - before;
    return rc;
}

static void drop_body(struct sk_http_req *r)
{
    r->http->body_bytes -= r->body.cap;
    sk_buf_done(&r->body);
}

/* A chunked body says its size only at its end, and the library takes an answer only there: what is too much is read
 * and forgotten, within reason. */
static enum MHD_Result take_body(struct sk_http_req *r, const char *p, size_t n)
{
    const struct sk_http_limits *l = r->http->conf.limits;
    if (r->http->body_bytes > MAX_BODIES * l->max_body) {
        sk_answer_interject(r, 503, SK_EUNAVAIL, "Too many large requests are being received.");
        return MHD_NO;
    }
    if (!r->too_big && keep_part(r, p, n) == 0)
        return MHD_YES;
    if (r->body.failed == -SK_ENOMEM) {
        sk_answer_interject(r, 500, SK_ENOMEM, "Out of memory.");
        return MHD_NO;
    }
    r->too_big = true;
    drop_body(r);
    r->swallowed += n;
    if (r->swallowed <= l->max_body)
        return MHD_YES;
    sk_answer_interject(r, 413, SK_ETOOBIG, "The request body is too large.");
    return MHD_NO;
}

/* --- its owner --- */

static enum MHD_Result hand_over(struct sk_http_req *r)
{
    struct sk_http *h = r->http;
    r->conn->deadline = 0;
    if (r->too_big)
        return sk_answer_refuse(r, 413, SK_ETOOBIG, "The request body is too large.");
    sk_exchange_to(r, SK_EXCHANGE_HANDLED);
    r->counted = true;
    h->n_active++;
    r->inside = true;
    h->conf.on_request(h->conf.arg, r);
    r->inside = false;
    if (r->response)
        return sk_answer_queue(r);
    if (r->phase != SK_EXCHANGE_HANDLED)
        return MHD_NO;
    sk_conn_watch(r->conn);
    sk_conn_suspend(r->conn);
    return MHD_YES;
}

enum MHD_Result sk_exchange_handle(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                                   const char *version, const char *upload, size_t *upload_n, void **req)
{
    struct sk_http_req *r = *req;
    if (!r)
        return MHD_NO; /* no memory when its first line came */
    if (r->gone)
        return MHD_NO;
    switch (r->phase) {
    case SK_EXCHANGE_HEAD:
        return take_head(r, url, method, version);
    case SK_EXCHANGE_BODY:
        if (*upload_n > 0) {
            size_t n = *upload_n;
            *upload_n = 0;
            return take_body(r, upload, n);
        }
        return hand_over(r);
    case SK_EXCHANGE_WHOLE:
    case SK_EXCHANGE_STREAM: /* answered while suspended */
        return r->response ? sk_answer_queue(r) : MHD_NO;
    case SK_EXCHANGE_HANDLED:
    case SK_EXCHANGE_CLOSED:
        break;
    }
    return MHD_NO;
}

/* --- its end --- */

void sk_exchange_complete(void *cls, struct MHD_Connection *mhd, void **req, enum MHD_RequestTerminationCode code)
{
    struct sk_http_req *r = *req;
    struct sk_http *h = cls;
    if (!r)
        return;
    *req = NULL;
    if (code != MHD_REQUEST_TERMINATED_COMPLETED_OK)
        sk_exchange_leave(r);
    sk_exchange_to(r, SK_EXCHANGE_CLOSED);
    sk_conn_unwatch(r->conn);
    sk_conn_due(r->conn, 0); /* for the next one's first line */
    r->conn->req = NULL;
    if (r->response)
        MHD_destroy_response(r->response);
    if (r->on_free)
        r->on_free(r->user);
    h->n_active -= r->counted;
    drop_body(r);
    sk_buf_done(&r->queue);
    sk_free(r);
}

/* --- the owner's view --- */

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
    return MHD_lookup_connection_value(r->conn->mhd, MHD_HEADER_KIND, name);
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
