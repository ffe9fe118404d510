#define _GNU_SOURCE /* accept4, struct ucred */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include "comm/base/log.h"
#include "comm/base/mem.h"
#include "server/http/mhd.h"

enum {
    SEND_BUFFER_BYTES = 64 << 10, /* the kernel's own tuning would take over 1 MB before we see a slow reader */
    MAX_ACCEPTS = 64,             /* in one turn of the loop */
    SPARE_CONNECTIONS = 64,       /* beyond max_connections: those get a 503 rather than silence */
    SPARE_MS = 2000,              /* and have so long to ask for it */
    MIN_BYTES_PER_MS = 64,        /* of a reader that takes an answer */
    COMPLAINT_MS = 10000
};

union address {
    struct sockaddr any;
    struct sockaddr_in in;
    struct sockaddr_in6 in6;
    struct sockaddr_un un;
};

/* --- the door --- */

static void on_door(uv_poll_t *p, int status, int events);
static void start_sweeper(struct sk_http *h);
static void on_sweep(uv_timer_t *t);

/* Who waits in the backlog comes in later. */
static void shut_door(struct sk_http *h, const char *why)
{
    uint64_t now = uv_now(h->loop);
    h->is_shut = true;
    uv_poll_stop(&h->door);
    start_sweeper(h);
    if (!h->complained_ms || now - h->complained_ms >= COMPLAINT_MS) {
        h->complained_ms = now;
        sk_log(SK_LOG_WARN, "http: new connections wait, %u are open: %s", h->n_conn, why);
    }
}

static void open_door_again(struct sk_http *h)
{
    if (!h->is_shut || h->conf.fd < 0)
        return;
    h->is_shut = false;
    uv_poll_start(&h->door, UV_READABLE, on_door);
}

int sk_conn_open_door(struct sk_http *h)
{
    if (uv_poll_init(h->loop, &h->door, h->conf.fd) != 0)
        return -SK_EIO;
    h->door.data = h;
    h->n_handles++;
    uv_poll_start(&h->door, UV_READABLE, on_door);
    return 0;
}

void sk_conn_close_door(struct sk_http *h)
{
    h->is_shut = false;
    uv_close((uv_handle_t *)&h->door, sk_mhd_handle_closed);
}

static void fill_peer(struct sk_http_peer *p, const union address *sa, int fd)
{
    struct ucred cred;
    socklen_t len = sizeof cred;
    const void *mapped = sa->in6.sin6_addr.s6_addr + 12;
    if (sa->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &sa->in.sin_addr, p->addr, sizeof p->addr);
    } else if (sa->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(&sa->in6.sin6_addr)) {
        inet_ntop(AF_INET, mapped, p->addr, sizeof p->addr);
    } else if (sa->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, &sa->in6.sin6_addr, p->addr, sizeof p->addr);
    } else if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) == 0) {
        *p = (struct sk_http_peer){
            .is_unix = true, .uid = cred.uid, .gid = cred.gid, .pid = (int)cred.pid, .addr = "unix"};
    }
}

/* The library closes the descriptor if it does not want it. */
static void let_in(struct sk_http *h, int fd, const union address *sa, socklen_t len)
{
    int bytes = SEND_BUFFER_BYTES;
    struct sk_conn *c = sk_calloc(1, sizeof *c);
    if (!c) {
        close(fd);
        return;
    }
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof bytes);
    c->http = h;
    c->fd = fd;
    fill_peer(&c->peer, sa, fd);
    h->newcomer = c;
    MHD_add_connection(h->daemon, fd, &sa->any, len);
    sk_free(h->newcomer);
    h->newcomer = NULL;
}

static void on_door(uv_poll_t *p, int status, int events)
{
    struct sk_http *h = p->data;
    for (int i = 0; i < MAX_ACCEPTS; i++) {
        union address sa = {0};
        socklen_t len = sizeof sa;
        if (h->n_conn >= (uint32_t)h->conf.limits->max_connections + SPARE_CONNECTIONS) {
            shut_door(h, "--max-connections is reached");
            return;
        }
        int fd = accept4(h->conf.fd, &sa.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0)
            let_in(h, fd, &sa, len);
        else if (errno == EAGAIN)
            return;
        else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            shut_door(h, strerror(errno));
            return;
        } /* else that connection is dead already */
    }
}

/* --- a connection's life --- */

struct sk_conn *sk_conn_of(struct MHD_Connection *mhd)
{
    return MHD_get_connection_info(mhd, MHD_CONNECTION_INFO_SOCKET_CONTEXT)->socket_context;
}

static void take_pair(struct sk_conn *c)
{
    const union MHD_ConnectionInfo *info = MHD_get_connection_info(c->mhd, MHD_CONNECTION_INFO_GNUTLS_SESSION);
    c->session = info ? info->tls_session : NULL;
    c->pair = c->session ? sk_tls_use(c->http->conf.tls, c->session) : NULL;
    if (!c->pair)
        shutdown(c->fd, SHUT_RDWR);
}

static void begin(struct sk_http *h, struct sk_conn *c)
{
    c->over = h->n_conn >= (uint32_t)h->conf.limits->max_connections;
    c->deadline = c->over ? uv_now(h->loop) + SPARE_MS : 0;
    sk_conn_due(c, 0);
    c->next = h->conns;
    if (c->next)
        c->next->prev = c;
    h->conns = c;
    h->n_conn++;
    start_sweeper(h);
    if (h->conf.tls) {
        c->shaking = c->awake = true;
        h->n_awake++;
        take_pair(c);
        sk_mhd_kick(h);
    }
}

void sk_conn_greet(struct sk_conn *c)
{
    c->http->n_awake -= c->awake;
    c->awake = c->shaking = false;
    sk_conn_unwatch(c);
}

static void on_poll_closed(uv_handle_t *handle)
{
    struct sk_conn *c = handle->data;
    handle->data = c->http;
    sk_mhd_handle_closed(handle);
    sk_free(c);
}

static void end(struct sk_http *h, struct sk_conn *c)
{
    *(c->prev ? &c->prev->next : &h->conns) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    h->n_conn--;
    sk_conn_greet(c);
    sk_tls_release(c->pair);
    if (c->has_poll)
        uv_close((uv_handle_t *)&c->poll, on_poll_closed);
    else
        sk_free(c);
    open_door_again(h);
}

void sk_conn_notify(void *cls, struct MHD_Connection *mhd, void **socket_context,
                    enum MHD_ConnectionNotificationCode code)
{
    struct sk_http *h = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        struct sk_conn *c = h->newcomer;
        h->newcomer = NULL;
        c->mhd = mhd;
        *socket_context = c;
        begin(h, c);
    } else {
        end(h, *socket_context);
    }
}

void sk_conn_suspend(struct sk_conn *c)
{
    c->suspended = true;
    MHD_suspend_connection(c->mhd);
}

void sk_conn_resume(struct sk_conn *c)
{
    if (!c->suspended)
        return;
    c->suspended = false;
    if (c->shaking) {
        c->awake = true;
        c->http->n_awake++;
    }
    MHD_resume_connection(c->mhd);
    sk_mhd_kick(c->http);
}

/* Bytes for a handshake; else FIN, RST and half-close alike: nobody waits for the answer. */
static void on_poll(uv_poll_t *p, int status, int events)
{
    struct sk_conn *c = p->data;
    uv_poll_stop(p);
    if (c->req)
        sk_exchange_leave(c->req);
    sk_conn_resume(c);
}

static bool watch(struct sk_conn *c, int events)
{
    if (!c->has_poll) {
        if (uv_poll_init(c->http->loop, &c->poll, c->fd) != 0)
            return false;
        c->poll.data = c;
        c->has_poll = true;
        c->http->n_handles++;
    }
    uv_poll_start(&c->poll, events, on_poll);
    return true;
}

void sk_conn_watch(struct sk_conn *c)
{
    watch(c, UV_DISCONNECT); /* out of memory: the end is found by the next write */
}

void sk_conn_unwatch(struct sk_conn *c)
{
    if (c->has_poll)
        uv_poll_stop(&c->poll);
}

/* In a TLS handshake the library asks to run again at once until it is over: it sleeps while no bytes come. */
static void await_bytes(struct sk_conn *c)
{
    if (watch(c, UV_READABLE | UV_DISCONNECT))
        sk_conn_suspend(c);
}

void sk_conn_rest(struct sk_http *h)
{
    for (struct sk_conn *c = h->conns; c && h->n_awake > 0; c = c->next) {
        if (!c->awake)
            continue;
        c->awake = false;
        h->n_awake--;
        await_bytes(c);
    }
}

/* What was suspended is looked at by the next MHD_run, whatever its epoll says. What is being handled right now is
 * looked at anyway. */
static void nudge(struct sk_conn *c)
{
    if (!c->suspended && !c->http->running)
        sk_conn_suspend(c);
    sk_conn_resume(c);
}

void sk_conn_cut(struct sk_conn *c)
{
    shutdown(c->fd, SHUT_RDWR);
    nudge(c);
}

/* --- time --- */

void sk_conn_due(struct sk_conn *c, size_t n_bytes)
{
    const struct sk_http *h = c->http;
    if (c->over && c->deadline)
        return;
    c->deadline = uv_now(h->loop) + (uint64_t)h->conf.limits->request_timeout_ms + n_bytes / MIN_BYTES_PER_MS;
}

static bool is_sending(const struct sk_conn *c) /* the client, its request */
{
    return !c->req || c->req->phase == SK_EXCHANGE_HEAD || c->req->phase == SK_EXCHANGE_BODY;
}

static void expire(struct sk_conn *c)
{
    c->deadline = 0;
    if (c->req && is_sending(c))
        sk_answer_interject(c->req, 408, SK_ETIMEOUT, "The request took too long to arrive.");
    else if (c->req)
        sk_log(SK_LOG_WARN, "http cut id=%s: the answer is read too slowly", c->req->id);
    sk_conn_cut(c);
}

/* A client that owes us bytes and has sent them, or has closed: the library has missed it. A half-close behind a whole
 * request is none: by then nothing is due. */
static void look(struct sk_conn *c)
{
    char byte;
    ssize_t n = recv(c->fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (n >= 0 || (errno != EAGAIN && errno != EINTR))
        nudge(c);
}

static uint64_t sweep_ms(const struct sk_http_limits *l)
{
    int least = l->keepalive_ms < l->request_timeout_ms ? l->keepalive_ms : l->request_timeout_ms;
    int ms = least / 4;
    return (uint64_t)(ms < 25 ? 25 : ms > 1000 ? 1000 : ms);
}

static void start_sweeper(struct sk_http *h)
{
    if (!h->closing && !uv_is_active((uv_handle_t *)&h->sweeper))
        uv_timer_start(&h->sweeper, on_sweep, sweep_ms(h->conf.limits), 0);
}

static void on_sweep(uv_timer_t *t)
{
    struct sk_http *h = t->data;
    uint64_t now = uv_now(h->loop);
    for (struct sk_conn *c = h->conns; c; c = c->next) {
        if (c->deadline && is_sending(c))
            look(c);
        if (c->deadline && c->deadline <= now)
            expire(c);
        else if (c->req)
            sk_answer_keep_alive(c->req, now);
    }
    open_door_again(h);
    if (h->n_conn > 0)
        start_sweeper(h);
}

void sk_http_peer(const struct sk_http_req *r, struct sk_http_peer *ret)
{
    *ret = r->conn->peer;
}
