/* What the files of this folder share; nobody else includes it. libmicrohttpd 0.9.75 runs in external-epoll mode on a
 * libuv loop:
 *
 *   mhd.c       the library's daemon and the loop         conn.c    connections: accepted, watched, timed, cut
 *   exchange.c  a request from its first line to its end  answer.c  what goes out: whole answers, streams, refusals
 *
 * What the library does not do for us, and what much in here is about:
 *  1. MHD_resume_connection wakes nobody: after any number of resumes there must be one MHD_run ("kick": at
 *     the loop's next turn, so that all resumes of this one share it: each MHD_run walks all suspended connections).
 *  2. A content reader that returns 0 without having suspended spins for ever.
 *  3. A suspended connection is deaf: its end is seen by a uv_poll of our own on the same descriptor.
 *  4. MHD_stop_daemon aborts if anything is suspended.
 *  5. It reads an edge-triggered epoll's event until a read comes short or its buffer is full, and so misses a FIN that
 *     came in the same edge as the last bytes, and requests that were pipelined beyond the buffer ("sweep" looks).
 *  6. Its time-out is of inactivity only, a byte a second keeps a request open: connections carry deadlines of our own
 *     ("sweep"), and it has none.
 *  7. At its connection limit it falls silent, and out of descriptors with nothing open it spins: we accept ourselves.
 *  8. In the middle of a TLS handshake it wants to run again at once, for as long as that takes ("rest").
 *  9. It answers a bad Content-Length and an unknown version of HTTP before anything of ours is called, in HTML. */
#ifndef SK_MHD_H
#define SK_MHD_H
#include <microhttpd.h>
#include <uv.h>
#include "comm/base/buf.h"
#include "server/http/http.h"
#include "server/http/tls.h"

enum { SK_MHD_MAX_ID_BYTES = 128, SK_MHD_MAX_METHOD_BYTES = 23 };

struct sk_http {
    uv_loop_t *loop;
    struct sk_http_conf conf; /* conf.fd is -1 once it is closed */
    struct MHD_Daemon *daemon;
    uv_poll_t poll;     /* the library's epoll descriptor */
    uv_poll_t door;     /* the listening socket */
    uv_idle_t again;    /* the kick */
    uv_timer_t sweeper; /* runs while there are connections or the door is shut */
    uint32_t n_handles; /* uv handles that are not closed yet */
    uint32_t n_conn;
    size_t n_active;   /* exchanges that reached on_request */
    size_t body_bytes; /* of all exchanges */
    struct sk_conn *conns;
    struct sk_conn *newcomer; /* on its way through MHD_add_connection */
    uint64_t complained_ms;   /* when the log last heard why the door is shut */
    uint32_t id_key[2];       /* request ids are a permutation of 0, 1, 2... under this key */
    uint64_t n_id;
    uint32_t n_awake; /* TLS connections in their handshake that the library looks at */
    bool kicked, running, closing;
    bool is_shut; /* nobody is accepted for now */
    void (*done)(void *arg);
    void *done_arg;
};

struct sk_conn {    /* a connection; its requests come one after the other */
    uv_poll_t poll; /* its end, while the library is deaf */
    struct sk_http *http;
    struct MHD_Connection *mhd;
    struct sk_http_req *req; /* the exchange that is going on */
    struct gnutls_session_int *session;
    struct sk_tls_pair *pair;
    uint64_t deadline; /* loop time, ms, by which the client must have sent or taken what is due; 0 = nothing is */
    int fd;
    bool has_poll;  /* `poll` is open */
    bool over;      /* beyond max_connections */
    bool shaking;   /* TLS, and has not sent a request line yet */
    bool awake;     /* shaking, and not suspended */
    bool suspended; /* the library does not touch it */
    struct sk_conn *prev, *next;
    struct sk_http_peer peer;
};

/* HEAD -> BODY -> HANDLED -> WHOLE | STREAM -> CLOSED
 *   \______\________________-> WHOLE (refused); any -> CLOSED (the client went away) */
enum sk_exchange_phase {
    SK_EXCHANGE_HEAD,
    SK_EXCHANGE_BODY,
    SK_EXCHANGE_HANDLED,
    SK_EXCHANGE_WHOLE,
    SK_EXCHANGE_STREAM,
    SK_EXCHANGE_CLOSED
};

struct sk_http_req {
    struct sk_http *http;
    struct sk_conn *conn;
    struct sk_buf queue;
    uint64_t last_ms; /* STREAM: when something was last queued */
    enum sk_exchange_phase phase;
    int status;
    bool is_head;
    bool long_url;
    bool bad_url; /* a control character in it, or a NUL */
    bool too_big; /* a chunked body beyond max_body: the rest is thrown away */
    bool counted; /* among n_active */
    bool inside;  /* on_request is on the stack */
    bool gone;    /* the client went away, or is being sent away */
    bool ended;   /* sk_http_end was called */
    bool is_cut;  /* a slow reader: the socket is shut, its end will be noticed */
    struct sk_buf body;
    struct MHD_Response *response; /* made while suspended, to be queued by the next call of the handler */
    size_t n_length;               /* Content-Length */
    size_t swallowed;              /* bytes of the body thrown away */
    void *user;
    void (*on_gone)(void *user);
    void (*on_free)(void *user);
    char id[SK_MHD_MAX_ID_BYTES + 1];
    char method[SK_MHD_MAX_METHOD_BYTES + 1];
    char path[]; /* as long as the URL */
};

/* mhd.c */
void sk_mhd_kick(struct sk_http *h);
void sk_mhd_handle_closed(uv_handle_t *handle); /* close callback of handles whose data is the sk_http */

/* conn.c */
int sk_conn_open_door(struct sk_http *h);
void sk_conn_close_door(struct sk_http *h);
void sk_conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                    enum MHD_ConnectionNotificationCode code);
struct sk_conn *sk_conn_of(struct MHD_Connection *mhd);
void sk_conn_suspend(struct sk_conn *c);
void sk_conn_resume(struct sk_conn *c);
/* From watch to unwatch the end of the connection makes its exchange gone. */
void sk_conn_watch(struct sk_conn *c);
void sk_conn_unwatch(struct sk_conn *c);
/* The client has request_timeout_ms from now, and longer for many bytes that it is to take. */
void sk_conn_due(struct sk_conn *c, size_t n_bytes);
/* After each MHD_run: those in a handshake sleep until bytes come. */
void sk_conn_rest(struct sk_http *h);
/* It has sent a request line: its TLS handshake, if it has one, is over. */
void sk_conn_greet(struct sk_conn *c);
/* Everything else follows from the end of the socket. */
void sk_conn_cut(struct sk_conn *c);

/* exchange.c: three callbacks of the library, and what moves an exchange */
void *sk_exchange_begin(void *cls, const char *uri, struct MHD_Connection *mhd);
enum MHD_Result sk_exchange_handle(void *cls, struct MHD_Connection *mhd, const char *url, const char *method,
                                   const char *version, const char *upload, size_t *upload_n, void **req);
void sk_exchange_complete(void *cls, struct MHD_Connection *mhd, void **req, enum MHD_RequestTerminationCode code);
void sk_exchange_to(struct sk_http_req *r, enum sk_exchange_phase phase);
/* It will not end well; the owner is told once. */
void sk_exchange_leave(struct sk_http_req *r);

/* answer.c */
/* Our own answer to what never reaches on_request; the connection is closed behind it. */
enum MHD_Result sk_answer_refuse(struct sk_http_req *r, int status, int code, const char *why);
enum MHD_Result sk_answer_queue(struct sk_http_req *r); /* r->response */
/* The same in the middle of a request, where the library takes no answer. Nothing else has been written since its first
 * line, so that an answer of our own is in place; the connection must then be closed. */
void sk_answer_interject(struct sk_http_req *r, int status, int code, const char *why);
/* A comment for a stream that has been silent for long. */
void sk_answer_keep_alive(struct sk_http_req *r, uint64_t now);

#endif
