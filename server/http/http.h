/* Our small view of HTTP, behind which libmicrohttpd disappears: a request comes whole, a reply goes out whole or as a
 * stream that is pulled. All of it runs on the loop thread.
 *
 * Life of an exchange: HEAD -> BODY -> HANDLED -> (WHOLE | STREAM) -> CLOSED. `on_request` is called once, when the
 * body is complete; what is malformed, too large, too slow or too much (400, 408, 413, 414, 415, 431, 501, 503, 505) is
 * refused in here and never reaches it. The handler must sooner or later call exactly one of sk_http_reply /
 * sk_http_stream, at once or later from the loop. When the client goes away, `on_gone` is called once (never after the
 * last byte was sent); after that, or after the last byte, on_free. The request pointer is valid until on_free returns.
 */
#ifndef SK_HTTP_H
#define SK_HTTP_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "comm/base/buf.h"
#include "comm/base/err.h"
#include "comm/base/mem.h"

struct uv_loop_s;
struct sk_tls;
struct sk_cors;
struct sk_http;     /* a listening server */
struct sk_http_req; /* one exchange */

struct sk_http_limits {
    size_t max_body, max_header;
    int max_connections, request_timeout_ms, keepalive_ms; /* max_connections and max_header as they were at open */
    size_t max_stream_queue;                               /* bytes that wait for a slow reader before it is cut */
};
struct sk_http_conf {
    int fd;                              /* a listening socket (listen.h), taken over */
    bool is_unix;                        /* a Unix socket: peers have credentials, and no TLS is spoken */
    const struct sk_http_limits *limits; /* borrowed; changes are for the requests that come after */
    struct sk_tls *tls;                  /* borrowed; NULL = plain HTTP */
    const struct sk_cors *cors; /* borrowed; may change between requests; NULL = no browser of another origin */
    void *arg;
    void (*on_request)(void *arg, struct sk_http_req *r);
    /* For the figures: every answer once, when its head is on its way, with those that are made in here. The request
     * may be asked for what came of it: its path may be "". May be NULL. */
    void (*on_answer)(void *arg, const struct sk_http_req *r, int status);
};

/* -SK_ENOMEM, -SK_EIO. The descriptor is closed in any case. */
int sk_http_open(struct uv_loop_s *loop, const struct sk_http_conf *conf, struct sk_http **ret, struct sk_err *err);
uint32_t sk_http_connections(const struct sk_http *h);
void sk_http_quiesce(struct sk_http *h);        /* no new connections; running exchanges go on */
size_t sk_http_active(const struct sk_http *h); /* exchanges that came to on_request and are not over */
/* Ends every exchange and the daemon; `done` runs when the last handle is closed. Not from inside a callback of ours.
 */
void sk_http_close(struct sk_http *h, void (*done)(void *arg), void *arg);
/* Runs the library once: call after a batch of replies / sk_http_wake made outside of on_request (after all of an
 * engine step's). */
void sk_http_run(struct sk_http *h);

/* The request. Strings are borrowed, alive until on_free. */
const char *sk_http_method(const struct sk_http_req *r);                   /* "GET", ... */
const char *sk_http_path(const struct sk_http_req *r);                     /* without the query */
const char *sk_http_header(const struct sk_http_req *r, const char *name); /* NULL = absent */
const char *sk_http_body(const struct sk_http_req *r, size_t *ret_n);
const char *sk_http_id(const struct sk_http_req *r); /* x-request-id: the client's if it is sane, else ours */
void sk_http_set(struct sk_http_req *r, void *user, void (*on_gone)(void *user), void (*on_free)(void *user));

struct sk_http_peer {
    bool is_unix;
    uint32_t uid, gid; /* of the peer of a Unix socket when it connected (SO_PEERCRED) */
    int pid;
    char addr[64]; /* "127.0.0.1", "::1", "unix" */
};
void sk_http_peer(const struct sk_http_req *r, struct sk_http_peer *ret);

enum { SK_HTTP_MAX_HEADERS = 8 };
struct sk_http_headers {      /* of a reply; strings are borrowed for the call */
    const char *content_type; /* NULL = application/json */
    uint32_t n;
    struct {
        const char *name, *value; /* no line breaks; an entry without a value is left out */
    } more[SK_HTTP_MAX_HEADERS];
};
/* Whole reply; the body is copied. x-request-id, Content-Type and Content-Length are added. */
void sk_http_reply(struct sk_http_req *r, int status, const struct sk_http_headers *h, const char *body, size_t n);
/* Chunked reply of server-sent events: the head goes out now; bytes are what the owner pushes into the queue. A stream
 * that was silent for keepalive_ms gets a comment line. For HEAD it becomes an empty whole reply. */
void sk_http_stream(struct sk_http_req *r, int status, const struct sk_http_headers *h);
/* The stream's queue: append text (whole events), then sk_http_wake; wake never sends by itself, sk_http_run does (or
 * else the loop's next turn). A queue that overflows is left as it is: the next wake cuts the connection, and on_gone
 * follows. */
struct sk_buf *sk_http_queue(struct sk_http_req *r);
void sk_http_wake(struct sk_http_req *r);
void sk_http_end(struct sk_http_req *r); /* after what is queued, the stream is complete */

#endif
